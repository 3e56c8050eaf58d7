//! Which rank takes the optimiser's step for which values: of every parameter neighbouring rows, as many on each rank
//! (the first of the three divisions of `ZeRO`, Rajbhandari et al., 2020).

use std::ops::Range;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Tensor, bail};

use super::Params;
use super::params::row_len;
use crate::ops::slices;
use crate::ranks::Ranks;

/// Where the ranks' parts of the trained rows of a parameter begin and end, in values; none where every rank takes the
/// step for all of them, as where the values are not in this process's memory.
pub(super) fn bounds(ranks: &dyn Ranks, rows: &Tensor) -> Option<Vec<usize>> {
    let width = row_len(rows);
    let count = rows.elem_count() / width.max(1);
    let bound = |rank: usize| count * rank / ranks.size() * width;
    (!ranks.is_alone() && slices::serve(&[rows])).then(|| (0..=ranks.size()).map(bound).collect())
}

/// The part of the trained rows that this rank takes the step for.
pub(super) fn own(ranks: &dyn Ranks, rows: &Tensor) -> Range<usize> {
    match bounds(ranks, rows) {
        Some(bounds) => bounds[ranks.rank()]..bounds[ranks.rank() + 1],
        None => 0..rows.elem_count(),
    }
}

/// Puts the values of each rank's own parts in their places on all.
pub fn spread(ranks: &dyn Ranks, params: &Params) -> Result<()> {
    for (_, rows) in params.trained_rows() {
        let rows = rows?;
        if let Some(bounds) = bounds(ranks, &rows) {
            spread_rows(ranks, &rows, &bounds)?;
        }
    }
    Ok(())
}

/// As [`spread`], of the trained rows of one parameter, or of a tensor of their shape.
pub(super) fn spread_rows(ranks: &dyn Ranks, rows: &Tensor, bounds: &[usize]) -> Result<()> {
    let detached = rows.detach();
    if detached.dtype() == DType::F32 {
        return detached.inplace_op1(&Spread { ranks, bounds });
    }
    // Exact for bf16.
    let mut values = detached.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    ranks.spread(&mut values, bounds);
    let all = Tensor::from_vec(values, rows.shape(), rows.device())?;
    detached.slice_set(&all.to_dtype(rows.dtype())?, 0, 0)
}

/// [`Ranks::spread`] on the values where they lie.
struct Spread<'a> {
    ranks: &'a dyn Ranks,
    bounds: &'a [usize],
}

impl InplaceOp1 for Spread<'_> {
    fn name(&self) -> &'static str {
        "spread"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets())
        else {
            bail!("contiguous f32 tensors are spread in place");
        };
        self.ranks.spread(&mut values[start..end], self.bounds);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use candle_core::Device;

    use super::*;
    use crate::nn::{AdamW, AdamWConfig, Average, GradientSum, Gradients, MomentType};
    use crate::ranks::{Alone, Threads};
    use crate::rng;

    /// What is left of some steps: parameters, moments, averages, and the norms of the gradients.
    type Left = (BTreeMap<String, Vec<f32>>, BTreeMap<String, Vec<f32>>, Vec<f64>);

    /// Moments that rank 0 has saved.
    type Saved = Mutex<BTreeMap<String, Tensor>>;

    fn values(tensors: &BTreeMap<String, Tensor>) -> BTreeMap<String, Vec<f32>> {
        let value = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1();
        tensors.iter().map(|(name, t)| (name.clone(), value(t).unwrap())).collect()
    }

    fn draws(label: &str, count: usize) -> Vec<f32> {
        rng::normal(&mut rng::stream(5, label, &[]), count, 1.0)
    }

    /// The gradient of one step, of which each rank brings a part.
    fn gradients(params: &Params, tables: [&Tensor; 3], step: u64, ranks: &dyn Ranks) -> Gradients {
        let [matrix, table, vector] = tables;
        let mut sum = GradientSum::new(params, None);
        for part in 0..6u64 {
            // One rank has them all, of several each has some.
            if !ranks.is_alone() && part as usize % ranks.size() != ranks.rank() {
                continue;
            }
            let label = format!("{step} {part}");
            for weight in [matrix, vector] {
                let sum = sum.adding_to(weight).unwrap();
                let more = draws(&label, sum.values.len());
                sum.values.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            }
            let row = 2 + part as u32;
            sum.add_rows(table, &[row], &draws(&label, 3));
        }
        sum.finish(|_| true).unwrap()
    }

    /// Some steps on a matrix, a table of which some rows are trained, and a vector, the moments saved half way.
    fn train(ranks: &dyn Ranks, dtype: DType, moments: MomentType, saved: &Saved) -> Left {
        let tensor = |label, dims: &[usize]| {
            let values = draws(label, dims.iter().product());
            Tensor::from_vec(values, dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
        };
        let mut params = Params::new();
        let matrix = params.insert("matrix", &tensor("matrix", &[7, 4])).unwrap();
        let table = params.insert_rows("table", &tensor("table", &[9, 3]), 2).unwrap();
        let vector = params.insert("vector", &tensor("vector", &[2])).unwrap();
        let config = AdamWConfig { moments, ..AdamWConfig::default() };
        let mut adam = AdamW::divided(&params, config, ranks).unwrap();
        let mut average = Average::new(&params, 0.9).unwrap();
        let mut norms = Vec::new();
        for step in 0..6 {
            let mut of_step = gradients(&params, [&matrix, &table, &vector], step, ranks);
            of_step.sum_over(ranks, &params).unwrap();
            norms.push(of_step.norm(ranks, &params).unwrap());
            adam.step(&params, &of_step, 0.1, 0.5).unwrap();
            spread(ranks, &params).unwrap();
            average.update(&params, step + 1, ranks).unwrap();
            if step == 2 {
                // Whoever goes on from a state has it whole, as rank 0 has saved it.
                let state = adam.state(&params, ranks).unwrap();
                if ranks.is_first() {
                    *saved.lock().unwrap() = state;
                }
                ranks.any(false);
                adam = AdamW::divided(&params, config, ranks).unwrap();
                adam.restore(&params, step + 1, &saved.lock().unwrap()).unwrap();
            }
        }
        average.spread(&params, ranks).unwrap();
        let mut left = values(average.state());
        let state = adam.state(&params, ranks).unwrap();
        assert_eq!(state.is_empty(), !ranks.is_first());
        if ranks.is_first() {
            *saved.lock().unwrap() = state;
        }
        ranks.any(false);
        left.extend(values(&saved.lock().unwrap()));
        (values(&params.snapshot().unwrap()), left, norms)
    }

    fn close(a: &BTreeMap<String, Vec<f32>>, b: &BTreeMap<String, Vec<f32>>, far: f32) {
        assert!(a.keys().eq(b.keys()));
        for (name, a) in a {
            assert!(a.iter().zip(&b[name]).all(|(a, b)| (a - b).abs() <= far), "{name}");
        }
    }

    #[test]
    fn several_ranks_take_the_steps_of_one() {
        for (dtype, moments, far) in [
            (DType::F32, MomentType::F32, 1e-5),
            // Sums in another order may round to the next bf16.
            (DType::BF16, MomentType::F32, 0.04),
            (DType::F32, MomentType::Bf16, 0.04),
        ] {
            let alone = train(&Alone, dtype, moments, &Saved::default());
            for size in [2, 3, 5] {
                let saved = Saved::default();
                let shared = Threads::run(size, |ranks| train(ranks, dtype, moments, &saved));
                assert!(shared.iter().all(|of_rank| *of_rank == shared[0]), "{size} ranks");
                let (params, left, norms) = &shared[0];
                close(params, &alone.0, far);
                close(left, &alone.1, far);
                assert!(norms.iter().zip(&alone.2).all(|(a, b)| (a - b).abs() < 1e-5));
            }
        }
    }
}
