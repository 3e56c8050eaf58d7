"""The program, its commands on a tiny shop, and undisturbed runs to compare with."""
import math
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time

from report import Outcome
from snapshot import copy, describe, differences, left_behind, settled_text, snapshot, torn_lines

HANG_SECONDS = 60
# The moment of a fault, as a fraction of what a command takes: log-uniform between these.
MOMENTS = (0.01, 1.3)
# How often it is the moment at which there are some files more, and how many.
BY_FILES, MORE_FILES, POLL_SECONDS = 0.4, (1, 6), 0.0005

CONFIG = """
[data.synthetic]
users = 80
items = 60
groups = 6
[backbone.scratch]
vocab-size = 400
hidden-size = 32
intermediate-size = 64
num-hidden-layers = 2
num-attention-heads = 2
num-key-value-heads = 1
[index]
method = "%(method)s"
[index.rq-vae]
steps = 30
[index.semantic]
k = 8
[index.behavior]
k = 8
encoder = "%(encoder)s"
[index.behavior.din]
dim = 8
epochs = 2
[index.behavior.sasrec]
epochs = 2
[train.tasks]
held-out = 0.25
[train.distillation]
weight = %(distillation)s
[train.warmup]
epochs = 1
[train.validation]
users = 20
[train.initial]
epochs = 2
batch = 32
learning-rate = 3e-3
ema = %(ema)s
save-every = 3
[train.anneal]
learning-rate = 1e-3
batch = 16
save-every = 3
[baseline.sasrec]
epochs = 2
"""
VARIANTS = {
    "din": {"method": "hierarchical-kmeans", "encoder": "din", "distillation": 0.0, "ema": 0.0},
    "sasrec": {"method": "rq-vae", "encoder": "sasrec", "distillation": 0.5, "ema": 0.5},
}
NEW_ITEMS = '{"60": {"title": "Kestrine Studio Glossy Eyeshadow Palette in Black, 3 g"}}'
OTHER_SEED = 7

INDEX, INITIAL, ANNEAL = ["index"], ["train", "--stage", "initial"], ["train", "--stage", "anneal"]
EVAL, BASELINE = ["eval", "--json"], ["baseline", "sasrec", "--json"]
RECOMMEND = ["recommend", "--history", "3,14,15", "--json"]
PIPELINE = [INDEX, INITIAL, ANNEAL, EVAL, BASELINE]


def branch(rng, name=""):
    """Draws of their own: however many they are, those that follow from `rng` are the same."""
    return random.Random(f"{rng.random()} {name}")


def cut_short(bench, rng, process, run, duration, number):
    """Sends a signal to a process at a random moment: after a part of its duration, or as soon as there are some files
    more in its run folder. Its outcome, whether it got the signal before its end, and the moment in words."""
    if rng.random() < BY_FILES:
        more = rng.randint(*MORE_FILES)
        enough = count_files(run) + more
        latest = time.monotonic() + MOMENTS[1] * duration
        while process.poll() is None and count_files(run) < enough and time.monotonic() < latest:
            time.sleep(POLL_SECONDS)
        seconds, words = 0, f"{more} files"
    else:
        fraction = math.exp(rng.uniform(*map(math.log, MOMENTS)))
        seconds, words = fraction * duration, f"{fraction:.2f}"
    outcome, sent = bench.end(process, seconds, number)
    return outcome, sent, f"{number.name[3:]} at {words}"


def count_files(folder):
    """How many files a folder has at any depth, while somebody changes it."""
    return sum(len(names) for _, _, names in os.walk(folder))


def shown(words):
    """A command as it stands in a finding."""
    return f"`{' '.join(map(str, words))}`"


class Bench:
    """A temporary folder for all of it."""

    def __init__(self, binary, root, report):
        self.binary, self.root, self.report = binary, root, report
        self.durations, self.answers = {}, {}
        self.nowhere = root / "nowhere"
        self.nowhere.mkdir()
        (root / "new-items.json").write_text(NEW_ITEMS)
        for name, settings in VARIANTS.items():
            (root / f"{name}.toml").write_text(CONFIG % settings)

    def start(self, run, words, variant=None, threads=1, most_bytes=None, quiet=False):
        """Starts a command on a run folder. Without a variant the folder's own configuration holds; files are not to
        grow beyond `most_bytes`; what it says is not kept where it is `quiet`."""
        config = ["--config", self.root / f"{variant}.toml"] if variant else []

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

        command = [self.binary, *config, "--run", run, "--threads", str(threads), *words]
        limits = {} if most_bytes is None else {"preexec_fn": limit, "restore_signals": False}
        said = subprocess.DEVNULL if quiet else subprocess.PIPE
        return subprocess.Popen(command, cwd=self.nowhere, stdin=subprocess.DEVNULL, stdout=said, stderr=said, text=True,
                                errors="replace", **limits)

    def end(self, process, at=None, number=signal.SIGKILL):
        """Waits for a process, which gets a signal at a moment; its outcome, and whether it got that before its end."""
        if at is not None:
            try:
                return self.outcome(process, at), False
            except subprocess.TimeoutExpired:
                process.send_signal(number)
        try:
            return self.outcome(process, HANG_SECONDS), at is not None
        except subprocess.TimeoutExpired:
            process.kill()
            return self.outcome(process, None)._replace(code=None), at is not None

    def outcome(self, process, seconds):
        """How a process ends, its results without the paths they name."""
        stdout, stderr = (said or "" for said in process.communicate(timeout=seconds))
        return Outcome(process.returncode, re.sub(re.escape(str(self.root)) + r'[^\s"]*', "PATH", stdout), stderr)

    def run(self, run, words, variant=None, **options):
        """Runs a command to its end."""
        return self.end(self.start(run, words, variant, **options))[0]

    def must(self, run, words, variant):
        """Runs a command that nothing disturbs and that has to end well."""
        outcome = self.run(run, words, variant)
        if outcome.code != 0:
            sys.exit(f"undisturbed, {shown(words)} fails: {outcome.stderr}")

    def words(self, step, seed=None):
        """A command of the pipeline, with another seed than that of the configuration."""
        return (["--seed", str(seed)] if seed else []) + PIPELINE[step]

    def reference(self, variant, step, seed=None):
        """A folder as the first `step` commands of the pipeline leave it, undisturbed."""
        folder = self.root / "reference" / f"{variant}-{seed}" / str(step)
        if step and not folder.exists():
            copy(self.reference(variant, step - 1, seed), folder)
            start = time.monotonic()
            self.must(folder, self.words(step - 1, seed), variant)
            self.durations[variant, step - 1] = time.monotonic() - start
        return folder

    def duration(self, variant, step):
        """What a command of the pipeline takes undisturbed, in seconds."""
        self.reference(variant, step + 1)
        return self.durations[variant, step]

    def whole(self, variant, seed=None):
        """A finished run with an item added to its index."""
        folder = self.root / "whole" / f"{variant}-{seed}"
        if not folder.exists():
            copy(self.reference(variant, len(PIPELINE), seed), folder)
            words = ["index", "add", self.root / "new-items.json"]
            self.must(folder, (["--seed", str(seed)] if seed else []) + words, variant)
        return folder

    def answer(self, folder, words):
        """What a reader says of an undisturbed folder, or None where it refuses."""
        key = (folder, tuple(words))
        if key not in self.answers:
            place = copy(folder, self.root / "answer")
            outcome = self.run(place, [word.replace("{run}", str(place)) for word in words])
            self.answers[key] = settled_text(outcome.stdout) if outcome.code == 0 else None
        return self.answers[key]

    def same(self, label, folder, expected, prefixes=("",)):
        """Whether a folder holds the results of an undisturbed one and nothing else; says what is wrong."""
        before = self.report.violations()
        changed = differences(snapshot(folder, prefixes), snapshot(expected, prefixes))
        missing = [name for name in changed if not (folder / name).exists()]
        altered = [name for name in changed if (folder / name).exists() and (expected / name).exists()]
        if altered:
            names = [describe(name, folder, expected) for name in altered]
            self.report.violation("silent", f"{label}: ends well, with other content in {', '.join(names)}")
        if missing:
            self.report.violation("silent", f"{label}: ends well without {', '.join(missing)}")
        if tuple(prefixes) == ("",):
            left = left_behind(folder, expected)
            if left:
                self.report.violation("other", f"{label}: leaves {', '.join(left)}")
            for number in torn_lines(folder / "log.jsonl"):
                self.report.violation("other", f"{label}: log.jsonl:{number} is torn")
        return self.report.violations() == before

    def readers(self, label, folder, readers, expected):
        """Checks that readers say of a folder what they say of one of the folders `expected`."""
        for words in readers:
            answers = [self.answer(each, words) for each in expected]
            outcome = self.run(folder, words)
            then = f"{label}, then {shown(words)}"
            # Where they refuse an undisturbed folder, they may refuse this one.
            self.report.judge(then, outcome, [folder.name] if None in answers else [], answers)
