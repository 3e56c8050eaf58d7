#!/usr/bin/env bash
# Runs the fuzz targets, one after another: scripts/fuzz.sh [SECONDS] [TARGET…]
#
# SECONDS (60) is for each target; without a TARGET all of fuzz/Cargo.toml are run, each from its seeds in
# fuzz/seeds and from what earlier runs found (fuzz/corpus). An input that panics, takes more than 20 s, more
# than 2 GiB of memory or asks for more than 1 GiB at once ends its target; the script goes on, names the input
# at the end and exits with 1. To keep it as a test, copy it to fuzz/seeds/TARGET: `cargo test` feeds all of them.
#
# Needs cargo-fuzz, which is installed where it is missing, and a C++ compiler for libFuzzer. Stable Rust will
# do: RUSTC_BOOTSTRAP=1 lets it take the flags of the coverage that guides the search.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
[ $# -gt 0 ] && shift
if ! [[ $seconds =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: scripts/fuzz.sh [SECONDS] [TARGET…]" >&2
  exit 2
fi
if [ $# -gt 0 ]; then
  targets=("$@")
else
  mapfile -t targets < <(sed -n '/^\[\[bin\]\]/,/^name/s/^name = "\(.*\)"/\1/p' fuzz/Cargo.toml)
fi
for target in "${targets[@]}"; do
  if [ ! -d "fuzz/seeds/$target" ]; then
    echo "no target is called $target; there are:" fuzz/seeds/* >&2
    exit 2
  fi
done

if ! command -v "${CXX:-c++}" > /dev/null; then
  echo "there is no C++ compiler (${CXX:-c++}), which libFuzzer is built with: install g++ or clang, or set CXX" >&2
  exit 2
fi
command -v cargo-fuzz > /dev/null || cargo install cargo-fuzz --locked

export RUSTC_BOOTSTRAP=1
# No sanitizer: those need nightly, and all unsafe code of ours lies behind the parsers.
cargo fuzz build --sanitizer none
host=$(rustc -vV | sed -n 's/^host: //p')

failed=()
for target in "${targets[@]}"; do
  echo "== $target, $seconds s"
  mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
  log="fuzz/artifacts/$target.log"
  # One thread: an input does the same each time. No traces of calls: errors would take longer than parsing.
  if ! RUST_BACKTRACE=0 RAYON_NUM_THREADS=1 \
    "fuzz/target/$host/release/$target" "fuzz/corpus/$target" "fuzz/seeds/$target" \
    -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
    -artifact_prefix="fuzz/artifacts/$target/" > "$log" 2>&1; then
    failed+=("$target: $(sed -n 's/.*Test unit written to //p' "$log" | tail -1)")
    grep -v '^#' "$log" | tail -n 20 || true
  fi
  grep -E '^(stat::number_of_executed_units|stat::peak_rss_mb)' "$log" || true
done

if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED %s\n' "${failed[@]}" >&2
  exit 1
fi
echo "no input failed"
