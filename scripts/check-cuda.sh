#!/usr/bin/env bash
# Checks types and lints of what is compiled with CUDA and NCCL, on a machine that has neither: in the place of NVIDIA's
# compiler stands one that writes empty files, since candle's kernels are not what is looked at.
#
#   scripts/check-cuda.sh
set -euo pipefail
cd "$(dirname "$0")/.."

home="$PWD/.cuda/check"
mkdir -p "$home/bin" "$home/include" "$home/lib"
cat >"$home/bin/nvcc" <<'NVCC'
#!/usr/bin/env bash
folder=
while (($#)); do
    case "$1" in
    # The fourth line is read.
    --version) printf '\n\n\nCuda compilation tools, release 13.0, V13.0.88\n' && exit ;;
    --list-gpu-code) echo sm_90 && exit ;;
    -o) : >"$2" && exit ;;
    --output-directory) folder="$2" ;;
    *.cu) source="$1" ;;
    esac
    shift
done
name="${source##*/}"
: >"$folder/${name%.cu}.ptx"
NVCC
chmod +x "$home/bin/nvcc"
export CUDA_HOME="$home" CUDA_PATH="$home" CUDA_ROOT="$home" NVCC="$home/bin/nvcc" PATH="$home/bin:$PATH"
# A folder of its own: a build that found the empty files would take them for kernels.
export CUDA_COMPUTE_CAP=90 CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target/cuda-check}"
for features in cuda cuda,nccl; do
    cargo clippy --release --all-targets --features "$features" -- -D warnings
done
