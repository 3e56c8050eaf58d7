//! Activations, value by value.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType};

use super::cpu::{self, with_float};
use super::fused_on_cpu;
use super::kernels::Float;

/// `1 / (1 + exp(-x))`
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    if fused_on_cpu(&[x]) {
        x.contiguous()?.apply_op1(Activation::Sigmoid)
    } else {
        candle_nn::ops::sigmoid(x)
    }
}

/// `ln(1 + exp(x))`, which takes the exponential of nothing positive.
pub fn softplus(x: &Tensor) -> Result<Tensor> {
    if fused_on_cpu(&[x]) {
        x.contiguous()?.apply_op1(Activation::Softplus)
    } else {
        x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?
    }
}

#[derive(Debug, Clone, Copy)]
enum Activation {
    Sigmoid,
    Softplus,
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        match self {
            Self::Sigmoid => "sigmoid",
            Self::Softplus => "softplus",
        }
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        with_float!(x.dtype(), T => {
            let x = cpu::slice::<T>(x, layout)?;
            let y = match self {
                Self::Sigmoid => map([x], |[x]| sigmoid_of(x)),
                Self::Softplus => map([x], |[x]| softplus_of(x)),
            };
            Ok((T::to_cpu_storage_owned(y), layout.shape().clone()))
        })
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let [x_values, y_values, grad] = [cpu::values(x), cpu::values(y), cpu::values(&grad)];
        with_float!(x.dtype(), T => {
            let grad = grad.slice::<T>()?;
            let x_grad = match self {
                Self::Sigmoid => map([y_values.slice()?, grad], |[y, grad]| grad * y * (T::ONE - y)),
                Self::Softplus => map([x_values.slice()?, grad], |[x, grad]| grad * sigmoid_of(x)),
            };
            Ok(Some(cpu::tensor(x_grad, x.shape())?))
        })
    }
}

#[inline(always)]
pub(super) fn sigmoid_of<T: Float>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

/// `max(x, 0) + ln(1 + t)` with `t = exp(-|x|)`, of which the logarithm is `2 artanh(t / (2 + t))`: a series that vector
/// instructions can sum, where each logarithm would be a call.
#[inline(always)]
pub(super) fn softplus_of<T: Float>(x: T) -> T {
    let (above, below) = if x > T::ZERO { (x, -x) } else { (T::ZERO, x) };
    let t = below.exp();
    let ratio = t / (T::from_f64(2.0) + t);
    let square = ratio * ratio;
    let mut series = T::ZERO;
    // The ratio is a third at most, so what is left out is below 2e-17, of f32 below 3e-9.
    let terms = if size_of::<T>() == size_of::<f32>() { 8 } else { 16 };
    for term in (0..terms).rev() {
        series = series * square + T::from_f64(1.0 / f64::from(2 * term + 1));
    }
    above + T::from_f64(2.0) * ratio * series
}

/// What `f` makes of the values at each place of `inputs`.
fn map<T: Float, const N: usize>(inputs: [&[T]; N], f: impl Fn([T; N]) -> T + Sync) -> Vec<T> {
    let mut out = vec![T::ZERO; inputs[0].len()];
    cpu::fill(&mut out, inputs, f);
    out
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::check::{check, fused_equals_composed, random, same_on_any_threads, values};

    const BOTH: [fn(&Tensor) -> Result<Tensor>; 2] = [sigmoid, softplus];

    #[test]
    fn values_and_gradients() {
        for activation in BOTH {
            check(&[(random((5, 7), 1) * 4.0).unwrap()], |t| activation(&t[0]));
        }
    }

    #[test]
    fn several_blocks_are_one() {
        for activation in BOTH {
            let inputs = [(random((3, cpu::BLOCK), 1) * 4.0).unwrap()];
            fused_equals_composed(&inputs, |t| activation(&t[0]));
            same_on_any_threads(&inputs, |t| activation(&t[0]));
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let x = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
        assert!(BOTH.iter().all(|activation| values(&activation(&x).unwrap())[0].is_nan()));
    }

    #[test]
    fn large_values_overflow_nowhere() {
        let x = Tensor::new(&[-1e4f32, -90.0, 0.0, 90.0, 1e4], &Device::Cpu).unwrap();
        let [sigmoids, softpluses] = BOTH.map(|activation| values(&activation(&x).unwrap()));
        for (sigmoid, expected) in sigmoids.iter().zip([0.0, 0.0, 0.5, 1.0, 1.0]) {
            assert!((sigmoid - expected).abs() < 1e-7, "{sigmoids:?}");
        }
        assert_eq!(softpluses, [0.0, 0.0, f64::from(2f32.ln()), 90.0, 1e4]);
    }
}
