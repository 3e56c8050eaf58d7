#!/usr/bin/env bash
# Makes a row or a table of docs/results.md: trains and evaluates with three seeds, and prints means and spread under
# both ranking rules.
#
#   scripts/reproduce.sh demo                   # llmbs, with SASRec beside it, and paired tests
#   scripts/reproduce.sh beauty FOLDER
#   scripts/reproduce.sh table2 beauty FOLDER   # the baselines, what the paper publishes, then the generative systems
#   scripts/reproduce.sh table4 beauty FOLDER   # the parts of the method, one after another
#
# FOLDER is the dataset's. RUNS is a folder for the runs (runs/reproduce); what is finished there is not done again,
# what was cut off goes on. LLMBS is the program (that of this folder, built anew).
set -euo pipefail
table=""
case "${1:-}" in table2 | table4) table="$1" && shift ;; esac
name="${1:?the name of a configuration in configs/}"
data=()
[[ -z "${2:-}" ]] || data=(--set "data.path=$(realpath "$2")")
runs="${RUNS:+$(realpath -m "$RUNS")}"
program="${LLMBS:+$(realpath "$LLMBS")}"
cd "$(dirname "$0")/.."
[[ -n "$program" ]] || cargo build --release --quiet
llmbs() {
    local folder="$1"
    shift
    "${program:-target/release/llmbs}" --config "configs/$name.toml" --run "${runs:-runs/reproduce}/$folder" \
        "${data[@]}" "$@"
}
case "$table" in
    table2)
        llmbs "$name-baselines" baseline all --seeds 1,2,3
        llmbs "$name-table2" ablate configs/ablations/table2.toml
        ;;
    table4) llmbs "$name-table4" ablate configs/ablations/table4.toml ;;
    *) llmbs "$name" ablate scripts/reproduce.toml ;;
esac
