"""Holds what llmbs writes for Hugging Face against what transformers and PEFT make of it.

    python scripts/check-hf.py FOLDER --llmbs target/release/llmbs [--merged FOLDER]

FOLDER is a run or an exported folder. `initial/` is loaded as AutoTokenizer and AutoModelForCausalLM, `anneal/` as
PeftModel. Compared are the ids of texts with item tokens in them and the text the model goes on with (`llmbs
generate`), and the log-probabilities of items after histories (`llmbs recommend`), without and with the adapter. The
folder of `llmbs export --merged` has to give what PEFT gives with the adapter. Exit code 1 where anything differs.
Needs Python 3.11, torch, transformers and peft; scripts/check-hf.sh makes all of it."""
import argparse
import importlib
import json
import os
import pathlib
import stat
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

compare_hf_beam = importlib.import_module("compare-hf-beam")
first_instruction, RepeatBias = compare_hf_beam.first_instruction, compare_hf_beam.RepeatBias

# Log-probabilities of one item by two programs, in f32, may differ by this much.
TOLERANCE = 1e-3
# So many items are asked for after each history, and so many tokens after each text.
TOP, NEW = 20, 12
HISTORIES = ["0", "3,14,15", "1,2,3,4,5,6,7,8,9,10"]

faults = []


def check(holds, what):
    print(f"{'ok   ' if holds else 'WRONG'} {what}")
    if not holds:
        faults.append(what)


def asked(args, folder, *words):
    """What llmbs answers."""
    command = [args.llmbs, "--quiet", "--device", "cpu", "--run", folder, *words, "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def read(path):
    return json.loads(path.read_text())


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder / "initial", dtype=torch.float32)
    return model.eval()


def files(folder):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    check(all(mode & 0o444 == 0o444 for mode in modes.values()), f"{len(modes)} files can be read by everybody")


def tokenizer_and_settings(folder, tokenizer, model):
    config = read(folder / "initial/tokenizer_config.json")
    check(tokenizer.is_fast and len(tokenizer) <= model.config.vocab_size,
          f"{len(tokenizer)} tokens, {model.config.vocab_size} rows")
    check(tokenizer.pad_token is not None and tokenizer.padding_side == config["padding_side"],
          f"padding: {tokenizer.pad_token!r}, {tokenizer.padding_side}")
    check(tokenizer.model_max_length == model.config.max_position_embeddings,
          f"model_max_length {tokenizer.model_max_length}")
    check(tokenizer.eos_token_id is not None, f"eos {tokenizer.eos_token!r}, bos {tokenizer.bos_token!r}")
    if "chat_template" in config:
        text = tokenizer.apply_chat_template([{"role": "user", "content": "soap?"}], tokenize=False)
        check("soap?" in text, f"chat template: {text!r}")
    else:
        print("     no chat template")
    for key, value in read(folder / "initial/generation_config.json").items():
        if key != "_from_model_config" and not key.endswith("_version"):
            check(getattr(model.generation_config, key) == value, f"generation: {key} {value}")


def generations(args, tokenizer, model, items):
    """Ids of texts with items between, and what is written after them, alone and in a padded batch."""
    first, last = "".join(items["0"]), "".join(items[str(len(items) - 1)])
    texts = [f"What is {first}?", f"{first}{last}", f"After {first}, then {last} at 3.50, it's crème <con", "A soap"]
    ours = [asked(args, args.folder, "generate", "--max-tokens", str(NEW), "--prompt", text) for text in texts]
    check(all(tokenizer(text)["input_ids"] == our["prompt_ids"] for text, our in zip(texts, ours)),
          f"ids of {len(texts)} texts with item tokens")
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    ends = tokenizer.eos_token_id
    written = model.generate(**batch, max_new_tokens=NEW, do_sample=False, eos_token_id=ends,
                             pad_token_id=tokenizer.pad_token_id)[:, batch["input_ids"].shape[1]:].tolist()
    written = [ids[:ids.index(ends)] if ends in ids else ids for ids in written]
    check(written == [our["ids"] for our in ours], "what is written after them, as one padded batch")


def scores(model, tokenizer, folder, items, history, asked_for):
    """The log-probability of each item after a history, by torch."""
    token_ids = {int(item): tokenizer.convert_tokens_to_ids(tokens) for item, tokens in items.items()}
    prompt = tokenizer(first_instruction(folder))["input_ids"]
    prompt = prompt + [token for item in history for token in token_ids[item]]
    rows = torch.tensor([prompt + token_ids[item] for item in asked_for])
    bias = RepeatBias(model, len(prompt), [token_ids[item] for item in history])
    logits = model(rows).logits[:, len(prompt) - 1:-1]
    ends = range(len(prompt), rows.shape[1])
    logits = torch.stack([bias(rows[:, :end], logits[:, at]) for at, end in enumerate(ends)], 1).log_softmax(-1)
    return logits.gather(2, rows[:, len(prompt):, None]).squeeze(2).sum(1).tolist()


def items_after_histories(args, folder, tokenizer, model, items, adapter, what):
    furthest = 0.0
    for history in HISTORIES:
        given = ["--set", "eval.normalize=vocab", "recommend", "--history", history, "--top", str(TOP)]
        answer = asked(args, folder, *given, *adapter)
        ours = {found["item"]: found["score"] for found in answer}
        seen = [int(item) for item in history.split(",")]
        theirs = scores(model, tokenizer, folder, items, seen, list(ours))
        furthest = max([furthest] + [abs(a - b) for a, b in zip(ours.values(), theirs)])
    check(furthest < TOLERANCE,
          f"{what}: {len(HISTORIES)} x {TOP} items, log-probabilities at most {furthest:.1e} apart")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--llmbs", default="target/release/llmbs", metavar="PROGRAM")
    parser.add_argument("--merged", type=pathlib.Path, metavar="FOLDER", help="the same, exported with --merged")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    folder = args.folder
    print(f"{folder}: torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
    files(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / "initial")
    model = load(folder)
    items = read(folder / "index/index.json")
    tokenizer_and_settings(folder, tokenizer, model)
    generations(args, tokenizer, model, items)
    items_after_histories(args, folder, tokenizer, model, items, ["--adapter", "off"], "initial/")
    if (folder / "anneal").exists():
        prompt = torch.tensor([tokenizer(first_instruction(folder))["input_ids"]])
        before = model(prompt).logits
        adapted = peft.PeftModel.from_pretrained(model, folder / "anneal").eval()
        after = adapted(prompt).logits
        print(f"     the adapter moves logits by up to {(after - before).abs().max():.3f}")
        items_after_histories(args, folder, tokenizer, adapted, items, ["--adapter", "on"], "anneal/")
        if args.merged:
            merged = load(args.merged)
            apart = (merged(prompt).logits - after).abs().max().item()
            check(apart < TOLERANCE, f"--merged: logits at most {apart:.1e} from those of PEFT")
            items_after_histories(args, args.merged, tokenizer, merged, items, [], "--merged")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
