//! Inverted dropout (Srivastava et al., 2014) with a mask that is a function of a key, not of a generator.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;

use super::cpu::{self, BLOCK, with_float};
use super::cuda::{self, View};
use super::fused;
use super::kernels::{Float, Stored, vectorize};

/// Sets each value to 0 with probability `p` and divides the others by `1 - p`.
///
/// `key` and the position of an element decide its fate: the same key gives the same mask, so the backward
/// recomputes it, and keys should differ between layers and steps. At `p` 0 it returns `x` itself.
///
/// # Errors
/// `p` outside of [0, 1).
pub fn dropout(x: &Tensor, p: f64, key: u64) -> Result<Tensor> {
    let Some(mask) = Mask::new(p, key)? else { return Ok(x.clone()) };
    if fused(&[x]) { x.contiguous()?.apply_op1(mask) } else { composed_dropout(x, &mask) }
}

/// The key whose mask goes on where that of `key` is after so many elements.
pub(crate) fn key_after(key: u64, elements: usize) -> u64 {
    key.wrapping_add((elements as u64).wrapping_mul(COUNTER))
}

/// What a key grows by from element to element: the golden ratio's share of 2^64.
const COUNTER: u64 = 0x9e37_79b9_7f4a_7c15;

fn composed_dropout(x: &Tensor, mask: &Mask) -> Result<Tensor> {
    let factors: Vec<f32> = (0..x.elem_count()).into_par_iter().map(|i| mask.factor(i)).collect();
    let factors = Tensor::from_vec(factors, x.shape(), x.device())?.to_dtype(x.dtype())?;
    (x * factors)? / (1.0 - mask.p)
}

pub(super) struct Mask {
    pub(super) p: f64,
    pub(super) key: u64,
}

impl Mask {
    /// None where nothing is dropped.
    pub(super) fn new(p: f64, key: u64) -> Result<Option<Self>> {
        if !(0.0..1.0).contains(&p) {
            bail!("dropout: the probability {p} is not in [0, 1)");
        }
        Ok((p > 0.0).then_some(Self { p, key }))
    }

    /// 1 where element `i` is kept, else 0: a Bernoulli draw from the top bits of `SplitMix64`'s finaliser
    /// (Steele et al., 2014) of the element's counter.
    #[inline(always)]
    fn factor<T: Float>(&self, i: usize) -> T {
        let threshold = self.threshold();
        let mut z = self.key.wrapping_add((i as u64).wrapping_add(1).wrapping_mul(COUNTER));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        if z >> 11 >= threshold { T::one() } else { T::zero() }
    }

    /// Of 2^53 draws how many drop.
    #[inline(always)]
    fn threshold(&self) -> u64 {
        (self.p * (1u64 << 53) as f64) as u64
    }

    pub(super) fn on_device(&self, x: View<'_>) -> Result<CudaStorage> {
        cuda::dropout(x, self.key, self.threshold(), 1.0 / (1.0 - self.p))
    }

    fn apply<T: Float>(&self, x: &[T]) -> Vec<T> {
        let mut y = x.to_vec();
        self.apply_in_place(&mut y, 0);
        y
    }

    /// Drops elements of `x`, which begins with element `first` of what the mask is for.
    pub(super) fn apply_in_place<S: Stored>(&self, x: &mut [S], first: usize) {
        let scale = S::Wide::from_f64(1.0 / (1.0 - self.p));
        x.par_chunks_mut(BLOCK).enumerate().for_each(|(block, x)| {
            vectorize(
                #[inline(always)]
                || {
                    for (i, x) in x.iter_mut().enumerate() {
                        let factor = self.factor::<S::Wide>(first + block * BLOCK + i);
                        *x = S::narrow(x.widen() * factor * scale);
                    }
                },
            );
        });
    }
}

impl CustomOp1 for Mask {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        with_float!(x.dtype(), T => {
            let y = self.apply::<T>(cpu::slice(x, layout)?);
            Ok((T::to_cpu_storage_owned(y), layout.shape().clone()))
        })
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((self.on_device(View::new(x, layout))?, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        if grad.device().is_cuda() {
            let x_grad = cuda::with_views([&grad], |[grad]| self.on_device(grad))?;
            return Ok(Some(cuda::tensor(x_grad, x.shape())));
        }
        let grad = cpu::values(&grad);
        with_float!(x.dtype(), T => {
            cpu::tensor(self.apply::<T>(grad.slice()?), x.shape()).map(Some)
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::ops::check::{check, random, same_on_any_threads, values};

    #[test]
    fn values_and_gradients() {
        check(&[random((5, 7), 1)], |t| dropout(&t[0], 0.3, 11));
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        same_on_any_threads(&[random((40, 1001), 1)], |t| dropout(&t[0], 0.3, 11));
    }

    #[test]
    fn rate_and_scale() {
        let ones = Tensor::ones(100_000, DType::F32, &Device::Cpu).unwrap();
        let y = values(&dropout(&ones, 0.05, 3).unwrap());
        let dropped = y.iter().filter(|&&v| v == 0.0).count();
        assert!((4_700..5_300).contains(&dropped), "{dropped} of 100000 dropped at 0.05");
        assert!(y.iter().all(|&v| v == 0.0 || (v - 1.0 / 0.95).abs() < 1e-6));
    }

    #[test]
    fn keys_give_different_masks() {
        let ones = Tensor::ones(64, DType::F32, &Device::Cpu).unwrap();
        let mask = |key| values(&dropout(&ones, 0.5, key).unwrap());
        assert_eq!(mask(1), mask(1));
        assert_ne!(mask(1), mask(2));
    }

    #[test]
    fn nothing_to_drop_is_the_input_itself() {
        let x = random(3, 1);
        assert_eq!(dropout(&x, 0.0, 1).unwrap().id(), x.id());
        assert!(dropout(&x, 1.0, 1).is_err() && dropout(&x, f64::NAN, 1).is_err());
    }
}
