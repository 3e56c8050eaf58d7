//! The device that `--device` names.

use std::str::FromStr;

use anyhow::{anyhow, bail};
use candle_core::Device;

use crate::ops::keep_memory;
use crate::ranks::own_gpu;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceChoice {
    Auto,
    Cpu,
    /// That of this number, or the process's own where none is named.
    Cuda(Option<usize>),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(None)),
            _ => match text.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(ordinal) => Ok(Self::Cuda(Some(ordinal))),
                None => Err(format!("{text:?} is none of auto, cpu, cuda and cuda:N")),
            },
        }
    }
}

/// Opens the device; `auto` is a CUDA device, or the CPU where there is none.
pub(super) fn open(choice: DeviceChoice) -> anyhow::Result<Device> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Auto => Ok(cuda(own_gpu()).unwrap_or(Device::Cpu)),
        DeviceChoice::Cuda(ordinal) => cuda(ordinal.unwrap_or_else(own_gpu)),
    }
}

fn cuda(ordinal: usize) -> anyhow::Result<Device> {
    if cfg!(not(feature = "cuda")) {
        bail!(
            "--device cuda:{ordinal}: this program was built without CUDA (cargo build --release \
             --features cuda); use --device cpu"
        );
    }
    let opened = Device::new_cuda(ordinal).and_then(|device| {
        keep_memory(&device)?;
        Ok(device)
    });
    opened.map_err(|e| {
        let cause = e.to_string();
        let first = cause.lines().next().unwrap_or_default();
        anyhow!("--device cuda:{ordinal}: there is no such device ({first}); use --device cpu")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_cuda_auto_is_the_cpu_and_cuda_one_clear_error() {
        assert!(open(DeviceChoice::Cpu).unwrap().is_cpu());
        if cfg!(not(feature = "cuda")) {
            assert!(open(DeviceChoice::Auto).unwrap().is_cpu());
            let error = open(DeviceChoice::Cuda(Some(3))).unwrap_err().to_string();
            assert!(error.contains("cuda:3") && error.contains("--features cuda"), "{error}");
        }
    }
}
