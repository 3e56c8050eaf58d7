//! Networks that look at the last few items and at whose they are.

use candle_core::{Result, Tensor};

use super::History;
use crate::ops;

/// The longest history that is cut into its last `width` items, of which the second half of a window sees all.
pub(super) fn longest(width: usize) -> usize {
    (2 * width).max(50)
}

/// The last items at every item of some histories, oldest first; fewer where fewer were there.
#[derive(Debug)]
pub(super) struct Recent {
    /// (tokens * width), item 0 where none was there.
    items: Vec<u32>,
    /// One where an item was there, else zero.
    there: Vec<f32>,
    width: usize,
    /// Of each token.
    pub(super) users: Vec<Option<u32>>,
}

impl Recent {
    /// At most the last `width` items at each.
    pub(super) fn of(histories: &[History<'_>], width: usize) -> Self {
        let (mut items, mut there, mut users) = (Vec::new(), Vec::new(), Vec::new());
        for history in histories {
            for end in 1..=history.items.len() {
                let last = &history.items[end.saturating_sub(width)..end];
                let missing = width - last.len();
                items.extend(std::iter::repeat_n(0, missing).chain(last.iter().copied()));
                there.extend((0..width).map(|at| if at < missing { 0.0 } else { 1.0 }));
                users.push(history.user);
            }
        }
        Self { items, there, width, users }
    }

    /// Their rows in `table` (items, dim), zeros where none was there: (tokens, width, dim).
    pub(super) fn embedded(&self, table: &Tensor) -> Result<Tensor> {
        let (tokens, dim) = (self.users.len(), table.dim(1)?);
        let x = ops::embedding(table, &self.items)?.reshape((tokens, self.width, dim))?;
        x.broadcast_mul(&self.there(table)?)
    }

    /// Ones where an item was there, else zeros: (tokens, width, 1), of the type of `like`.
    pub(super) fn there(&self, like: &Tensor) -> Result<Tensor> {
        let shape = (self.users.len(), self.width, 1);
        Tensor::from_slice(&self.there, shape, like.device())?.to_dtype(like.dtype())
    }
}

/// A row for every user of training.
#[derive(Debug, Clone)]
pub(super) struct Users {
    /// (users, dim)
    rows: Tensor,
    /// What each has in the mean of all that are trained, (1, users).
    shares: Tensor,
}

impl Users {
    /// `rows`, which a training changes where `trained` says so.
    pub(super) fn new(rows: Tensor, trained: &[bool]) -> Result<Self> {
        let known = trained.iter().filter(|is| **is).count();
        let share = |&is: &bool| if is { 1.0 / known as f64 } else { 0.0 };
        let shares: Vec<f64> = trained.iter().map(share).collect();
        let shares = Tensor::from_vec(shares, (1, trained.len()), rows.device())?;
        Ok(Self { shares: shares.to_dtype(rows.dtype())?, rows })
    }

    /// The rows of some users, (users, dim); who was not there is like those that were trained, on average.
    pub(super) fn embedded(&self, users: &[Option<u32>]) -> Result<Tensor> {
        if users.iter().all(Option::is_some) {
            let users: Vec<u32> = users.iter().flatten().copied().collect();
            return ops::embedding(&self.rows, &users);
        }
        if users.iter().all(Option::is_none) {
            return self.average()?.broadcast_as((users.len(), self.rows.dim(1)?))?.contiguous();
        }
        let table = Tensor::cat(&[&self.rows, &self.average()?], 0)?;
        let stranger = self.rows.dim(0)? as u32;
        let users: Vec<u32> = users.iter().map(|user| user.unwrap_or(stranger)).collect();
        ops::embedding(&table, &users)
    }

    /// The mean of the trained rows, (1, dim): as a product, which is much faster than a sum over the first axis.
    fn average(&self) -> Result<Tensor> {
        self.shares.matmul(&self.rows)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_stranger_is_like_those_that_were_trained() {
        let rows = Tensor::new(&[[1f32, 2.0], [7.0, 7.0], [3.0, 6.0]], &Device::Cpu).unwrap();
        let users = Users::new(rows, &[true, false, true]).unwrap();
        let found = |asked: &[Option<u32>]| -> Vec<Vec<f32>> {
            users.embedded(asked).unwrap().to_vec2().unwrap()
        };
        assert_eq!(found(&[None, None]), [[2.0, 4.0], [2.0, 4.0]]);
        assert_eq!(found(&[Some(2), None]), [[3.0, 6.0], [2.0, 4.0]]);
    }
}
