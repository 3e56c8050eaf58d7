"""Processes that are killed, and repeated until they end."""
import collections
import signal

from bench import shown
from moments import branch, cut_short
from scenarios import CHAINS, PIPELINE, VARIANTS
from snapshot import copy, differences, snapshot

# No command is killed more often in a row: then it may end.
MOST_KILLS = 6
# Commands that take no time are begun anew so often a cycle.
ROUNDS = 2
SIGNALS = [signal.SIGKILL] * 4 + [signal.SIGTERM, signal.SIGINT]
# Chains that take long: one of them a cycle, by turns.
LONG = ["run", "ablate", "following"]

# What is killed: a step of a chain in a folder, with a configuration.
Task = collections.namedtuple("Task", "chain at variant run")


def kills(bench, rng, cycles):
    """Signals at random moments of each command of each chain, until it ends."""
    if not bench.traces:
        print(f"{bench.report.part}: no kills at calls: they take strace", flush=True)
    for cycle in range(cycles):
        variant = list(VARIANTS)[cycle % len(VARIANTS)]
        bench.report.count("cycles")
        for chain, steps in CHAINS.items():
            draws = [branch(rng) for _ in steps]
            run = copy(bench.nowhere, bench.root / "killed")
            left_out = chain in LONG and chain != LONG[cycle % len(LONG)]
            for at in range(0 if left_out else len(steps)):
                if not rounds(bench, draws[at], Task(chain, at, variant, run), f"cycle {cycle}, {variant}"):
                    break


def rounds(bench, rng, task, label):
    """Kills and repeats a command, more than once if it is short; whether all that it leaves is as undisturbed."""
    chain, at, variant, run = task
    well = killed(bench, rng, task, label)
    for _ in range(1, 1 if chain in LONG or CHAINS[chain][at].words in PIPELINE else ROUNDS):
        copy(bench.reference(variant, at, chain=chain), run)
        well = killed(bench, rng, task, label) and well
    return well


def killed(bench, rng, task, label):
    """Kills and repeats a command; whether all that it leaves is as undisturbed."""
    chain, at, variant, run = task
    step, expected = CHAINS[chain][at], bench.reference(variant, at + 1, chain=chain)
    outcome, history = until_it_ends(bench, rng, task, label)
    label = f"{label}, {shown(step.words)} after {history}"
    if outcome.code == 1 and step.refusal and step.refusal in outcome.stderr:
        return bench.same(f"{label}, refused", run, expected)
    answers = [bench.said[variant, at, None, chain]] if "--json" in step.words else None
    return bench.report.judge(label, outcome, answers=answers) and bench.same(label, run, expected)


def until_it_ends(bench, rng, task, label):
    """Kills and repeats a command; its last outcome, and the moments at which it was killed."""
    chain, at, variant, run = task
    step, history, well = CHAINS[chain][at], [], True
    duration = bench.duration(variant, at, chain)
    while True:
        number, threads = rng.choice(SIGNALS), rng.choice([1, 2])
        if len(history) == MOST_KILLS:
            return bench.run(run, step.words, variant, threads=threads), ", ".join(history)
        outcome, sent, moment = cut_short(bench, rng, run, step.words, variant, duration, number, threads)
        if not sent or outcome.code not in (-number, 128 + number):
            return outcome, ", ".join(history) or "nothing"
        bench.report.count("faults")
        history.append(moment)
        # What is wrong stays so until the command ends, and is said once.
        well = well and check_between(bench, task, f"{label}, {shown(step.words)} after {', '.join(history)}")


def check_between(bench, task, label):
    """Whether what is to be whole at every moment is as it was, or as it is to be; says what is not."""
    chain, at, variant, run = task
    before = bench.report.violations()
    folders = [bench.reference(variant, done, chain=chain) for done in (at, at + 1)]
    for name in CHAINS[chain][at].whole:
        found, *allowed = (contents(folder, name) for folder in (run, *folders))
        if found not in allowed:
            changed = ", ".join(differences(found, allowed[0]))
            kind, what = ("silent", "part") if found else ("other", "none")
            bench.report.violation(kind, f"{label}: of {name} {what} is there, neither the old nor the new: {changed}")
    return bench.report.violations() == before


def contents(folder, name):
    """The digests of a file, or of all files in a folder, whose name then ends in a slash."""
    return {path: digest for path, digest in snapshot(folder, [name]).items() if name.endswith("/") or path == name}
