//! The element types, and loops over them that compile to the widest vector instructions of the machine.

use candle_core::WithDType;

use super::matrix::{Mat, MatMut, Precision, Threads, Update, gemm};
#[cfg(target_arch = "x86_64")]
use super::packed;

/// Independent partial sums of a reduction. Fixed, so that a sum does not depend on the machine's vectors.
const LANES: usize = 16;

/// `f32` or `f64`.
pub(in crate::ops) trait Float:
    WithDType + Default + std::ops::Neg<Output = Self>
{
    const NEG_INFINITY: Self;

    /// The exponential. For f32 to about 1e-7 relative within [-87, 88], 0 below and constant above.
    fn exp(self) -> Self;
    fn sqrt(self) -> Self;
    fn ln(self) -> Self;

    /// [`super::matmul`] of matrices whose shapes fit and are not empty, by the best kernel there is.
    fn matmul(
        out: &mut MatMut<'_, Self>,
        lhs: Mat<'_, Self>,
        rhs: Mat<'_, Self>,
        update: Update,
        threads: Threads,
        precision: Precision,
    ) {
        let _ = precision;
        gemm(out, lhs, rhs, update, threads);
    }
}

impl Float for f32 {
    const NEG_INFINITY: Self = f32::NEG_INFINITY;

    #[inline(always)]
    fn exp(self) -> Self {
        // Adding it rounds to an integer, which is then in the low bits.
        const ROUND: f32 = 12_582_912.0;
        // ln 2 in two parts; products of the first with small integers are exact.
        const LN_2_HIGH: f32 = 355.0 / 512.0;
        const LN_2_LOW: f32 = -2.121_944_4e-4;
        // A comparison rather than `min`: NaN has to come through.
        let x = if self > 88.0 { 88.0 } else { self };
        let rounded = x * std::f32::consts::LOG2_E + ROUND;
        let n = rounded - ROUND;
        let r = x - n * LN_2_HIGH - n * LN_2_LOW;
        // Taylor series: |r| <= ln 2 / 2 leaves a remainder of 5e-9.
        let mut series = 1.0 / 5040.0;
        for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            series = series * r + coefficient;
        }
        let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
        if self < -87.0 { 0.0 } else { series * power }
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }

    #[inline(always)]
    fn ln(self) -> Self {
        f32::ln(self)
    }

    #[cfg(target_arch = "x86_64")]
    fn matmul(
        out: &mut MatMut<'_, Self>,
        lhs: Mat<'_, Self>,
        rhs: Mat<'_, Self>,
        update: Update,
        threads: Threads,
        precision: Precision,
    ) {
        if packed::available() && packed::takes(&lhs, &rhs) {
            packed::matmul(out, lhs, rhs, update, threads, precision == Precision::Bf16);
        } else {
            gemm(out, lhs, rhs, update, threads);
        }
    }
}

impl Float for f64 {
    const NEG_INFINITY: Self = f64::NEG_INFINITY;

    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }

    #[inline(always)]
    fn ln(self) -> Self {
        f64::ln(self)
    }
}

/// Runs `f`, compiled for the best vector instructions found at run time. Pass `#[inline(always)]` closures.
#[inline(always)]
pub(in crate::ops) fn vectorize<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// The largest value; NaN is passed over, as the exponentials that follow bring it back.
#[inline(always)]
pub(in crate::ops) fn max<T: Float>(values: &[T]) -> T {
    let mut lanes = [T::NEG_INFINITY; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    let mut largest = T::NEG_INFINITY;
    for &v in lanes.iter().chain(chunks.remainder()) {
        largest = if v > largest { v } else { largest };
    }
    largest
}

/// The sum of `f` over the values.
#[inline(always)]
pub(in crate::ops) fn sum_of<T: Float>(values: &[T], f: impl Fn(T) -> T) -> T {
    let mut lanes = [T::zero(); LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    let mut total = T::zero();
    for lane in lanes {
        total += lane;
    }
    for &v in chunks.remainder() {
        total += f(v);
    }
    total
}

/// The inner product of two slices of the same length.
#[inline(always)]
pub(in crate::ops) fn dot<T: Float>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::zero(); LANES];
    let (mut chunks_a, mut chunks_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in (&mut chunks_a).zip(&mut chunks_b) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let mut total = T::zero();
    for lane in lanes {
        total += lane;
    }
    for (&a, &b) in chunks_a.remainder().iter().zip(chunks_b.remainder()) {
        total += a * b;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_of_f32_is_accurate() {
        let mut worst = 0.0f64;
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3 + 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(Float::exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2e-7, "relative error {worst}");
    }

    #[test]
    fn exp_of_f32_at_its_edges() {
        assert_eq!(Float::exp(0.0f32), 1.0);
        assert_eq!(Float::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(Float::exp(-100.0f32), 0.0);
        assert!(Float::exp(1e30f32) > 1e38);
        assert!(Float::exp(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_cover_the_tail() {
        for n in [0, 1, 15, 16, 17, 40] {
            let a: Vec<f64> = (0..n).map(f64::from).collect();
            let expected: f64 = a.iter().sum();
            assert_eq!(sum_of(&a, |v| v), expected);
            assert_eq!(dot(&a, &vec![2.0; a.len()]), 2.0 * expected);
            if n > 0 {
                assert_eq!(max(&a), f64::from(n - 1));
            }
        }
    }
}
