//! The device that `--device` names.

use std::panic;
use std::str::FromStr;

use anyhow::bail;
use candle_core::Device;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceChoice {
    Auto,
    Cpu,
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match text.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(ordinal) => Ok(Self::Cuda(ordinal)),
                None => Err(format!("{text:?} is none of auto, cpu, cuda and cuda:N")),
            },
        }
    }
}

/// Opens the device; `auto` is the first CUDA device, or the CPU where there is none.
pub(super) fn open(choice: DeviceChoice) -> anyhow::Result<Device> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Auto => Ok(cuda(0).unwrap_or(Device::Cpu)),
        DeviceChoice::Cuda(ordinal) => cuda(ordinal),
    }
}

fn cuda(ordinal: usize) -> anyhow::Result<Device> {
    if cfg!(not(feature = "cuda")) {
        bail!(
            "--device cuda:{ordinal}: this program was built without CUDA; build it with \
             scripts/build-cuda.sh, or use --device cpu"
        );
    }
    // Where CUDA's libraries are missing, candle does not fail but panics; that is not for the user to read.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let opened = panic::catch_unwind(|| Device::new_cuda(ordinal));
    panic::set_hook(hook);
    match opened {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(e)) => {
            let first = e.to_string();
            let first = first.lines().next().unwrap_or_default();
            bail!("--device cuda:{ordinal}: there is no such device ({first}); use --device cpu")
        }
        Err(_) => bail!(
            "--device cuda:{ordinal}: CUDA's driver or its libraries (cuBLAS, cuRAND, NVRTC) are not \
             there: put their folders on LD_LIBRARY_PATH, or use --device cpu"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_cuda_auto_is_the_cpu_and_cuda_one_clear_error() {
        assert!(open(DeviceChoice::Cpu).unwrap().is_cpu());
        if cfg!(not(feature = "cuda")) {
            assert!(open(DeviceChoice::Auto).unwrap().is_cpu());
            let error = open(DeviceChoice::Cuda(3)).unwrap_err().to_string();
            assert!(error.contains("cuda:3") && error.contains("build-cuda.sh"), "{error}");
        }
    }
}
