//! Sums over places, and the same values added at all of them: each is the gradient of the other.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;

use super::cpu::{self, with_float};
use super::fused_on_cpu;
use super::kernels::{Float, vectorize};

/// Places that a task sums.
const BLOCK: usize = 256;

/// The sum over the places of each group.
///
/// # Shapes
/// - `x`: (groups, places, width)
/// - output: (groups, width)
pub fn sum_over_places(x: &Tensor) -> Result<Tensor> {
    x.dims3()?;
    if fused_on_cpu(&[x]) { x.contiguous()?.apply_op1(Sum) } else { x.sum(1) }
}

/// `x` with the values of a group added at all of its places. Without a dimension of groups, with a bias for example,
/// there is one.
///
/// # Shapes
/// - `x`, output: (groups, places, width) or (places, width)
/// - `values`: (groups, width) or (width)
pub fn add_at_places(x: &Tensor, values: &Tensor) -> Result<Tensor> {
    let fits = match *x.dims() {
        [groups, _, width] => values.dims() == [groups, width],
        [_, width] => values.dims() == [width],
        _ => false,
    };
    if !fits {
        bail!("add_at_places: x {:?} and values {:?}", x.dims(), values.dims());
    }
    if fused_on_cpu(&[x, values]) {
        x.contiguous()?.apply_op2(&values.contiguous()?, Add)
    } else {
        x.broadcast_add(&values.unsqueeze(values.rank() - 1)?)
    }
}

struct Sum;

impl CustomOp1 for Sum {
    fn name(&self) -> &'static str {
        "sum-over-places"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (groups, places, width) = layout.shape().dims3()?;
        with_float!(x.dtype(), T => {
            let sums = sum(cpu::slice::<T>(x, layout)?, [groups, places, width]);
            Ok((T::to_cpu_storage_owned(sums), (groups, width).into()))
        })
    }

    fn bwd(&self, x: &Tensor, _sums: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        grad.unsqueeze(1)?.broadcast_as(x.shape())?.contiguous().map(Some)
    }
}

struct Add;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add-at-places"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let width = values_layout.dims().last().copied().unwrap_or(0);
        with_float!(x.dtype(), T => {
            let y = add(cpu::slice::<T>(x, x_layout)?, cpu::slice(values, values_layout)?, width);
            Ok((T::to_cpu_storage_owned(y), x_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        values: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let sums = || match grad.rank() {
            2 => sum_over_places(&grad.detach().unsqueeze(0)?)?.squeeze(0),
            _ => sum_over_places(&grad.detach()),
        };
        let of_values = values.track_op().then(sums).transpose()?;
        Ok((x.track_op().then_some(grad), of_values))
    }
}

fn add<T: Float>(x: &[T], values: &[T], width: usize) -> Vec<T> {
    let mut y = vec![T::ZERO; x.len()];
    if y.is_empty() {
        return y;
    }
    let places = x.len() / values.len();
    let blocks = y.par_chunks_mut(BLOCK * width).zip(x.par_chunks(BLOCK * width)).enumerate();
    blocks.for_each(|(block, (y, x))| {
        vectorize(
            #[inline(always)]
            || {
                let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
                for ((y, x), row) in rows.zip(block * BLOCK..) {
                    let of_group = &values[row / places * width..][..width];
                    for ((y, &x), &value) in y.iter_mut().zip(x).zip(of_group) {
                        *y = x + value;
                    }
                }
            },
        );
    });
    y
}

/// Sums of blocks of places first, so that bits do not depend on threads.
fn sum<T: Float>(x: &[T], [groups, places, width]: [usize; 3]) -> Vec<T> {
    let mut sums = vec![T::ZERO; groups * width];
    if x.is_empty() {
        return sums;
    }
    let add_rows = |sum: &mut [T], rows: &[T]| {
        vectorize(
            #[inline(always)]
            || {
                for row in rows.chunks_exact(width) {
                    for (sum, &value) in sum.iter_mut().zip(row) {
                        *sum += value;
                    }
                }
            },
        );
    };
    let of_group = |(sum, x): (&mut [T], &[T])| {
        if places <= BLOCK {
            return add_rows(sum, x);
        }
        let of_blocks: Vec<T> = x
            .par_chunks(BLOCK * width)
            .flat_map_iter(|rows| {
                let mut sum = vec![T::ZERO; width];
                add_rows(&mut sum, rows);
                sum
            })
            .collect();
        add_rows(sum, &of_blocks);
    };
    let min_groups = (BLOCK / places).max(1);
    let groups = sums.par_chunks_mut(width).zip(x.par_chunks(places * width));
    groups.with_min_len(min_groups).for_each(of_group);
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{check, fused_equals_composed, random, same_on_any_threads};

    #[test]
    fn values_and_gradients() {
        for (groups, places, width) in [(3, 4, 5), (1, 7, 2), (6, 1, 3)] {
            let inputs = [random((groups, places, width), 1), random((groups, width), 2)];
            check(&inputs[..1], |t| sum_over_places(&t[0]));
            check(&inputs, |t| add_at_places(&t[0], &t[1]));
        }
        check(&[random((4, 5), 1), random(5, 2)], |t| add_at_places(&t[0], &t[1]));
    }

    #[test]
    fn without_places_or_groups_there_is_nothing() {
        for (groups, places, width) in [(2, 0, 3), (0, 2, 3), (2, 3, 0)] {
            let (x, values) = (random((groups, places, width), 1), random((groups, width), 2));
            let sums = sum_over_places(&x).unwrap();
            assert_eq!(sums.dims(), [groups, width]);
            assert!(crate::ops::check::values(&sums).iter().all(|sum| *sum == 0.0));
            assert_eq!(add_at_places(&x, &values).unwrap().dims(), x.dims());
        }
    }

    #[test]
    fn many_places_and_many_groups() {
        for (groups, places) in [(2, 3 * BLOCK + 1), (3 * BLOCK, 2)] {
            let inputs = [random((groups, places, 3), 1), random((groups, 3), 2)];
            fused_equals_composed(&inputs[..1], |t| sum_over_places(&t[0]));
            fused_equals_composed(&inputs, |t| add_at_places(&t[0], &t[1]));
            same_on_any_threads(&inputs[..1], |t| sum_over_places(&t[0]));
            same_on_any_threads(&inputs, |t| add_at_places(&t[0], &t[1]));
        }
    }

    #[test]
    fn values_of_other_groups_are_named() {
        let error = add_at_places(&random((2, 3, 4), 1), &random((3, 4), 2)).unwrap_err();
        assert!(error.to_string().contains("x [2, 3, 4] and values [3, 4]"), "{error}");
        add_at_places(&random((3, 4), 1), &random(3, 2)).unwrap_err();
    }
}
