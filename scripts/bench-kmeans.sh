#!/usr/bin/env bash
# Times `llmbs bench kmeans` beside scikit-learn's and faiss's k-means on the same vectors, in turns on this machine.
# Do nothing else on the machine meanwhile.
#
#   scripts/bench-kmeans.sh [ROUNDS]
#
# PYTHON names a Python with numpy, scikit-learn and faiss-cpu; without it one is made in .peers/. SIZES are lines of
# "ITEMS DIM"; the peers cluster in as many flat clusters as the root of the tree has children.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds="${1:-3}"
sizes="${SIZES:-12101 576
18357 576
100000 128
1000000 128}"
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=.peers/bin/python
    [[ -x .peers/bin/pip ]] || python3 -m venv .peers
    .peers/bin/pip install --quiet numpy scikit-learn faiss-cpu
fi
cargo build --release --quiet
vectors="$(mktemp --suffix .npy)"
trap 'rm -f "$vectors"' EXIT

while read -r items dim; do
    echo "== $items x $dim"
    for _ in $(seq "$rounds"); do
        figures="$(target/release/llmbs bench kmeans --items "$items" --dim "$dim" --out "$vectors" --json)"
        "$PYTHON" - "$figures" <<'PY'
import json, sys
f = json.loads(sys.argv[1])
print(f"llmbs tree {f['seconds']:.2f} (levels {f['levels']}, peak {f['peak_memory_bytes'] / 1e9:.2f} GB)")
print(f"llmbs root {f['root_seconds']:.2f} {f['root_mean_squared_distance']:.4f} (branching {f['branching']})")
PY
        branching="$("$PYTHON" -c 'import json, sys; print(json.loads(sys.argv[1])["branching"])' "$figures")"
        # A core type that OpenBLAS was told to assume misleads numpy on some machines.
        env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE "$PYTHON" scripts/peers/kmeans.py "$vectors" "$branching"
    done
done <<<"$sizes"
