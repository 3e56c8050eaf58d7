//! What stands in the place of CUDA's driver in a program without it: nothing calls it, as no tensor is on a GPU.

use candle_core::{CudaDevice, CudaStorage, DType, Device, Layout, Result, bail};

use super::product::Product;

pub(super) fn address(_: &CudaStorage, _: &Layout) -> Result<u64> {
    absent()
}

pub(super) fn launch(
    _: &CudaDevice,
    _: DType,
    _: &str,
    _: ([usize; 2], usize, usize),
    _: &[u64],
) -> Result<()> {
    absent()
}

pub(super) fn multiply(_: &CudaDevice, _: &Product) -> Result<()> {
    absent()
}

pub(in crate::ops) fn keep_memory(_: &Device) -> Result<()> {
    absent()
}

pub(in crate::ops) fn peak_bytes(_: &Device) -> Result<Option<u64>> {
    absent()
}

fn absent<T>() -> Result<T> {
    bail!("this program was built without CUDA")
}
