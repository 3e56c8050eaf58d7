//! Addresses, launches and products by candle's CUDA backend.

use std::ffi::c_void;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::cuda_backend::cudarc::driver::result::device::get_mem_pool;
use candle_core::cuda_backend::cudarc::driver::result::{DriverError, mem_pool};
use candle_core::cuda_backend::cudarc::driver::{
    DevicePtr, LaunchConfig, PushKernelArg, sys as driver,
};
use candle_core::{CudaDevice, CudaStorage, DType, Device, Error, Layout, Result, bail};
use half::bf16;

use super::product::{Matrix, Product};

/// The kernels for f32, and for f64.
const F32: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels-f32.ptx"));
const F64: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels-f64.ptx"));
/// Shared memory that a block has without asking for it.
const SHARED_BYTES: usize = 48 << 10;

/// Where a contiguous array begins on the device.
pub(super) fn address(storage: &CudaStorage, layout: &Layout) -> Result<u64> {
    let Some((start, _)) = layout.contiguous_offsets() else {
        bail!("the kernels take contiguous tensors, not {layout:?}");
    };
    let stream = storage.device.cuda_stream();
    let dtype = storage.dtype();
    let base = match dtype {
        DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(&stream).0,
        DType::BF16 => storage.as_cuda_slice::<bf16>()?.device_ptr(&stream).0,
        DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
        DType::F64 => storage.as_cuda_slice::<f64>()?.device_ptr(&stream).0,
        dtype => bail!("there are no kernels for {dtype:?}"),
    };
    Ok(base + (start * dtype.size_in_bytes()) as u64)
}

/// Runs a kernel for values of `dtype`; each argument is an address, a number or the bits of an f64.
#[expect(
    unsafe_code,
    reason = "a kernel is given addresses; callers see to it that they are those it needs"
)]
pub(super) fn launch(
    device: &CudaDevice,
    dtype: DType,
    kernel: &str,
    (grid, threads, shared): ([usize; 2], usize, usize),
    arguments: &[u64],
) -> Result<()> {
    let (module, source) = match dtype {
        DType::F32 => ("llmbs-f32", F32),
        DType::F64 => ("llmbs-f64", F64),
        dtype => bail!("there are no kernels for {dtype:?}"),
    };
    let function = device.get_or_load_custom_func(kernel, module, source)?;
    if shared > SHARED_BYTES {
        let most = driver::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(most, int(shared)?).w()?;
    }
    let mut builder = function.builder();
    for argument in arguments {
        builder.arg(argument);
    }
    let config = LaunchConfig {
        grid_dim: (grid[0] as u32, grid[1] as u32, 1),
        block_dim: (threads as u32, 1, 1),
        shared_mem_bytes: shared as u32,
    };
    // SAFETY: the kernels stay within the arrays whose sizes they are given.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// Multiplies two matrices, sums in f32, or in f64 where both are.
#[expect(unsafe_code, reason = "cuBLAS takes addresses")]
pub(super) fn multiply(device: &CudaDevice, product: &Product) -> Result<()> {
    let Product { out, rows, columns, inner, left, right, scale, add } = product;
    let of = |matrix: &Matrix| {
        let operation = if matrix.transposed {
            sys::cublasOperation_t::CUBLAS_OP_T
        } else {
            sys::cublasOperation_t::CUBLAS_OP_N
        };
        Ok::<_, Error>((operation, matrix.address as *const c_void, int(matrix.width)?))
    };
    let wide = left.dtype == DType::F64;
    let (kind, sums, compute) = match left.dtype {
        DType::F64 => (
            sys::cudaDataType::CUDA_R_64F,
            sys::cudaDataType::CUDA_R_64F,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_64F,
        ),
        DType::BF16 => (
            sys::cudaDataType::CUDA_R_16BF,
            sys::cudaDataType::CUDA_R_32F,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        ),
        _ => (
            sys::cudaDataType::CUDA_R_32F,
            sys::cudaDataType::CUDA_R_32F,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        ),
    };
    let factors = [*scale, f64::from(u8::from(*add))];
    let narrow = factors.map(|factor| factor as f32);
    let factor = |i: usize| -> *const c_void {
        if wide { (&raw const factors[i]).cast() } else { (&raw const narrow[i]).cast() }
    };
    let ((left_operation, left, left_width), (right_operation, right, right_width)) =
        (of(left)?, of(right)?);
    let [rows, columns, inner] = [int(*rows)?, int(*columns)?, int(*inner)?];
    device.cuda_stream().context().bind_to_thread().w()?;
    // Lines are columns to cuBLAS: it computes the transpose, of the factors in turn.
    // SAFETY: `Product` says what lies at each address.
    unsafe {
        result::gemm_ex(
            *device.cublas_handle().handle(),
            right_operation,
            left_operation,
            columns,
            rows,
            inner,
            factor(0),
            right,
            kind,
            right_width,
            left,
            kind,
            left_width,
            factor(1),
            *out as *mut c_void,
            sums,
            columns,
            compute,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()?;
    Ok(())
}

/// A size as CUDA's libraries take it.
fn int(size: usize) -> Result<i32> {
    i32::try_from(size).map_err(|_| Error::Msg(format!("{size} is more than CUDA takes")))
}

/// Lets a device keep memory that is freed for what asks next: by default it goes back whenever the device is waited
/// for, which is every step.
pub(in crate::ops) fn keep_memory(device: &Device) -> Result<()> {
    let mut most = u64::MAX;
    let threshold = driver::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    with_pool(device, |pool| {
        #[expect(unsafe_code, reason = "the driver takes a pointer to the value")]
        // SAFETY: the attribute is a u64.
        unsafe {
            mem_pool::set_attribute(pool, threshold, (&raw mut most).cast())
        }
    })?;
    Ok(())
}

/// The most bytes that were taken of the device's memory at once; none where it has no pool.
pub(in crate::ops) fn peak_bytes(device: &Device) -> Result<Option<u64>> {
    let mut most = 0u64;
    let high = driver::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    let asked = with_pool(device, |pool| {
        #[expect(unsafe_code, reason = "the driver takes a pointer to the value")]
        // SAFETY: the attribute is a u64.
        unsafe {
            mem_pool::get_attribute(pool, high, (&raw mut most).cast())
        }
    })?;
    Ok(asked.then_some(most))
}

/// Hands out the pool that a device's memory comes from; whether it has one.
fn with_pool(
    device: &Device,
    use_it: impl FnOnce(driver::CUmemoryPool) -> std::result::Result<(), DriverError>,
) -> Result<bool> {
    let Device::Cuda(device) = device else { return Ok(false) };
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        // Such a device has no pool: what is freed goes back at once.
        return Ok(false);
    }
    context.bind_to_thread().w()?;
    #[expect(unsafe_code, reason = "the driver is asked by the device's handle")]
    // SAFETY: the context holds its device.
    let pool = unsafe { get_mem_pool(context.cu_device()) }.w()?;
    use_it(pool).w()?;
    Ok(true)
}
