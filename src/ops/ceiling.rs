//! How fast this machine multiplies matrices: what a training step is measured against.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};

use super::kernels::{Mat, MatMut, Precision, Threads, Update, matmul};

/// Times each product is repeated.
const REPEATS: usize = 10;

/// The most floating-point operations a second that `x w^T` with `x` (rows, inner) and `w` (cols, inner)
/// reaches: on all threads, the best of several runs, or on a GPU, the mean of several.
pub fn matmul_flops(
    rows: usize,
    cols: usize,
    inner: usize,
    precision: Precision,
    device: &Device,
) -> Result<f64> {
    let seconds = if device.is_cpu() {
        on_cpu([rows, cols, inner], precision)
    } else {
        on_device([rows, cols, inner], precision, device)?
    };
    Ok(2.0 * (rows * cols * inner) as f64 / seconds)
}

fn on_cpu([rows, cols, inner]: [usize; 3], precision: Precision) -> f64 {
    let values = |n: usize| (0..n).map(|i| (i % 7) as f32 - 3.0).collect::<Vec<f32>>();
    let (x, w, mut out) = (values(rows * inner), values(cols * inner), vec![0.0f32; rows * cols]);
    let (lhs, rhs) = (Mat::new(&x, rows, inner), Mat::new(&w, cols, inner).t());
    let mut fastest = f64::INFINITY;
    for _ in 0..REPEATS {
        let start = Instant::now();
        let out_view = &mut MatMut::new(&mut out, rows, cols);
        matmul(out_view, lhs, rhs, Update::Overwrite, Threads::All, precision);
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    fastest
}

/// Without what it takes to round the factors.
#[expect(clippy::disallowed_methods, reason = "a GPU draws these values sooner than it gets them")]
fn on_device(
    [rows, cols, inner]: [usize; 3],
    precision: Precision,
    device: &Device,
) -> Result<f64> {
    let dtype = match precision {
        Precision::Full => DType::F32,
        Precision::Bf16 => DType::BF16,
    };
    let draw = |lines| Tensor::randn(0.0f32, 1.0, (lines, inner), device)?.to_dtype(dtype);
    let (x, w) = (draw(rows)?, draw(cols)?.t()?);
    x.matmul(&w)?;
    device.synchronize()?;
    let start = Instant::now();
    for _ in 0..REPEATS {
        x.matmul(&w)?;
    }
    device.synchronize()?;
    Ok(start.elapsed().as_secs_f64() / REPEATS as f64)
}
