"""Processes that work side by side, or redo what is done."""
import json
import shutil
import signal
import subprocess

from bench import shown
from kills import SIGNALS
from moments import branch, cut_short
from scenarios import ANNEAL, BASELINE, EVAL, INDEX, INITIAL, PIPELINE, RECOMMEND, VARIANTS
from snapshot import copy, differences, settled, snapshot

# The moment at which a first writer stands still, as a fraction of its duration.
STOPPED = (0.02, 0.9)
# A command redone with a setting that gives another result, and where its results stand.
REDONE = [
    (1, "train.initial.learning-rate=1e-3", INITIAL, "initial/"),
    (0, "index.behavior.din.epochs=1", INDEX, "index/"),
    (2, "train.anneal.learning-rate=1e-4", ANNEAL, "anneal/"),
    (4, "baseline.sasrec.epochs=1", BASELINE, "baseline/"),
]
# In this range a file of a tiny run grows too large.
TOO_LARGE = (1 << 9, 1 << 18)


def two(bench, rng, cycles):
    """A second writer, and readers, while a writer stands still at a random moment."""
    steps = [step for step, words in enumerate(PIPELINE) if words != EVAL]
    for cycle in range(cycles):
        variant, step = rng.choice(list(VARIANTS)), rng.choice(steps)
        words, before, after = PIPELINE[step], bench.reference(variant, step), bench.reference(variant, step + 1)
        run = copy(before, bench.root / "two")
        label = f"cycle {cycle}, {variant}, two of {shown(words)}"
        bench.report.count("cycles")
        first = bench.start(run, words, variant)
        stand_still(first, rng.uniform(*STOPPED) * bench.duration(variant, step))
        if first.poll() is None:
            bench.report.count("faults")
            try:
                beside(bench, label, run, first.pid, (words, variant), (before, after))
            finally:
                first.send_signal(signal.SIGCONT)
        # It may have been stopped before it took the lock.
        bench.report.judge(f"{label}: the first", bench.end(first)[0], ["another process"])
        bench.same(label, run, after)


def stand_still(process, seconds):
    """Stops a process after so many seconds, if it is still there."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGSTOP)


def beside(bench, label, run, first, command, folders):
    """Gives the command again, and reads, while the first process stands still."""
    words, variant = command
    before, after = folders
    lock = run / ".lock"
    holds = lock.exists() and lock.read_text().strip() == str(first)
    second = bench.run(run, words, variant)
    well = bench.report.judge(f"{label}: the second", second, [f"process {first}", "another process is writing"])
    # The first may not have begun; or its results stand, and it clears away what they were made of.
    results = {name: digest for name, digest in snapshot(run).items() if not name.startswith("unfinished/")}
    if well and holds and differences(results, snapshot(after)):
        bench.report.violation("other", f"{label}: the second is let in beside the first")
    bench.readers(label, run, [RECOMMEND, EVAL], folders, writer=first)
    if not (before / "eval").exists():
        shutil.rmtree(run / "eval", ignore_errors=True)


def force(bench, rng, cycles):
    """A finished run, redone with other settings by a command that is killed or fails: what is there stays."""
    whole = bench.whole("din")
    for cycle in range(cycles):
        step, setting, words, place = REDONE[cycle // 2 % len(REDONE)]
        words = ["--set", setting, *words, "--force"]
        redone = bench.root / f"redone-{step}"
        if not redone.exists():
            bench.must(copy(whole, redone), words, "din")
        bench.report.count("cycles")
        run = copy(whole, bench.root / "forced")
        label, draws = f"cycle {cycle}, {shown(words)}", branch(rng)
        for _ in range(draws.randint(1, 3)):
            disturb = cut_force if cycle % 2 == 0 else stop_files
            outcome, how = disturb(bench, draws, run, words, step)
            label += f", {how}"
            # The end may come after the result, before the exit code says so.
            if outcome.code == 0 or is_redone(run, redone, place):
                break
            bench.report.count("faults")
            bench.readers(label, copy(run, bench.root / "read"), [RECOMMEND, EVAL, BASELINE], [whole])
        outcome = outcome if outcome.code == 0 else bench.run(run, words, "din")
        if bench.report.judge(f"{label}, then again", outcome):
            bench.same(f"{label}, then again", run, redone, [place])


def cut_force(bench, rng, run, words, step):
    """Kills a command at a random moment; its outcome and the moment."""
    outcome, _, at = cut_short(bench, rng, run, words, "din", bench.duration("din", step), rng.choice(SIGNALS))
    return outcome, at


def stop_files(bench, rng, run, words, _):
    """Runs a command that may write no large files; its outcome and how large they may be."""
    most = int(TOO_LARGE[0] * (TOO_LARGE[1] / TOO_LARGE[0]) ** rng.random())
    outcome, how = bench.run(run, words, "din", most_bytes=most), f"files up to {most} bytes"
    if outcome.code != 0:
        bench.report.judge(f"{shown(words)}, {how}", outcome, ["File too large"], advice=False)
    return outcome, how


def is_redone(run, redone, place):
    """Whether a result is the new one, and the records of the stages say so."""
    records = [settled(json.loads((folder / "manifest.json").read_text()))["stages"] for folder in (run, redone)]
    return records[0] == records[1] and snapshot(run, [place]) == snapshot(redone, [place])
