//! The contrastive loss of global contrast decompression: `InfoNCE` (van den Oord et al., 2018, equation 4).

use candle_core::{D, Result, Tensor, bail};

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

/// The negative log-softmax of each query's positive among the positive and all negatives, by cosine
/// over temperature. The gradient reaches the query only.
///
/// # Shapes
/// - `query`: (n, dim)
/// - output: (n)
pub fn info_nce(query: &Tensor, contrast: &Contrast<'_>) -> Result<Tensor> {
    let logits = contrast.logits(query)?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let total = shifted.exp()?.sum(D::Minus1)?.log()?;
    total - shifted.narrow(1, 0, 1)?.squeeze(1)?
}

/// The share of queries whose positive is nearer than every negative.
pub fn info_nce_top1(query: &Tensor, contrast: &Contrast<'_>) -> Result<f64> {
    let n = query.dim(0)?;
    if n == 0 {
        bail!("info_nce_top1: no queries");
    }
    let logits = contrast.logits(&query.detach())?;
    let (positive, rest) = (logits.narrow(1, 0, 1)?, logits.narrow(1, 1, logits.dim(1)? - 1)?);
    if rest.dim(1)? == 0 {
        return Ok(1.0);
    }
    let first = positive.squeeze(1)?.gt(&rest.contiguous()?.max(D::Minus1)?)?;
    let first = first.to_dtype(candle_core::DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    Ok(f64::from(first) / n as f64)
}

impl Contrast<'_> {
    /// (n, 1 + m), the positive first.
    fn logits(&self, query: &Tensor) -> Result<Tensor> {
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
        let query = unit_rows(query)?;
        let positives = unit_rows(&self.positives.detach())?;
        let positive = (&query * positives)?.sum_keepdim(D::Minus1)?;
        if m == 0 {
            return positive / self.temperature;
        }
        let negatives = unit_rows(&self.negatives.detach())?;
        let negative = (super::linear(&query, &negatives, super::Precision::Full)?
            + self.same_item_mask(&query)?)?;
        Tensor::cat(&[positive, negative], 1)? / self.temperature
    }

    /// (n, m): minus infinity where a negative is the query's own target, else 0.
    fn same_item_mask(&self, like: &Tensor) -> Result<Tensor> {
        let mask: Vec<f32> = self
            .targets
            .iter()
            .flat_map(|target| {
                self.negative_ids
                    .iter()
                    .map(move |id| if id == target { f32::NEG_INFINITY } else { 0.0 })
            })
            .collect();
        let shape = (self.targets.len(), self.negative_ids.len());
        Tensor::from_vec(mask, shape, like.device())?.to_dtype(like.dtype())
    }
}

/// Each row divided by its Euclidean norm; a row of zeros stays.
fn unit_rows(x: &Tensor) -> Result<Tensor> {
    // Inside the root, so that the gradient at zero is finite.
    let norm = (x.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.sqrt()?;
    x.broadcast_div(&norm)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::check::{finite_differences, random, values};

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
        finite_differences(&[random((3, 5), 1)], |t| info_nce(&t[0], &contrast));
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
        let losses = values(&info_nce(&query, &contrast).unwrap());
        for (loss, expected) in losses.iter().zip(expected) {
            assert!((loss - expected).abs() < 1e-9, "{losses:?}");
        }
        assert_eq!(info_nce_top1(&query, &contrast).unwrap(), 0.5);
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
        let grads = info_nce(&query, &contrast).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(values(grads.get(&query).unwrap()).iter().all(|g| g.is_finite()));
    }
}
