#!/usr/bin/env bash
# Makes a row of docs/results.md: trains and evaluates with each seed, with SASRec beside it, and prints the mean and
# the spread over seeds under both ranking rules.
#
#   scripts/reproduce.sh demo
#   scripts/reproduce.sh beauty FOLDER
#
# FOLDER is the dataset's. RUNS is a folder for the runs (runs/reproduce); what is finished there is not done again,
# what was cut off goes on. SEEDS are the seeds (1 2 3), LLMBS the program (that of this folder, built anew).
set -euo pipefail
cd "$(dirname "$0")/.."

name="${1:?the name of a configuration in configs/}"
runs="${RUNS:-runs/reproduce}/$name"
program="${LLMBS:-target/release/llmbs}"
[[ -n "${LLMBS:-}" ]] || cargo build --release --quiet
data=()
[[ -z "${2:-}" ]] || data=(--set "data.path=$2")
seeds="${SEEDS:-1 2 3}"

for seed in $seeds; do
    llmbs=("$program" --config "configs/$name.toml" --run "$runs/$seed" --seed "$seed" "${data[@]}")
    "${llmbs[@]}" run >/dev/null
    "${llmbs[@]}" baseline sasrec >/dev/null
done
python3 - "$runs" $seeds <<'PY'
import json, statistics, sys
runs, *seeds = sys.argv[1:]
def column(path, rule):
    return [json.load(open(path.format(runs=runs, seed=seed)))[rule] for seed in seeds]
ours = "{runs}/{seed}/eval/test-%s-b20.json"
sasrec = "{runs}/{seed}/baseline/sasrec/seed-{seed}/test.json"
print(f"seeds {', '.join(seeds)}: mean (standard deviation)")
print(f"{'items of the user':<18}{'metric':<11}{'popularity':>11}{'SASRec':>17}{'adapter off':>17}{'adapter on':>17}")
for rule, end in [("ranked", ""), ("left out", "_history_excluded")]:
    columns = [(sasrec, "popularity"), (sasrec, "metrics"), (ours % "off", "metrics"), (ours % "on", "metrics")]
    found = [column(path, key + end) for path, key in columns]
    for metric in ["recall@1", "recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@20"]:
        cells = []
        for results in found:
            values = [result[metric] for result in results]
            spread = f" ({statistics.stdev(values):.4f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}")
        cells[0] = cells[0].split()[0]
        print(f"{rule:<18}{metric:<11}{cells[0]:>11}{cells[1]:>17}{cells[2]:>17}{cells[3]:>17}")
PY
