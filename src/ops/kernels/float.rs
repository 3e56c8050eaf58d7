//! The element types, and loops over them that compile to the widest vector instructions of the machine.

use std::borrow::Cow;

use candle_core::WithDType;
use half::bf16;

use super::matrix::{Mat, MatMut, Precision, Threads, Update, gemm};
#[cfg(target_arch = "x86_64")]
use super::packed;

/// Independent partial sums of a reduction. Fixed, so that a sum does not depend on the machine's vectors.
const LANES: usize = 16;

/// What values are kept in: a [`Float`], or bf16, which is computed with in f32.
pub(crate) trait Stored: Copy + Default + Send + Sync + 'static {
    /// What is computed with.
    type Wide: Float;

    fn widen(self) -> Self::Wide;
    /// Rounds to the nearest.
    fn narrow(value: Self::Wide) -> Self;
    /// Rounds up or down, up the more often the nearer that is: right on average over random `noise`.
    fn narrow_randomly(value: Self::Wide, noise: u16) -> Self;
    fn widen_all(values: &[Self]) -> Cow<'_, [Self::Wide]>;
    /// Has `f` write or change the widened values of `out`.
    fn write_wide(out: &mut MatMut<'_, Self>, f: impl FnOnce(&mut MatMut<'_, Self::Wide>));
}

impl Stored for bf16 {
    type Wide = f32;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        // To nearest, ties to even; the NaN that arithmetic gives stays one.
        let bits = value.to_bits();
        Self::from_bits((bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16)
    }

    #[inline(always)]
    fn narrow_randomly(value: f32, noise: u16) -> Self {
        Self::from_bits((value.to_bits().wrapping_add(u32::from(noise)) >> 16) as u16)
    }

    fn widen_all(values: &[Self]) -> Cow<'_, [f32]> {
        values.iter().map(|v| v.widen()).collect()
    }

    fn write_wide(out: &mut MatMut<'_, Self>, f: impl FnOnce(&mut MatMut<'_, f32>)) {
        let (rows, cols) = (out.rows, out.cols);
        let mut wide = Vec::with_capacity(rows * cols);
        (0..rows).for_each(|i| wide.extend(out.row(i).iter().map(|v| v.widen())));
        f(&mut MatMut::new(&mut wide, rows, cols));
        for (i, line) in wide.chunks_exact(cols).enumerate() {
            out.row(i).iter_mut().zip(line).for_each(|(v, &w)| *v = Self::narrow(w));
        }
    }
}

/// Makes a float its own [`Stored::Wide`].
macro_rules! stored_as_it_is {
    ($($T:ty),*) => {$(
        impl Stored for $T {
            type Wide = Self;

            #[inline(always)]
            fn widen(self) -> Self {
                self
            }

            #[inline(always)]
            fn narrow(value: Self) -> Self {
                value
            }

            #[inline(always)]
            fn narrow_randomly(value: Self, _noise: u16) -> Self {
                value
            }

            fn widen_all(values: &[Self]) -> Cow<'_, [Self]> {
                Cow::Borrowed(values)
            }

            fn write_wide(out: &mut MatMut<'_, Self>, f: impl FnOnce(&mut MatMut<'_, Self>)) {
                f(out);
            }
        }
    )*};
}
stored_as_it_is!(f32, f64);

/// `f32` or `f64`.
pub(crate) trait Float:
    Stored<Wide = Self> + WithDType + Default + std::ops::Neg<Output = Self>
{
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;

    /// The exponential. For f32 to about 1e-7 relative within [-87, 88], 0 below and constant above.
    fn exp(self) -> Self;
    fn sqrt(self) -> Self;
    fn ln(self) -> Self;

    /// [`super::matmul`] of matrices whose shapes fit and are not empty, by the best kernel there is.
    fn matmul<A: Stored<Wide = Self>, B: Stored<Wide = Self>, O: Stored<Wide = Self>>(
        out: &mut MatMut<'_, O>,
        lhs: Mat<'_, A>,
        rhs: Mat<'_, B>,
        update: Update,
        threads: Threads,
        precision: Precision,
    ) {
        let _ = precision;
        widened_gemm(out, lhs, rhs, update, threads);
    }
}

fn widened_gemm<T: Float, A: Stored<Wide = T>, B: Stored<Wide = T>, O: Stored<Wide = T>>(
    out: &mut MatMut<'_, O>,
    lhs: Mat<'_, A>,
    rhs: Mat<'_, B>,
    update: Update,
    threads: Threads,
) {
    let (left, right) = (A::widen_all(lhs.data), B::widen_all(rhs.data));
    O::write_wide(out, |out| gemm(out, lhs.over(&left), rhs.over(&right), update, threads));
}

impl Float for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
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
    fn matmul<A: Stored<Wide = Self>, B: Stored<Wide = Self>, O: Stored<Wide = Self>>(
        out: &mut MatMut<'_, O>,
        lhs: Mat<'_, A>,
        rhs: Mat<'_, B>,
        update: Update,
        threads: Threads,
        precision: Precision,
    ) {
        if precision.takes_effect() && packed::takes(&lhs) && packed::takes(&rhs) {
            packed::matmul(out, lhs, rhs, update, threads);
        } else {
            widened_gemm(out, lhs, rhs, update, threads);
        }
    }
}

impl Float for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
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
pub(crate) fn vectorize<R>(f: impl FnOnce() -> R) -> R {
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

/// Turns scores into their softmax.
#[inline(always)]
pub(in crate::ops) fn softmax<T: Float>(scores: &mut [T]) {
    let largest = max(scores);
    for v in scores.iter_mut() {
        *v = (*v - largest).exp();
    }
    let total = sum_of(scores, |v| v);
    for v in scores.iter_mut() {
        *v /= total;
    }
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
