#!/usr/bin/env bash
# Times llmbs and PyTorch (Hugging Face LlamaForCausalLM) on the same training steps, in turns on this
# machine, and prints the median of each and their ratio. Do nothing else on the machine meanwhile.
#
#   scripts/bench-vs-torch.sh PEER_TRAIN.py [ROUNDS]
#
# PEER_TRAIN.py takes "tiny|smollm2 f32|bf16 BATCH SEQ STEPS" and prints "... N tok/s, ...". PYTHON names a
# Python with torch and transformers; without it one is made in .peers/.
set -euo pipefail
cd "$(dirname "$0")/.."

peer="${1:?the script that times PyTorch}"
rounds="${2:-3}"
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=.peers/bin/python
    [[ -x "$PYTHON" ]] || {
        python3 -m venv .peers
        .peers/bin/pip install --quiet torch transformers accelerate peft
    }
fi
cargo build --release --quiet

ours() {
    target/release/llmbs bench train --shape "$1" --dtype "$2" --batch "$3" --seq "$4" \
        --steps "$5" --json |
        "$PYTHON" -c 'import json, sys; print(json.load(sys.stdin)["tokens_per_s"])'
}
theirs() {
    # A core type that OpenBLAS was told to assume misleads torch on some machines.
    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE "$PYTHON" "$peer" "$@" 2>/dev/null |
        grep -o '[0-9]* tok/s' | cut -d' ' -f1
}
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

printf '%-24s %12s %12s %8s\n' work llmbs torch ratio
for work in "tiny f32 32 128 8" "tiny bf16 32 128 8" "smollm2 f32 8 128 3" "smollm2 bf16 8 128 3"; do
    read -ra arguments <<<"$work"
    a=() b=()
    for _ in $(seq "$rounds"); do
        a+=("$(ours "${arguments[@]}")")
        b+=("$(theirs "${arguments[@]}")")
    done
    a_median="$(printf '%s\n' "${a[@]}" | median)"
    b_median="$(printf '%s\n' "${b[@]}" | median)"
    awk -v work="${arguments[*]:0:4}" -v a="$a_median" -v b="$b_median" \
        'BEGIN { printf "%-24s %12.0f %12.0f %8.2f\n", work, a, b, a / b }'
done
