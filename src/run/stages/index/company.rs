//! Embeddings of items that have none of their own, made of those of the items that were taken beside them.

use std::collections::BTreeMap;

use ndarray::{Array1, Array2, ArrayView1};

use crate::data::Dataset;

/// Gives each item that `lacks` an embedding the mean of those of the items taken right before and after it in
/// training, else of all; of those that have one.
///
/// `z` is of shape (items, width).
pub(super) fn fill(dataset: &Dataset, z: &mut Array2<f32>, lacks: &[bool]) {
    if !lacks.contains(&true) {
        return;
    }
    let width = z.ncols();
    let mut company: BTreeMap<usize, Mean> = BTreeMap::new();
    for taken in dataset.train_sequences() {
        for pair in taken.windows(2) {
            for (item, near) in [(pair[0], pair[1]), (pair[1], pair[0])] {
                let (item, near) = (item as usize, near as usize);
                if lacks[item] && !lacks[near] {
                    company.entry(item).or_insert_with(|| Mean::of(width)).add(z.row(near));
                }
            }
        }
    }
    let mut all = Mean::of(width);
    for (row, _) in z.rows().into_iter().zip(lacks).filter(|(_, lacks)| !**lacks) {
        all.add(row);
    }
    for (item, mut row) in z.rows_mut().into_iter().enumerate().filter(|(item, _)| lacks[*item]) {
        row.assign(&company.get(&item).unwrap_or(&all).value());
    }
}

/// A mean of rows, as they come in; zero of none.
struct Mean {
    sum: Array1<f32>,
    count: f32,
}

impl Mean {
    fn of(width: usize) -> Self {
        Self { sum: Array1::zeros(width), count: 0.0 }
    }

    fn add(&mut self, row: ArrayView1<'_, f32>) {
        self.sum += &row;
        self.count += 1.0;
    }

    fn value(&self) -> Array1<f32> {
        &self.sum / self.count.max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::data::{Item, User};

    #[test]
    fn an_item_is_as_those_beside_it_else_as_all() {
        // The last two of a user are held out.
        let user = |id: &str, items: &[u32]| User { id: id.into(), items: items.to_vec() };
        let users = vec![
            user("a", &[0, 1, 2, 4, 4]),
            user("b", &[3, 1, 0, 1, 3]),
            user("c", &[1, 4, 0, 2]),
        ];
        let data = Dataset::new("shop", users, vec![Item::default(); 5]).unwrap();
        let own = array![[8.0, 0.0], [0.0, 0.0], [2.0, 2.0], [2.0, 4.0], [0.0, 0.0]];
        let mut z = own.clone();
        fill(&data, &mut z, &[false, true, false, false, true]);
        // Item 1 stands beside 0 and 2, and 3 and 0; 4 beside 1, which has none either, or where it is held out.
        let mut expected = own;
        expected.row_mut(1).assign(&array![5.0, 1.5]);
        expected.row_mut(4).assign(&array![4.0, 2.0]);
        assert_eq!(z, expected);
    }
}
