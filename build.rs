//! Stamps the program with the git revision it was built from, so that results can name it, and compiles the kernels of a
//! program with CUDA.

use std::path::Path;
use std::process::Command;

fn main() {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).output().ok().filter(|o| o.status.success());
        output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string())
    };
    let revision = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=LLMBS_GIT_REVISION={revision}");
    if let Some(head) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={head}");
    }
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile_kernels();
    }
}

/// Turns `kernels.cu` into PTX for f32 and for f64, by the compiler that `NVCC` names, or that of `CUDA_HOME`, or
/// `nvcc`, for devices of `CUDA_COMPUTE_CAP` (80) and later.
fn compile_kernels() {
    let source = "src/ops/cuda/kernels.cu";
    for file in [source, "src/ops/cuda/attention.cuh"] {
        println!("cargo::rerun-if-changed={file}");
    }
    for name in ["CUDA_HOME", "CUDA_COMPUTE_CAP", "NVCC"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let variable = |name: &str| std::env::var(name).ok();
    let of_home = variable("CUDA_HOME").map(|home| format!("{home}/bin/nvcc"));
    let nvcc = variable("NVCC").or(of_home).unwrap_or_else(|| "nvcc".into());
    let architecture = variable("CUDA_COMPUTE_CAP").unwrap_or_else(|| "80".into());
    let folder = variable("OUT_DIR").expect("cargo sets OUT_DIR");
    for (name, real) in [("f32", "float"), ("f64", "double")] {
        let out = Path::new(&folder).join(format!("kernels-{name}.ptx"));
        let mut compiler = Command::new(&nvcc);
        compiler.args(["--ptx", "-O3", &format!("-arch=compute_{architecture}")]);
        compiler.arg(format!("-Dreal={real}")).arg("-o").arg(out).arg(source);
        match compiler.status() {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("{nvcc} could not compile {source}: {status}"),
            Err(error) => panic!("{nvcc}: {error}; set NVCC or CUDA_HOME"),
        }
    }
}
