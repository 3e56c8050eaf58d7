"""Damage to every file of a run, finished or not."""
import collections
import os
import re
import signal
from pathlib import Path

from bench import shown
from moments import branch, cut_short
from scenarios import ANNEAL, BASELINE, EVAL, INDEX, INITIAL, PIPELINE, RECOMMEND, VARIANTS
from snapshot import copy, differences, files, snapshot

OTHER_SEED = 7
BLOCK = 4096
# Blocks of a file in which a bit is flipped, where it has more.
MOST_BLOCKS = 16
# How often a command is killed to find work in progress, and how many folders that differ in it are kept.
ATTEMPTS, MOST_UNFINISHED = 16, 4
# Commands given to a damaged run, each with the files that have to be those of the undisturbed one where it ends well.
# {run} is the damaged folder; `compare` is given to an undisturbed one.
COMPARE = ["eval", "--compare", "{run}", "--json"]
CHECKS = [
    (EVAL, ["eval/test-off-b20.", "eval/test-on-b20."]),
    (["eval", "--split", "valid", "--json"], []),
    (["eval", "--fuse", "{run}/baseline/sasrec/seed-42", "--json"], []),
    (COMPARE, []),
    (RECOMMEND, []),
    (["generate", "--prompt", "<a_1><b_2>", "--adapter", "on", "--json"], []),
    (["index", "report", "--json"], []),
    (["data", "stats", "--json"], []),
    (BASELINE, ["baseline/"]),
    (INDEX, ["index/", "backbone/"]),
    (INITIAL, ["initial/"]),
    (ANNEAL, ["anneal/"]),
]


# What is damaged: files whose paths match, and of a finished folder at most so many (None: all), in every way.
Chosen = collections.namedtuple("Chosen", "pattern most")


def damages(rng, path, other):
    """Ways to damage a file, which `other` may take the place of: how, its content then (None: no file), and whether
    its time stays."""
    content = path.read_bytes()
    blocks = range(0, len(content), BLOCK)
    flip = None
    for block in rng.sample(blocks, min(len(blocks), MOST_BLOCKS)):
        at = rng.randrange(block, min(block + BLOCK, len(content)))
        flip = content[:at] + bytes([content[at] ^ 1]) + content[at + 1:]
        yield f"bit 0 of byte {at} flipped", flip, False
    if flip is not None:
        yield f"bit 0 of byte {at} flipped, time kept", flip, True
        yield "cut to nothing", b"", False
        yield "cut to half", content[:len(content) // 2], False
    if other and other.is_file() and other.read_bytes() != content:
        yield "that of another run", other.read_bytes(), False
    # Added items are given up by deleting their file.
    if path.name != "added.json":
        yield "deleted", None, False


def cases(rng, folder, names, other, chosen):
    """Damages to those of these files of a folder that are chosen: all of them, or at most so many."""
    found = [(name, *case) for name in names
             for case in damages(branch(rng, name), folder / name, other and other / name)
             if re.search(chosen.pattern, name)]
    return found if chosen.most is None or len(found) <= chosen.most else rng.sample(found, chosen.most)


def damaged_copy(bench, folder, case):
    """A copy of a folder with one file damaged."""
    name, _, content, keep_time = case
    damaged = copy(folder, bench.root / "damaged")
    path = damaged / name
    times = path.stat()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
        if keep_time:
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    bench.report.count("faults")
    return damaged


def damage(bench, rng, cycles, chosen=Chosen("", None)):
    """Damage to every file, of finished runs and of unfinished work."""
    fewer = chosen._replace(most=chosen.most and max(1, chosen.most // len(PIPELINE)))
    for variant in VARIANTS:
        bench.report.count("cycles")
        whole = bench.whole(variant)
        for case in cases(branch(rng), whole, files(whole), bench.whole(variant, OTHER_SEED), chosen):
            damaged = damaged_copy(bench, whole, case)
            check(bench, f"{variant}, {case[0]}: {case[1]}", damaged, case[0], whole)
        for step in range(len(PIPELINE)):
            damage_unfinished(bench, branch(rng), variant, step, fewer)


def names_of(name):
    """What an error may call a file: its name, or what results are asked for by."""
    called = Path(name).name
    return [called, called.split(".")[0]] if name.startswith("eval/") else [called]


def check(bench, label, damaged, name, whole):
    """Gives every command a damaged copy of a finished run."""
    for command, prefixes in CHECKS:
        place = copy(damaged, bench.root / "place")
        words = [word.replace("{run}", str(place)) for word in command]
        then = f"{label}, then {shown(command)}"
        answers = [bench.answer(whole, command)] if "--json" in words else None
        run = copy(whole, bench.root / "undamaged") if command == COMPARE else place
        outcome = bench.run(run, words)
        if not bench.report.judge(then, outcome, names_of(name), answers):
            there, found = snapshot(damaged), snapshot(place)
            changed = [other for other in differences(found, there) if other in there]
            if changed:
                bench.report.violation("other", f"{then}: fails, having changed {', '.join(changed)}")
        elif prefixes:
            bench.same(then, place, whole, prefixes)


def unfinished(bench, rng, variant, step, seed=None):
    """Folders in which a command was killed that holds something it did not hold before, each with the names of
    that."""
    found = {}
    before = bench.reference(variant, step, seed)
    there = snapshot(before)
    duration = bench.duration(variant, step)
    for attempt in range(ATTEMPTS):
        run = copy(before, bench.root / "unfinished" / f"{seed}-{attempt}")
        _, sent, _ = cut_short(bench, rng, run, bench.words(step, seed), variant, duration, signal.SIGKILL)
        names = tuple(name for name, digest in snapshot(run).items() if there.get(name) != digest)
        if sent and names:
            found[names] = run
    return rng.sample(sorted(found.items()), min(len(found), MOST_UNFINISHED))


def damage_unfinished(bench, rng, variant, step, chosen):
    """Damage to what a killed command left, which then goes on."""
    words, expected = PIPELINE[step], bench.reference(variant, step + 1)
    others = unfinished(bench, rng, variant, step, OTHER_SEED)
    other = others[0][1] if others else None
    for names, killed in unfinished(bench, rng, variant, step):
        for case in cases(rng, killed, names, other, chosen):
            run = damaged_copy(bench, killed, case)
            label = f"{variant}, unfinished {shown(words)}, {case[0]}: {case[1]}"
            if bench.report.judge(label, bench.run(run, words, variant), names_of(case[0])):
                bench.same(label, run, expected)
