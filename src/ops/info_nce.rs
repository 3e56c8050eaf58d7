//! The contrastive loss of global contrast decompression: `InfoNCE` (van den Oord et al., 2018, equation 4).

use std::ops::Range;
use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;

use super::cpu::{self, with_float};
use super::fused_on_cpu;
use super::kernels::{
    Float, Mat, MatMut, Precision, Threads, Update, dot, matmul, max, sum_of, vectorize,
};
use super::log_softmax::probabilities;

/// What a query is held against.
#[derive(Debug, Clone, Copy)]
pub struct Contrast<'a> {
    /// The target's embedding for each query, (n, dim); a constant.
    pub positives: &'a Tensor,
    /// Embeddings shared by all queries, (m, dim); constants.
    pub negatives: &'a Tensor,
    /// The target item of each query, n ids.
    pub targets: &'a [u32],
    /// The item of each negative, m ids; a negative that is a query's target does not count against it.
    pub negative_ids: &'a [u32],
    /// The temperature that divides the cosines.
    pub temperature: f64,
}

/// What [`info_nce`] gives.
#[derive(Debug, Clone)]
pub struct InfoNce {
    /// The loss of each query, (n).
    pub losses: Tensor,
    /// How many queries have their positive nearer than every negative.
    pub top1: f64,
}

/// The negative log-softmax of each query's positive among the positive and all negatives, by cosine
/// over temperature. The gradient reaches the query only.
///
/// # Shapes
/// - `query`: (n, dim)
pub fn info_nce(query: &Tensor, contrast: &Contrast<'_>) -> Result<InfoNce> {
    contrast.check(query)?;
    let both = if fused_on_cpu(&[query, contrast.positives, contrast.negatives]) {
        let op = Fused {
            positives: contrast.positives.contiguous()?.detach(),
            negatives: contrast.negatives.contiguous()?.detach(),
            targets: contrast.targets.into(),
            negative_ids: contrast.negative_ids.into(),
            temperature: contrast.temperature,
        };
        query.contiguous()?.apply_op1(op)?
    } else {
        composed_info_nce(query, contrast)?
    };
    let first = both.get(1)?.detach().to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
    Ok(InfoNce { losses: both.get(0)?, top1: first })
}

/// (2, n): the losses, and 1 where the positive is the nearest, else 0.
fn composed_info_nce(query: &Tensor, contrast: &Contrast<'_>) -> Result<Tensor> {
    let logits = contrast.logits(query)?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let total = shifted.exp()?.sum(D::Minus1)?.log()?;
    let losses = (total - shifted.narrow(1, 0, 1)?.squeeze(1)?)?;
    let logits = logits.detach();
    let (positive, rest) = (logits.narrow(1, 0, 1)?, logits.narrow(1, 1, logits.dim(1)? - 1)?);
    let first = if rest.dim(1)? == 0 {
        losses.ones_like()?
    } else {
        let first = positive.squeeze(1)?.gt(&rest.contiguous()?.max(D::Minus1)?)?;
        first.to_dtype(losses.dtype())?
    };
    Tensor::stack(&[losses, first.detach()], 0)
}

impl Contrast<'_> {
    fn check(&self, query: &Tensor) -> Result<()> {
        let ((n, _), (m, _)) = (query.dims2()?, self.negatives.dims2()?);
        let fits = self.positives.dims() == query.dims()
            && self.negatives.dim(1)? == query.dim(1)?
            && self.targets.len() == n
            && self.negative_ids.len() == m;
        if !fits {
            bail!(
                "info_nce: query {:?}, positives {:?} with {} targets, negatives {:?} with {} ids",
                query.dims(),
                self.positives.dims(),
                self.targets.len(),
                self.negatives.dims(),
                self.negative_ids.len()
            );
        }
        if self.temperature.is_nan() || self.temperature <= 0.0 {
            bail!("info_nce: the temperature {} is not positive", self.temperature);
        }
        Ok(())
    }

    /// (n, 1 + m), the positive first.
    fn logits(&self, query: &Tensor) -> Result<Tensor> {
        let query = unit_rows(query)?;
        let positives = unit_rows(&self.positives.detach())?;
        let positive = (&query * positives)?.sum_keepdim(D::Minus1)?;
        if self.negative_ids.is_empty() {
            return positive / self.temperature;
        }
        let negatives = unit_rows(&self.negatives.detach())?;
        let negative = (query.matmul(&negatives.t()?)? + self.same_item_mask(&query)?)?;
        Tensor::cat(&[positive, negative], 1)? / self.temperature
    }

    /// (n, m): minus infinity where a negative is the query's own target, else 0.
    fn same_item_mask(&self, like: &Tensor) -> Result<Tensor> {
        let shape = (self.targets.len(), self.negative_ids.len());
        let targets = Tensor::from_slice(self.targets, (shape.0, 1), like.device())?;
        let negatives = Tensor::from_slice(self.negative_ids, (1, shape.1), like.device())?;
        let zeros = Tensor::zeros(shape, like.dtype(), like.device())?;
        let hidden =
            Tensor::full(f32::NEG_INFINITY, shape, like.device())?.to_dtype(like.dtype())?;
        targets.broadcast_eq(&negatives)?.where_cond(&hidden, &zeros)
    }
}

/// Each row divided by its Euclidean norm; a row of zeros stays.
fn unit_rows(x: &Tensor) -> Result<Tensor> {
    // Inside the root, so that the gradient at zero is finite.
    let norm = (x.sqr()?.sum_keepdim(D::Minus1)? + TINY)?.sqrt()?;
    x.broadcast_div(&norm)
}

/// Added to a squared norm.
const TINY: f64 = 1e-12;
/// Bytes of logits held at a time.
const CHUNK_BYTES: usize = 8 << 20;
/// Rows a chunk has at least: each chunk reads all negatives.
const MIN_CHUNK_ROWS: usize = 64;

struct Fused {
    positives: Tensor,
    negatives: Tensor,
    targets: Arc<[u32]>,
    negative_ids: Arc<[u32]>,
    temperature: f64,
}

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "info-nce"
    }

    fn cpu_fwd(&self, query: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, dim) = layout.shape().dims2()?;
        with_float!(query.dtype(), T => {
            let mut out = vec![<T as Default>::default(); 2 * n];
            let (losses, first) = out.split_at_mut(n);
            self.chunks::<T>(cpu::slice(query, layout)?, dim, |chunk| {
                let rows = chunk.logits.par_chunks(chunk.negatives).zip(&chunk.positive);
                let outputs = losses[chunk.rows.clone()].par_iter_mut();
                let outputs = outputs.zip(&mut first[chunk.rows.clone()]);
                outputs.zip(rows).for_each(|((loss, first), (row, &positive))| {
                    let largest = max(row);
                    *loss = log_sum_exp(row, positive) - positive;
                    *first = if positive > largest { T::from_f64(1.0) } else { T::from_f64(0.0) };
                });
                Ok(())
            })?;
            Ok((T::to_cpu_storage_owned(out), (2, n).into()))
        })
    }

    fn bwd(&self, query: &Tensor, out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (n, dim) = query.dims2()?;
        let grad = grad.contiguous()?;
        let (values, out, grad) = (cpu::values(query), cpu::values(out), cpu::values(&grad));
        with_float!(query.dtype(), T => {
            let (losses, grad) = (&out.slice::<T>()?[..n], &grad.slice::<T>()?[..n]);
            let mut query_grad = vec![<T as Default>::default(); n * dim];
            let scale = T::from_f64(1.0 / self.temperature);
            self.chunks::<T>(values.slice()?, dim, |chunk| {
                // The gradient of the logits, in their place.
                let rows = chunk.rows.clone();
                let logits = chunk.logits.par_chunks_mut(chunk.negatives);
                let inputs = losses[rows.clone()].par_iter().zip(&grad[rows.clone()]);
                logits.zip(&mut chunk.positive).zip(inputs).for_each(
                    |((row, positive), (&loss, &grad))| {
                        let total = loss + *positive;
                        probabilities(row, total, grad * scale);
                        *positive = ((*positive - total).exp() - T::from_f64(1.0)) * grad * scale;
                    },
                );
                let part = &mut query_grad[rows.start * dim..rows.end * dim];
                if chunk.negatives_unit.is_empty() {
                    part.fill(T::from_f64(0.0));
                } else {
                    let change = Mat::new(&chunk.logits, rows.len(), chunk.negatives);
                    let negatives = Mat::new(chunk.negatives_unit, chunk.negatives, dim);
                    let mut view = MatMut::new(part, rows.len(), dim);
                    matmul(
                        &mut view, change, negatives, Update::Overwrite, Threads::All, Precision::Full,
                    );
                }
                // Then through the division of the query by its norm.
                let units = chunk.unit.chunks_exact(dim).zip(chunk.positives_unit.chunks_exact(dim));
                let factors = chunk.positive.iter().zip(&chunk.norms);
                for ((part, (unit, towards)), (&factor, &norm)) in
                    part.chunks_exact_mut(dim).zip(units).zip(factors)
                {
                    for (g, &p) in part.iter_mut().zip(towards) {
                        *g += factor * p;
                    }
                    let along = dot(part, unit);
                    for (g, &u) in part.iter_mut().zip(unit) {
                        *g = (*g - u * along) / norm;
                    }
                }
                Ok(())
            })?;
            cpu::tensor(query_grad, (n, dim)).map(Some)
        })
    }
}

/// Some queries against everything.
struct Chunk<'a, T> {
    rows: Range<usize>,
    /// Queries, divided by their norms, and these norms.
    unit: Vec<T>,
    norms: Vec<T>,
    /// Their positives and all negatives, divided by their norms.
    positives_unit: Vec<T>,
    negatives_unit: &'a [T],
    /// How many negatives there are; at least 1, as the width of `logits`.
    negatives: usize,
    /// Cosine over temperature with the positive, (rows), and with the negatives, (rows, negatives).
    positive: Vec<T>,
    logits: Vec<T>,
}

impl Fused {
    /// Hands the queries to `f` in chunks whose size does not depend on the number of threads.
    fn chunks<T: Float>(
        &self,
        query: &[T],
        dim: usize,
        mut f: impl FnMut(&mut Chunk<'_, T>) -> Result<()>,
    ) -> Result<()> {
        let (positives, negatives) = (cpu::values(&self.positives), cpu::values(&self.negatives));
        let (negatives_unit, _) = unit::<T>(negatives.slice()?, dim);
        let positives = positives.slice::<T>()?;
        let m = self.negative_ids.len();
        // A negative that is never near stands for none.
        let width = m.max(1);
        let step = (CHUNK_BYTES / (width * size_of::<T>())).max(MIN_CHUNK_ROWS);
        let scale = T::from_f64(1.0 / self.temperature);
        for first in (0..self.targets.len()).step_by(step) {
            let rows = first..self.targets.len().min(first + step);
            let (unit_query, norms) = unit(&query[rows.start * dim..rows.end * dim], dim);
            let (positives_unit, _) = unit(&positives[rows.start * dim..rows.end * dim], dim);
            let mut logits = vec![T::NEG_INFINITY; rows.len() * width];
            if m > 0 {
                let lhs = Mat::new(&unit_query, rows.len(), dim);
                let rhs = Mat::new(&negatives_unit, m, dim).t();
                let mut view = MatMut::new(&mut logits, rows.len(), m);
                matmul(&mut view, lhs, rhs, Update::Overwrite, Threads::All, Precision::Full);
                let targets = &self.targets[rows.clone()];
                logits.par_chunks_mut(m).zip(targets).for_each(|(row, target)| {
                    for (value, id) in row.iter_mut().zip(&*self.negative_ids) {
                        *value = if id == target { T::NEG_INFINITY } else { *value * scale };
                    }
                });
            }
            let pairs = unit_query.chunks_exact(dim).zip(positives_unit.chunks_exact(dim));
            let positive = pairs.map(|(q, p)| dot(q, p) * scale).collect();
            f(&mut Chunk {
                rows,
                unit: unit_query,
                norms,
                positives_unit,
                negatives_unit: &negatives_unit,
                negatives: width,
                positive,
                logits,
            })?;
        }
        Ok(())
    }
}

/// The rows of `x` divided by their norms, and the norms.
fn unit<T: Float>(x: &[T], dim: usize) -> (Vec<T>, Vec<T>) {
    let norms: Vec<T> =
        x.chunks_exact(dim).map(|row| (dot(row, row) + T::from_f64(TINY)).sqrt()).collect();
    let rows = x.chunks_exact(dim).zip(&norms);
    (rows.flat_map(|(row, &norm)| row.iter().map(move |&v| v / norm)).collect(), norms)
}

/// The logarithm of the sum of the exponentials of `row` and `positive`.
fn log_sum_exp<T: Float>(row: &[T], positive: T) -> T {
    vectorize(
        #[inline(always)]
        || {
            let largest = max(row);
            let largest = if positive > largest { positive } else { largest };
            let sum = sum_of(row, |v| (v - largest).exp()) + (positive - largest).exp();
            largest + sum.ln()
        },
    )
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::check::{
        beside, check, fused_equals_composed, random, same_on_any_threads, values,
    };

    /// 70 queries and 900 negatives, of which some are the target of a query.
    fn many(f: impl Fn(&[Tensor], &dyn Fn(&[Tensor]) -> Result<Tensor>)) {
        let (positives, negatives) = (random((70, 6), 2), random((900, 6), 3));
        let targets: Vec<u32> = (0..70).map(|i| i * 40).collect();
        let negative_ids: Vec<u32> = (0..900).collect();
        f(&[random((70, 6), 1)], &|t| {
            let (positives, negatives) = (beside(&positives, &t[0])?, beside(&negatives, &t[0])?);
            let contrast = Contrast {
                positives: &positives,
                negatives: &negatives,
                targets: &targets,
                negative_ids: &negative_ids,
                temperature: 0.3,
            };
            let both = info_nce(&t[0], &contrast)?;
            both.losses + both.top1
        });
    }

    #[test]
    fn many_queries_equal_the_composed_path_on_any_threads() {
        many(|inputs, f| fused_equals_composed(inputs, f));
        let inputs = [random((70, 6), 1)];
        let (positives, negatives) = (random((70, 6), 2), random((900, 6), 3));
        let [positives, negatives] =
            [positives, negatives].map(|t| t.to_dtype(DType::F32).unwrap());
        let targets: Vec<u32> = (0..70).collect();
        let ids: Vec<u32> = (0..900).collect();
        same_on_any_threads(&inputs, |t| {
            let contrast = Contrast {
                positives: &positives,
                negatives: &negatives,
                targets: &targets,
                negative_ids: &ids,
                temperature: 0.3,
            };
            Ok(info_nce(&t[0], &contrast)?.losses)
        });
    }

    #[test]
    fn gradients() {
        let (positives, negatives) = (random((3, 5), 2), random((4, 5), 3));
        let contrast = Contrast {
            positives: &positives,
            negatives: &negatives,
            targets: &[7, 8, 9],
            negative_ids: &[1, 8, 2, 3],
            temperature: 0.1,
        };
        let no_negatives =
            Contrast { negatives: &random((0, 5), 1), negative_ids: &[], ..contrast };
        for contrast in [contrast, no_negatives] {
            check(&[random((3, 5), 1)], |t| {
                let [positives, negatives] =
                    [contrast.positives, contrast.negatives].map(|x| beside(x, &t[0]).unwrap());
                let contrast =
                    Contrast { positives: &positives, negatives: &negatives, ..contrast };
                Ok(info_nce(&t[0], &contrast)?.losses)
            });
        }
    }

    #[test]
    fn hand_calculation_with_a_masked_negative() {
        let query = Tensor::new(&[[2.0, 0.0], [0.0, 3.0]], &Device::Cpu).unwrap();
        let positives = Tensor::new(&[[5.0, 0.0], [1.0, 0.0]], &Device::Cpu).unwrap();
        let negatives = Tensor::new(&[[0.0, 1.0], [4.0, 0.0]], &Device::Cpu).unwrap();
        let contrast = Contrast {
            positives: &positives,
            negatives: &negatives,
            targets: &[4, 5],
            negative_ids: &[6, 4],
            temperature: 0.5,
        };
        // Query 0: positive cosine 1, negative 0, the second negative is its own target.
        // Query 1: positive cosine 0, negatives 1 and 0.
        let expected = [(1.0 + (-2.0f64).exp()).ln(), (2.0 + 2.0f64.exp()).ln()];
        let found = info_nce(&query, &contrast).unwrap();
        let losses = values(&found.losses);
        for (loss, expected) in losses.iter().zip(expected) {
            assert!((loss - expected).abs() < 1e-9, "{losses:?}");
        }
        assert_eq!(found.top1, 1.0);
    }

    #[test]
    fn a_query_of_zeros_has_a_finite_gradient() {
        let query = candle_core::Var::zeros((1, 3), candle_core::DType::F64, &Device::Cpu).unwrap();
        let (positives, negatives) = (random((1, 3), 1), random((2, 3), 2));
        let contrast = Contrast {
            positives: &positives,
            negatives: &negatives,
            targets: &[0],
            negative_ids: &[1, 2],
            temperature: 0.1,
        };
        let losses = info_nce(&query, &contrast).unwrap().losses;
        let grads = losses.sum_all().unwrap().backward().unwrap();
        assert!(values(grads.get(&query).unwrap()).iter().all(|g| g.is_finite()));
    }
}
