"""Holds the item index that `llmbs` writes and reads as a PyTorch tensor against PyTorch.

    llmbs --run RUN index
    python scripts/check-torch-index.py RUN [--llmbs target/release/llmbs]

The run's index is exported by `llmbs index export --format grid` and has to be what `torch.load` gives; then PyTorch
saves it in several types and layouts, and each has to come back by `llmbs index import` into a copy of the run. RUN
itself is left as it is. Exit code 1 where one does not. Needs Python 3.11 and torch."""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch


def codes_of(index):
    """(levels, items) of an index in LC-Rec's form."""
    rows = [[int(token.strip("<>").split("_")[1]) for token in index[str(item)]] for item in range(len(index))]
    return torch.tensor(rows).T.contiguous()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--llmbs", default="target/release/llmbs")
    args = parser.parse_args()
    index = json.loads((args.run / "index/index.json").read_text())
    codes = codes_of(index)
    failures = 0

    def report(what, ok):
        nonlocal failures
        failures += not ok
        print(f"{what:<48}{'same' if ok else 'DIFFERS'}")

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        exported, copy = folder / "exported.pt", folder / "run"
        command = [args.llmbs, "--run", args.run, "index", "export", "--format", "grid", "--out", exported]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for weights_only in [True, False]:
            found = torch.load(exported, weights_only=weights_only)
            same = found.dtype == torch.int64 and torch.equal(found, codes)
            report(f"exported, torch.load(weights_only={weights_only})", same)
        found = torch.load(exported, mmap=True)
        report("exported, torch.load(mmap=True)", torch.equal(found, codes))

        shutil.copytree(args.run, copy)
        saved = {
            "int64": codes,
            "int64, transposed in place": codes.T.contiguous().T,
            "int64, (items, levels)": codes.T.contiguous(),
            "int64, a part of more": torch.cat([codes, codes])[: len(codes)],
            "int32": codes.int(),
            "int16": codes.short(),
        }
        for what, tensor in saved.items():
            path = folder / "saved.pt"
            torch.save(tensor, path)
            shutil.rmtree(copy / "index")
            command = [args.llmbs, "--run", copy, "index", "import", path, "--force"]
            done = subprocess.run(command, capture_output=True, text=True)
            written = copy / "index/index.json"
            report(f"imported, {what}", done.returncode == 0 and json.loads(written.read_text()) == index)
            if done.returncode:
                print(done.stderr, file=sys.stderr)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
