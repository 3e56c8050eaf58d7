#!/usr/bin/env bash
# Runs the demo with every method, order and length of item index and prints a line of docs/index.md's table for
# each: items moved, the sizes of the levels, Recall@10 and NDCG@10 on validation and test, adapter on.
#
#   scripts/compare-indices.sh RUNS [PATTERN]
#
# RUNS is a folder for the runs, one a line; what is finished there is not done again. PATTERN picks lines by name.
set -euo pipefail
cd "$(dirname "$0")/.."

runs="${1:?a folder for the runs}"
pattern="${2:-.}"
cargo build --release --quiet

line() {
    local name="$1" set options=()
    shift
    [[ "$name" =~ $pattern ]] || return 0
    for set in "$@"; do options+=(--set "index.$set"); done
    local llmbs=(target/release/llmbs --config configs/demo.toml --run "$runs/$name" "${options[@]}")
    "${llmbs[@]}" run >/dev/null
    "${llmbs[@]}" eval --split valid --adapter on >/dev/null
    python3 - "$runs/$name" "$*" <<'PY'
import json, sys
run, settings = sys.argv[1:]
read = lambda name: json.load(open(f"{run}/{name}"))
figures = read("manifest.json")["stages"]["index"]["figures"]
moved = [str(source["moved"]) for source in figures["sources"].values()]
cells = [settings or "(default)", " ".join(map(str, figures["levels"])), " + ".join(moved) or "-"]
for split in ["valid", "test"]:
    metrics = read(f"eval/{split}-on-b20.json")["metrics"]
    cells += [f"{int(metrics[name] * 1e4) / 1e4:.4f}" for name in ["recall@10", "ndcg@10"]]
print("| " + " | ".join(cells) + " |", flush=True)
PY
}

echo "| settings under index. | codes a level | items moved | recall@10, valid | ndcg@10, valid | recall@10, test | ndcg@10, test |"
echo "|---|---|---|---|---|---|---|"
line default
line residual method=residual-kmeans
line rq-vae method=rq-vae
line random method=random
line behavior-first order=behavior-first
line interleaved order=interleaved
line shared shared=true
line shared-residual shared=true method=residual-kmeans
line two-shared shared=true semantic.levels=1 behavior.levels=1 semantic.k=64 behavior.k=64
line six semantic.levels=3 behavior.levels=3
line eight semantic.levels=4 behavior.levels=4
