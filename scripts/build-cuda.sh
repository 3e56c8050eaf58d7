#!/usr/bin/env bash
# Builds llmbs with CUDA and NCCL on a machine that has neither: NVIDIA's compiler comes from PyPI wheels into .cuda/.
# Prints where the stripped binary and its tests lie. No GPU is needed, nor to run `--help`; with one, see
# scripts/gpu-check.sh.
#
#   scripts/build-cuda.sh
#
# CUDA_COMPUTE_CAP is the GPU generation to compile for (90: H100, H200). FEATURES=cuda leaves NCCL out, TESTS=no the
# tests. scripts/check-cuda.sh checks types and lints alone, without compiling candle's kernels.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ! -x .cuda/bin/python ]]; then
    python3 -m venv .cuda
fi
# One version for all: newer headers are refused by this compiler.
.cuda/bin/pip install --quiet nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
    'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*' 'nvidia-cuda-nvrtc==13.0.*' \
    'nvidia-cublas==13.0.*' 'nvidia-curand==10.4.*'
home="$(.cuda/bin/python -c 'import nvidia, pathlib; print(pathlib.Path(list(nvidia.__path__)[0]) / "cu13")')"

# The driver and the libraries are loaded when a device is asked for, so that the program starts without them too.
stubs="$PWD/.cuda/stubs"
cudarc="$(cargo metadata --format-version 1 --locked --features cuda | python3 -c '
import json, os, sys
packages = json.load(sys.stdin)["packages"]
print(next(os.path.dirname(p["manifest_path"]) for p in packages if p["name"] == "cudarc"))')"
python3 scripts/cuda-stubs.py "$cudarc" "$stubs" >/dev/null
# The runtime that candle's kernels call goes into the binary.
static="$(find "$home" -name libcudart_static.a | head -1)"
echo "INPUT(\"$static\" -lrt -ldl -lpthread)" >"$stubs/libcudart.so"

export CUDA_HOME="$home" CUDA_PATH="$home" CUDA_ROOT="$home" PATH="$home/bin:$PATH"
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target/cuda}"
# Paths may have spaces: the flags are divided by another sign.
export CARGO_ENCODED_RUSTFLAGS="-L"$'\x1f'"native=$stubs"$'\x1f'"-Cstrip=symbols"
features="${FEATURES:-cuda,nccl}"
cargo build --release --features "$features"
if [[ "${TESTS:-yes}" == yes ]]; then
    # The checks of operations, device beside CPU, as one program that needs no cargo where it runs.
    tests="$(cargo test --release --features "$features" --lib --no-run --message-format=json-render-diagnostics |
        python3 -c 'import json, sys
for line in sys.stdin:
    line = json.loads(line)
    if line.get("executable") and line["target"]["kind"] != ["bin"]: print(line["executable"])' | tail -1)"
    cp "$tests" "$CARGO_TARGET_DIR/release/llmbs-tests"
    echo "$CARGO_TARGET_DIR/release/llmbs-tests"
fi
echo "$CARGO_TARGET_DIR/release/llmbs"
