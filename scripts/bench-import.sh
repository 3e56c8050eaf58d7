#!/usr/bin/env bash
# Times `llmbs data import` beside polars reading the same CSV of ROWS rows, in turns on this machine. polars parses
# the file into columns and no more; llmbs also numbers the ids, orders, drops duplicates and writes the dataset. Do
# nothing else on the machine meanwhile.
#
#   scripts/bench-import.sh [ROUNDS]
#
# ROWS is 10,000,000 unless set. PYTHON names a Python with polars; without it one is made in .peers/.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds="${1:-3}"
rows="${ROWS:-10000000}"
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=.peers/bin/python
    [[ -x .peers/bin/pip ]] || python3 -m venv .peers
    .peers/bin/pip install --quiet polars
fi
cargo build --release --quiet
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

"$PYTHON" - "$work/log.csv" "$rows" <<'PY'
import sys
import polars as pl

path, rows = sys.argv[1], int(sys.argv[2])
# Ids as Amazon's; few users and items have most of the interactions; in no order.
draw = pl.select(
    user=(pl.int_range(rows).shuffle(seed=1) / rows) ** 2 * rows / 20,
    item=(pl.int_range(rows).shuffle(seed=2) / rows) ** 3 * rows / 100,
    rating=pl.int_range(rows).shuffle(seed=3) % 5 + 1,
    timestamp=1_000_000_000 + pl.int_range(rows).shuffle(seed=4) * (600_000_000 // rows + 1),
)
draw.select(
    user_id=pl.format("A{}QX", (pl.col("user").cast(pl.Int64) * 7919 + 100_000_000)),
    item_id=pl.format("B{}", (pl.col("item").cast(pl.Int64) * 104_729 + 10_000_000)),
    rating=pl.format("{}.0", "rating"),
    timestamp="timestamp",
).write_csv(path)
PY
ls -l "$work/log.csv"
head -3 "$work/log.csv"

for _ in $(seq "$rounds"); do
    rm -rf "$work/Shop"
    "$PYTHON" - "$work" "$rows" <<'PY'
import os, subprocess, sys, time

work, rows = sys.argv[1], int(sys.argv[2])
start = time.perf_counter()
program = ["target/release/llmbs", "--quiet", "data", "import", f"{work}/log.csv", "--out", f"{work}/Shop", "--json"]
child = subprocess.Popen(program, stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
seconds = time.perf_counter() - start
assert status == 0
print(f"llmbs  {seconds:6.2f} s  {rows / seconds / 1e6:5.2f} M rows/s  peak {usage.ru_maxrss / 1024:.0f} MiB")
PY
    "$PYTHON" - "$work" "$rows" <<'PY'
import resource, sys, time
import polars as pl

work, rows = sys.argv[1], int(sys.argv[2])
start = time.perf_counter()
frame = pl.read_csv(f"{work}/log.csv")
seconds = time.perf_counter() - start
assert frame.height == rows
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"polars {seconds:6.2f} s  {rows / seconds / 1e6:5.2f} M rows/s  peak {peak / 1024:.0f} MiB")
PY
done
