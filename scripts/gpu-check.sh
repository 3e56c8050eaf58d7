#!/usr/bin/env bash
# What holds on a GPU, on a machine with one and without a network: the checks of all operations on the device
# beside the CPU, training and generation beside PyTorch, and the demo on CUDA beside the CPU. Prints one table, with
# the seconds since the start.
#
#   scripts/gpu-check.sh BINARY [PART…]
#
# PART is one of ops, nccl, tiny, smollm2, llama7b, profile, demo; all of them where none is named. BINARY is what
# scripts/build-cuda.sh built; llmbs-tests beside it has the checks. CUDA's libraries have to be on LD_LIBRARY_PATH;
# those of a PyTorch that PYTHON (python3) has are found by themselves. OUT is a folder for logs.
set -uo pipefail
binary="$(realpath "${1:?the program that scripts/build-cuda.sh built}")"
tests="$(dirname "$binary")/llmbs-tests"
out="${OUT:+$(realpath -m "$OUT")}"
cd "$(dirname "$0")/.."
shift
parts="${*:-ops nccl tiny smollm2 llama7b profile demo}"
python="${PYTHON:-python3}"
out="${out:-$(mktemp -d)}"
mkdir -p "$out"
libraries="$("$python" -c 'import glob, os, site
for root in site.getsitepackages() + [site.getusersitepackages()]:
    print(":".join(glob.glob(os.path.join(root, "nvidia", "*", "lib"))))' 2>/dev/null | paste -sd:)"
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries"

failed=0
row() { printf '| %-44s | %-22s | %4s |\n' "$1" "$2" "${3:-$SECONDS}"; }
run() { # NAME COMMAND…: a row that says whether it went well.
    local name="$1"
    shift
    if "$@" >"$out/${name//[^A-Za-z0-9]/-}.log" 2>&1; then row "$name" ok; else row "$name" FAILED && failed=1; fi
}
figure() { # NAME KEY COMMAND…: a row with the number that the command's JSON has under KEY.
    local name="$1" key="$2" value
    shift 2
    value="$("$@" 2>"$out/${name//[^A-Za-z0-9]/-}.log" | "$python" -c '
import json, sys
print("%.4g" % json.load(sys.stdin)[sys.argv[1]])' "$key" 2>/dev/null)" || { value=FAILED && failed=1; }
    row "$name" "$value"
}
metrics() { # RUN: Recall@10 and NDCG@10 of the demo.
    "$python" -c 'import json, sys
m = json.load(open(sys.argv[1] + "/eval/test-on-b20.json"))["metrics"]
print("%.4f %.4f" % (m["recall@10"], m["ndcg@10"]))' "$1" 2>/dev/null || { echo FAILED && return 1; }
}

wanted() { [[ " $parts " == *" $1 "* ]]; }
torch() { # [MODULE]: whether PyTorch and transformers, and MODULE, are there; importing them takes seconds.
    "$python" -c 'import importlib.util, sys
sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))' torch transformers "$@"
}
peer() { # NAME SCRIPT ARGUMENTS…: a row with what PyTorch says.
    local name="$1" script="$2" said
    shift 2
    said="$("$python" "scripts/peers/$script" "$@" 2>"$out/${name//[^A-Za-z0-9]/-}.log" | tail -1)" ||
        { said=FAILED && failed=1; }
    row "$name" "$said"
}

row check result s
row "--------" "------" "--"
if wanted ops && [[ -x "$tests" ]]; then
    LLMBS_TEST_DEVICE=cuda run "operations on the device" "$tests" ops::
fi
if wanted nccl && [[ -x "$tests" ]]; then
    run "NCCL, one rank" "$tests" ranks::nccl --ignored
fi
if { wanted ops || wanted nccl; } && [[ ! -x "$tests" ]]; then
    row "checks" "NOT THERE: $tests" && failed=1
fi
for dtype in f32 bf16; do
    wanted tiny || break
    figure "train tiny $dtype, tokens/s" tokens_per_s \
        "$binary" --device cuda bench train --shape tiny --dtype $dtype --batch 32 --seq 128 --steps 20 --json
    figure "generate tiny $dtype, batch 64, users/s" users_per_s \
        "$binary" --device cuda bench generate --shape tiny --dtype $dtype --batch 64 --prompt 128 --json
    torch && peer "PyTorch train tiny $dtype" torch_train.py tiny $dtype 32 128 20
    torch && peer "Hugging Face generate tiny $dtype, batch 4" torch_generate.py tiny $dtype 4 128
done
for dtype in f32 bf16; do
    wanted smollm2 || break
    figure "train smollm2 $dtype, tokens/s" tokens_per_s \
        "$binary" --device cuda bench train --shape smollm2 --dtype $dtype --batch 16 --seq 128 --steps 10 --json
    torch && peer "PyTorch train smollm2 $dtype" torch_train.py smollm2 $dtype 16 128 10
done
# 27 GB of weights.
for dtype in f32 bf16; do
    wanted llama7b || break
    figure "lora llama7b $dtype, tokens/s" tokens_per_s \
        "$binary" --device cuda bench train --shape llama7b --dtype $dtype --lora --batch 4 --seq 128 --steps 3 --json
    figure "embed llama7b $dtype, tokens/s" tokens_per_s \
        "$binary" --device cuda bench embed --shape llama7b --dtype $dtype --json
    figure "generate llama7b $dtype, batch 8, users/s" users_per_s \
        "$binary" --device cuda bench generate --shape llama7b --dtype $dtype --batch 8 --prompt 128 --batches 1 --json
    torch peft && peer "PEFT lora llama7b $dtype" torch_lora.py llama7b $dtype 4 128 3
done
profile() { # NAME COMMAND…: rows with the kernels that take most of the GPU's time, by Nsight Systems.
    local name="$1" trace="$out/${1//[^A-Za-z0-9]/-}" said
    shift
    if ! command -v nsys >"$trace.log"; then
        row "profile of $name" "no nsys here"
        return
    fi
    nsys profile --force-overwrite=true --output="$trace" "$@" >"$trace.log" 2>&1 &&
        said="$(nsys stats --report=cuda_gpu_kern_sum --format=csv "$trace.nsys-rep" 2>>"$trace.log" | "$python" -c '
import csv, sys
lines = list(sys.stdin)
start = next(at for at, line in enumerate(lines) if line.startswith("Time (%)"))
for row in list(csv.DictReader(lines[start:]))[:8]:
    print(row["Time (%)"], row["Name"][:30], sep="\t")')" || { said="FAILED" && failed=1; }
    while IFS=$'\t' read -r share kernel; do row "$name: ${kernel:-profile}" "$share${kernel:+ %}"; done <<<"$said"
}
if wanted profile; then
    profile "smollm2 bf16" \
        "$binary" --device cuda bench train --shape smollm2 --dtype bf16 --batch 16 --seq 128 --steps 10 --json
fi
for device in cuda cpu; do
    wanted demo || break
    run "demo on $device" "$binary" --device "$device" --config configs/demo.toml --run "$out/demo-$device" run
    said="$(metrics "$out/demo-$device")" || failed=1
    row "demo on $device: Recall@10, NDCG@10" "$said"
done
echo "logs: $out"
exit $failed
