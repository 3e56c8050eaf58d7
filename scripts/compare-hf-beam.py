"""Holds trie-constrained beam search against Hugging Face's `generate` on a trained run, user by user.

The run's model (RUN/initial, float32) and index are read as anyone would read them; prompts are built again
from the dataset, the tokenizer and the words that the run is asked in. What `llmbs` recommended has to be there
already, normalised over the whole vocabulary as `prefix_allowed_tokens_fn` does:

    llmbs --run RUN --set eval.normalize=vocab run
    llmbs --run RUN eval --beam 20 --limit 200 --adapter off
    llmbs --run RUN data synth --out DATA          # only where the run is of the synthetic shop
    python scripts/compare-hf-beam.py RUN DATA --users 200

DATA is a dataset folder in LC-Rec's format. Exit code 1 where scores differ by more than 1e-3, or items differ
in a way that near-ties do not explain. Needs Python 3.11, torch and transformers."""
import argparse
import json
import pathlib
import sys
import tomllib

import torch
import transformers
from transformers import AutoTokenizer, LlamaForCausalLM, LogitsProcessor, PrefixConstrainedLogitsProcessor

TEMPLATES = pathlib.Path(__file__).parent.parent / "src/tasks/templates.toml"
# Scores of one item by two programs may differ by this much.
TOLERANCE = 1e-3
# Two items whose scores are this close may change places.
NEAR_TIE = 1e-4


class Trie:
    """Which tokens may follow a prefix, and which item a whole path is."""

    def __init__(self, paths):
        self.next, self.item = {}, {}
        for item, path in enumerate(paths):
            self.item[tuple(path)] = item
            for end in range(len(path)):
                self.next.setdefault(tuple(path[:end]), set()).add(path[end])

    def allowed(self, path):
        return sorted(self.next[tuple(path)])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, metavar="RUN", help="run folder")
    parser.add_argument("data", type=pathlib.Path, metavar="DATA", help="dataset folder")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--beam", type=int, default=20)
    return parser.parse_args()


def predictions(run, users, beam):
    """What `llmbs` recommended, and the settings it did so with."""
    base = run / "eval" / f"test-off-b{beam}-lim{users}"
    path = base.with_suffix(".json")
    if not path.exists():
        sys.exit(f"{path} is not there: run `llmbs --run {run} eval --beam {beam} --limit {users} --adapter off`")
    settings = json.loads(path.read_text())["settings"]
    if settings["normalize"] != "vocab":
        sys.exit(f"{path}: normalize is {settings['normalize']!r}: evaluate again with --set eval.normalize=vocab")
    lines = base.with_suffix(".predictions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], settings


def interactions(data):
    files = sorted(data.glob("*.inter.json"))
    if len(files) != 1:
        sys.exit(f"{data}: {len(files)} files end in .inter.json, expected one")
    sequences = json.loads(files[0].read_text())
    names = files[0].with_name(files[0].name.replace(".inter.json", ".user2id"))
    if not names.exists():
        return sequences
    # Predictions go by raw ids.
    pairs = (line.rsplit("\t", 1) for line in names.read_text().splitlines() if line)
    return {raw: sequences[number] for raw, number in pairs if number in sequences}


def first_instruction(run):
    """What the prompts of a run begin with: a word, or the first `sequence` template up to the history, which ends it."""
    config = tomllib.loads((run / "config.toml").read_text())
    if config["train"]["tasks"].get("instruction") == "word":
        return "Next:\n"
    template = tomllib.loads(TEMPLATES.read_text())["sequence"][0]["input"]
    instruction, rest = template.split("{history}")
    assert rest == "", template
    return instruction


class RepeatBias(LogitsProcessor):
    """Adds the model's repeat bias to what ends an item of the history, where it has one: transformers knows of none."""

    def __init__(self, model, prompt_length, owned):
        self.bias, self.prompt_length = getattr(model.config, "repeat_bias", None), prompt_length
        self.owned = {tuple(path) for path in owned}

    def __call__(self, ids, scores):
        if self.bias is None:
            return scores
        scores = scores.clone()
        for row, written in enumerate(ids[:, self.prompt_length:].tolist()):
            for *begun, end in self.owned:
                if begun == written:
                    scores[row, end] += self.bias
        return scores.log_softmax(-1)


def beam_search(model, prompt, owned, trie, levels, beam):
    """(item, score) by Hugging Face, best first; `owned` has the tokens of the history's items."""
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        num_beams=beam,
        num_return_sequences=beam,
        max_new_tokens=levels,
        length_penalty=0.0,
        do_sample=False,
        # In this order: probabilities are normalised over the whole vocabulary.
        logits_processor=[RepeatBias(model, len(prompt), owned), PrefixConstrainedLogitsProcessor(
            lambda _, ids: trie.allowed(ids[len(prompt):].tolist()), beam)],
        return_dict_in_generate=True,
        output_scores=True,
    )
    paths = out.sequences[:, len(prompt):].tolist()
    return [(trie.item[tuple(path)], score) for path, score in zip(paths, out.sequences_scores.tolist())]


def disagreements(ours, theirs):
    """Places where the items differ, with both scores there."""
    return [(place, a, b) for place, (a, b) in enumerate(zip(ours, theirs), 1) if a[0] != b[0]]


def main():
    args = arguments()
    torch.set_grad_enabled(False)
    lines, settings = predictions(args.run, args.users, args.beam)
    tokenizer = AutoTokenizer.from_pretrained(args.run / "initial")
    model = LlamaForCausalLM.from_pretrained(args.run / "initial", dtype=torch.float32).eval()
    # An item ends with its last token: there is no end of sequence to wait for.
    model.generation_config.eos_token_id = None
    index = json.loads((args.run / "index/index.json").read_text())
    items = [tokenizer.convert_tokens_to_ids(index[str(item)]) for item in range(len(index))]
    levels, trie = len(items[0]), Trie(items)
    users, instruction = interactions(args.data), tokenizer(first_instruction(args.run))["input_ids"]

    same, near_ties, real, largest = 0, [], [], 0.0
    for line in lines:
        bought = users[line["user"]]
        target = line["position"]
        assert bought[target] == line["target"], f"user {line['user']}: {args.data} is not the data of {args.run}"
        history = bought[:target][-settings["history"]:]
        prompt = instruction + [token for item in history for token in items[item]]
        theirs = beam_search(model, prompt, [items[item] for item in history], trie, levels, args.beam)
        ours = list(zip(line["items"], line["scores"]))
        scores = dict(theirs)
        largest = max([largest] + [abs(score - scores[item]) for item, score in ours if item in scores])
        if len(ours) != len(theirs):
            real.append((line["user"], f"{len(ours)} items against {len(theirs)}"))
            continue
        differ = disagreements(ours, theirs)
        if not differ:
            same += 1
        for place, a, b in differ:
            gap = abs(a[1] - b[1])
            text = f"place {place}: item {a[0]} at {a[1]:.6f} against item {b[0]} at {b[1]:.6f}, gap {gap:.1e}"
            (near_ties if gap < NEAR_TIE else real).append((line["user"], text))

    print(f"{len(lines)} users, beam {args.beam}, {len(items)} items of {levels} tokens, "
          f"torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"same items in the same order: {same} users; largest difference of an item's scores: {largest:.2e}")
    for title, found in [(f"places that differ in near-ties (below {NEAR_TIE:.0e})", near_ties),
                         ("other places that differ", real)]:
        print(f"{title}: {len(found)}, of {len({user for user, _ in found})} users")
        for user, text in found:
            print(f"  user {user}, {text}")
    sys.exit(bool(real) or largest > TOLERANCE)


if __name__ == "__main__":
    main()
