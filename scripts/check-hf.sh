#!/usr/bin/env bash
# Trains a tiny run, takes an adapter of PEFT's own into it, exports it in every way, and holds what was written
# against transformers, PEFT and llama.cpp (scripts/check-hf.py, scripts/check-gguf.py).
#
#   scripts/check-hf.sh [BACKBONE]
#
# BACKBONE is a backbone.path, e.g. "$(scripts/fetch-smollm2.sh)", whose chat template and settings of generation have
# to come along; without it one is trained from scratch. PYTHON names a Python with torch, transformers, peft, gguf
# and, for llama.cpp, xllamacpp; without it one is made in .peers/.
set -euo pipefail
[[ ! -e "${1:-}" ]] || set -- "$(realpath "$1")"
cd "$(dirname "$0")/.."

backbone="${1:-}"
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=.peers/bin/python
    [[ -x .peers/bin/pip ]] || python3 -m venv .peers
    .peers/bin/pip install --quiet torch transformers accelerate peft gguf safetensors
    .peers/bin/pip install --quiet --only-binary :all: xllamacpp || echo 'no wheel of llama.cpp for this machine' >&2
fi
cargo build --release --quiet
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 PYTHONWARNINGS=ignore TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1

cat >"$work/tiny.toml" <<'TOML'
[data.synthetic]
users = 40
items = 30
groups = 3
[backbone.scratch]
vocab-size = 400
hidden-size = 64
intermediate-size = 96
num-hidden-layers = 2
num-attention-heads = 2
num-key-value-heads = 1
[index]
source = "semantic"
[index.semantic]
k = 8
[train]
repeat-bias = true
[train.warmup]
epochs = 1
[train.validation]
users = 8
[train.initial]
epochs = 1
batch = 32
[train.tasks]
preference = 0.2
semantic = 0.2
TOML
if [[ -n "$backbone" ]]; then
    printf '[backbone]\npath = "%s"\n' "$backbone" >>"$work/tiny.toml"
fi
llmbs() { target/release/llmbs --quiet --config "$work/tiny.toml" --run "$work/run" "$@" >/dev/null; }

llmbs index
llmbs train --stage initial
"$PYTHON" scripts/peers/peft_adapter.py "$work/run/initial" "$work/adapter"
llmbs import-adapter "$work/adapter"
llmbs export --out "$work/plain" --gguf f16
llmbs export --out "$work/merged" --merged --gguf q8_0
"$PYTHON" scripts/check-hf.py "$work/plain" --merged "$work/merged" --llmbs target/release/llmbs
"$PYTHON" scripts/check-gguf.py "$work/plain"
"$PYTHON" scripts/check-gguf.py "$work/merged"
