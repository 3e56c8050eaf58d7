#!/usr/bin/env bash
# Times llmbs beside PyTorch (Hugging Face's LlamaForCausalLM, its generate, PEFT) on the same work, in turns on
# this machine, and prints the median of each, its peak memory, and their ratios. Do nothing else on the
# machine meanwhile.
#
#   scripts/bench-vs-torch.sh [ROUNDS] [PATTERN]
#
# What is timed on the other side lies in scripts/peers/. PATTERN picks lines of work, e.g. "train smollm2". PYTHON
# names a Python with torch, transformers and peft; without it one is made in .peers/.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds="${1:-3}"
pattern="${2:-.}"
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=.peers/bin/python
    [[ -x .peers/bin/pip ]] || python3 -m venv .peers
    .peers/bin/pip install --quiet torch transformers accelerate peft
fi
cargo build --release --quiet

# "SPEED BYTES" of one run. Hugging Face generates fastest in other batches than llmbs: each has its own.
ours() {
    local what="$1" shape="$2" dtype="$3"
    case "$what" in
    train) set -- train --shape "$shape" --batch "$4" --seq "$5" --steps "$6" ;;
    lora) set -- train --lora --shape "$shape" --batch "$4" --seq "$5" --steps "$6" ;;
    generate) set -- generate --shape "$shape" --batch "$([[ $shape == tiny ]] && echo 64 || echo 32)" --prompt "$5" ;;
    esac
    target/release/llmbs --device cpu bench "$@" --dtype "$dtype" --json | "$PYTHON" -c '
import json, sys
figures = json.load(sys.stdin)
print(figures.get("tokens_per_s") or figures["users_per_s"], figures["peak_memory_bytes"])'
}
theirs() {
    local what="$1" shape="$2" dtype="$3" batch="$4" length="$5" steps="$6"
    case "$what" in
    train) set -- torch_train.py "$shape" "$dtype" "$batch" "$length" "$steps" ;;
    lora) set -- torch_lora.py "$shape" "$dtype" "$batch" "$length" "$steps" ;;
    generate) set -- torch_generate.py "$shape" "$dtype" "$batch" "$length" ;;
    esac
    # Both compute on the CPU. A core type that OpenBLAS was told to assume misleads torch on some machines.
    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE CUDA_VISIBLE_DEVICES= "$PYTHON" "scripts/peers/$1" "${@:2}" |
        sed -nE 's/.* ([0-9.]+) (tok|users)\/s.* peak ([0-9]+) bytes$/\1 \3/p'
}
median() { cut -d' ' -f"$1" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

printf '%-30s %10s %10s %7s %9s %9s %7s\n' work llmbs torch ratio 'GB' 'GB' ratio
while read -r work; do
    read -ra arguments <<<"$work"
    a='' b=''
    for _ in $(seq "$rounds"); do
        a+="$(ours "${arguments[@]}")"$'\n'
        b+="$(theirs "${arguments[@]}")"$'\n'
    done
    for side in 1 2; do
        printf '%s' "$a" | median "$side"
        printf '%s' "$b" | median "$side"
    done | xargs | awk -v work="${arguments[*]:0:5}" '{
        printf "%-30s %10.2f %10.2f %7.2f %9.3f %9.3f %7.3f\n", work, $1, $2, $1 / $2, $3 / 1e9, $4 / 1e9, $3 / $4
    }'
done < <(grep -E "$pattern" <<'WORK'
train tiny f32 32 128 8
train tiny bf16 32 128 8
train smollm2 f32 8 128 3
train smollm2 bf16 8 128 3
lora smollm2 f32 8 128 3
lora smollm2 bf16 8 128 3
generate tiny f32 8 128 1
generate tiny bf16 8 128 1
generate smollm2 f32 4 128 1
generate smollm2 bf16 4 128 1
WORK
)
