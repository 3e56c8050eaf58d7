#!/usr/bin/env bash
# Runs the demo with every method, order, length and numbering of item index and prints a line of a table for each:
# items moved, the sizes of the levels, Recall@10 and NDCG@10 on validation and test, adapter on. docs/log.md has one.
#
#   scripts/compare-indices.sh RUNS [PATTERN]
#
# RUNS is a folder for the runs, one a line; what is finished there is not done again. PATTERN picks lines by name.
# SEEDS are the seeds of every line (42), LLMBS the program (that of this folder, built anew).
set -euo pipefail
runs="$(realpath -m "${1:?a folder for the runs}")"
pattern="${2:-.}"
program="${LLMBS:+$(realpath "$LLMBS")}"
cd "$(dirname "$0")/.."
[[ -n "$program" ]] || cargo build --release --quiet
program="${program:-target/release/llmbs}"

line() {
    local name="$1" set seed options=()
    shift
    [[ "$name" =~ $pattern ]] || return 0
    for set in "$@"; do options+=(--set "$set"); done
    for seed in ${SEEDS:-42}; do
        local run="$runs/$name-$seed"
        local llmbs=("$program" --config configs/demo.toml --run "$run" --seed "$seed" "${options[@]}")
        "${llmbs[@]}" run >/dev/null
        "${llmbs[@]}" eval --split valid --adapter on >/dev/null
        python3 - "$run" "$seed" "$*" <<'PY'
import json, sys
run, seed, settings = sys.argv[1:]
read = lambda name: json.load(open(f"{run}/{name}"))
figures = read("manifest.json")["stages"]["index"]["figures"]
moved = [str(source["moved"]) for source in figures.get("sources", {}).values()]
cells = [settings or "(default)", seed, " ".join(map(str, figures["levels"])), " + ".join(moved) or "-"]
for split in ["valid", "test"]:
    metrics = read(f"eval/{split}-on-b20.json")["metrics"]
    cells += [f"{int(metrics[name] * 1e4) / 1e4:.4f}" for name in ["recall@10", "ndcg@10"]]
print("| " + " | ".join(cells) + " |", flush=True)
PY
    done
}

columns="recall@10, valid | ndcg@10, valid | recall@10, test | ndcg@10, test"
echo "| settings | seed | codes a level | items moved | $columns |"
echo "|---|---|---|---|---|---|---|---|"
# Two levels a source of up to 32 codes, without a teacher: what the lines below change.
base=(index.method=hierarchical-kmeans index.shared=false index.semantic.levels=2 index.behavior.levels=2
    index.semantic.k=32 index.behavior.k=32 train.distillation.weight=0)
line demo
line trees "${base[@]}"
line aligned "${base[@]}" index.numbering=aligned
line rq-vae "${base[@]}" index.method=rq-vae
line random-trees "${base[@]}" index.method=random
line behavior-first "${base[@]}" index.order=behavior-first
line interleaved "${base[@]}" index.order=interleaved
line shared "${base[@]}" index.shared=true
line shared-residual "${base[@]}" index.shared=true index.method=residual-kmeans
line six "${base[@]}" index.semantic.levels=3 index.behavior.levels=3
line eight "${base[@]}" index.semantic.levels=4 index.behavior.levels=4
# Figure 5 of the paper: sources at one length and one number of codes a level. Trees of one source would have far
# fewer codes a level than those of two.
source=("${base[@]}" index.method=residual-kmeans)
line source-unit "${source[@]}" index.source=unit
line source-semantic "${source[@]}" index.source=semantic index.semantic.levels=4
line source-behavior "${source[@]}" index.source=behavior index.behavior.levels=4
line source-random "${source[@]}" index.source=random
# Identity: from codes that share their rows to an item of its own.
line two-64 "${base[@]}" index.shared=true index.method=residual-kmeans index.semantic.levels=1 \
    index.behavior.levels=1 index.semantic.k=64 index.behavior.k=64
line two-items "${base[@]}" index.shared=true index.method=residual-kmeans index.semantic.levels=1 \
    index.behavior.levels=1 index.behavior.k=1000
