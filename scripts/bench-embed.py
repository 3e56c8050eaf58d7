#!/usr/bin/env python3
"""Times `llmbs index` beside Hugging Face transformers at embedding item texts, in turns on this machine, and
compares what they give.

    scripts/bench-embed.py DATASET [--items 256] [--dtype f32] [--batches 8,16] [--rounds 3] [--model GGUF]

DATASET is a folder in LC-Rec's format; its first items are embedded, each text cut after 256 tokens. The
checkpoint is a GGUF file, by default the one that scripts/fetch-smollm2.sh fetches, dequantised by both. Hugging
Face gets every text of every item, sorted by length and padded, in batches of each size given, of which the
fastest counts; means are taken over the tokens of a text, then over the texts of an item. Loading is not
timed, tokenising is. Needs torch, transformers and gguf, and target/release/llmbs; do nothing else on the
machine meanwhile."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModel, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
FIELDS = ("title", "description", "categories", "brand")
CUT = 256


def text_of(item, field):
    value = item.get(field) or ""
    return (", ".join(value) if isinstance(value, list) else value).strip()


def subset(dataset, items, folder):
    """The first items as a dataset of its own, with one user, whom the semantic source does not look at."""
    name = dataset.name
    texts = json.loads((dataset / f"{name}.item.json").read_text())
    texts = {str(i): texts[str(i)] for i in range(items)}
    place = folder / name
    place.mkdir()
    (place / f"{name}.item.json").write_text(json.dumps(texts))
    (place / f"{name}.inter.json").write_text(json.dumps({"0": [0, 1, 2]}))
    return place, list(texts.values())


def ours(place, model, dtype, run):
    settings = {
        "data.path": place, "backbone.path": model, "backbone.dtype": dtype, "backbone.precision": dtype,
        "index.source": "semantic", "index.shared": "false", "index.semantic.max-text-tokens": CUT,
        "train.distillation.weight": 0,
    }
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    # A run folder of its own, so that nothing is taken over.
    subprocess.run([ROOT / "target/release/llmbs", "--quiet", "--run", run, *sets, "index"], check=True,
                   stdout=subprocess.DEVNULL, cwd=place.parent)
    figures = json.loads((run / "manifest.json").read_text())["stages"]["index"]["figures"]
    return figures, load_file(run / "index/semantic.safetensors")["embeddings"]


def theirs(model, tokenizer, items, batch):
    start = time.time()
    texts = [(i, text_of(item, f)) for i, item in enumerate(items) for f in FIELDS if text_of(item, f)]
    ids = tokenizer([text for _, text in texts], add_special_tokens=False)["input_ids"]
    ids = sorted(((row[:CUT], item) for row, (item, _) in zip(ids, texts)), key=lambda pair: len(pair[0]))
    sums = torch.zeros(len(items), model.config.hidden_size)
    counts = torch.zeros(len(items), 1)
    with torch.inference_mode():
        for first in range(0, len(ids), batch):
            rows = ids[first:first + batch]
            width = max(len(row) for row, _ in rows)
            padded = torch.tensor([row + [0] * (width - len(row)) for row, _ in rows])
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in rows])
            hidden = model(input_ids=padded, attention_mask=mask, use_cache=False).last_hidden_state.float()
            means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            owners = torch.tensor([item for _, item in rows])
            sums.index_add_(0, owners, means)
            counts.index_add_(0, owners, torch.ones(len(rows), 1))
    return time.time() - start, sums / counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--items", type=int, default=256)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--batches", default="8,16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    source = {"pretrained_model_name_or_path": str(args.model.parent), "gguf_file": args.model.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # SmolLM2's own tokenizer splits digits first; what transformers makes of a GGUF file has lost that.
    split = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(split)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = AutoModel.from_pretrained(**source, dtype=torch.float32).to(dtype).eval()
    batches = [int(size) for size in args.batches.split(",")]
    speeds, peers = [], {size: [] for size in batches}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        place, items = subset(args.dataset.resolve(), args.items, folder)
        for turn in range(args.rounds):
            figures, z = ours(place, args.model.resolve(), args.dtype, folder / f"run{turn}")
            speeds.append(figures["items_per_s"])
            for size in batches:
                seconds, other = theirs(model, tokenizer, items, size)
                peers[size].append(len(items) / seconds)
    cosine = torch.nn.functional.cosine_similarity(z, other)
    best = max(batches, key=lambda size: statistics.median(peers[size]))
    speed, peer = statistics.median(speeds), statistics.median(peers[best])
    json.dump({
        "items": len(items), "dtype": args.dtype, "items_per_s": speed, "hf_items_per_s": peer,
        "hf_batch": best, "ratio": speed / peer, "text_tokens": figures["text_tokens"],
        "embedded_tokens": figures["embedded_tokens"], "tokens_per_s": figures["tokens_per_s"],
        "cosine_min": cosine.min().item(), "cosine_mean": cosine.mean().item(),
    }, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
