#!/usr/bin/env bash
# Makes a row or a table of docs/results.md: trains and evaluates with three seeds, and prints means and spread under
# both ranking rules.
#
#   scripts/reproduce.sh demo                   # llmbs, with SASRec and item-knn beside it, and paired tests
#   scripts/reproduce.sh beauty FOLDER
#   scripts/reproduce.sh table2 beauty FOLDER   # baselines, what the paper publishes, then generative systems
#   scripts/reproduce.sh table4 beauty FOLDER   # the parts of the method, one after another
#
# FOLDER is the dataset's; `data/Beauty` alone stands for `beauty data/Beauty`. Without texts there are no generative
# systems. RUNS is a folder for the runs (runs/reproduce); what is finished there is not done again,
# what was cut off goes on. LLMBS is the program (that of this folder, built anew).
set -euo pipefail
table=""
case "${1:-}" in table2 | table4) table="$1" && shift ;; esac
name="${1:?the name of a configuration in configs/}" folder="${2:-}"
if [[ -z "$folder" && ! -e "$(dirname "$0")/../configs/$name.toml" ]]; then
    folder="$name" name="$(basename "$name")" name="${name,,}"
    [[ -d "$folder" ]] || { echo "$folder: neither a configuration in configs/ nor a folder" >&2 && exit 2; }
fi
data=() texts=(configs/demo.toml)
if [[ -n "$folder" ]]; then
    folder="$(realpath "$folder")"
    data=(--set "data.path=$folder") texts=("$folder"/*.item.json)
fi
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
        if [[ -e "${texts[0]}" ]]; then
            llmbs "$name-table2" ablate configs/ablations/table2.toml
        else
            echo "the generative systems are made of texts, and $folder has no *.item.json" >&2
        fi
        ;;
    table4) llmbs "$name-table4" ablate configs/ablations/table4.toml ;;
    *) llmbs "$name" ablate scripts/reproduce.toml ;;
esac
