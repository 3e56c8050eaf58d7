#!/usr/bin/env bash
# Makes a row of docs/results.md: trains and evaluates with three seeds, with SASRec beside it, and prints means,
# spread and paired tests under both ranking rules.
#
#   scripts/reproduce.sh demo
#   scripts/reproduce.sh beauty FOLDER
#
# FOLDER is the dataset's. RUNS is a folder for the runs (runs/reproduce); what is finished there is not done again,
# what was cut off goes on. LLMBS is the program (that of this folder, built anew).
set -euo pipefail
cd "$(dirname "$0")/.."

name="${1:?the name of a configuration in configs/}"
data=()
[[ -z "${2:-}" ]] || data=(--set "data.path=$2")
program="${LLMBS:-target/release/llmbs}"
[[ -n "${LLMBS:-}" ]] || cargo build --release --quiet
"$program" --config "configs/$name.toml" --run "${RUNS:-runs/reproduce}/$name" "${data[@]}" ablate scripts/reproduce.toml
