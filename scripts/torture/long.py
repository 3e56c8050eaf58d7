"""A long training: whether memory, open files and speed stay as they are."""
import json
import os
import statistics
import time
from pathlib import Path

from bench import shown
from scenarios import INDEX, INITIAL
from snapshot import copy

STEPS = {False: 20_000, True: 2_000}
LONG = ["--set", "train.initial.epochs=1000000", "--set", "train.validation.patience=0", "--set",
        "train.initial.save-every=100", "--set", "train.initial.log-every=10"]
SAMPLE_SECONDS = 0.1
# From its second quarter to its last a training may change by so much, in parts.
MOST_MEMORY, MOST_SLOWER = 0.05, 0.25
# Steps below which the speed is told and not judged: seconds of work, in which the machine alone may change pace.
STEADY = 10_000


def state_of(process):
    """Resident kilobytes and open files of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0])
    return resident, len(os.listdir(f"/proc/{process.pid}/fd"))


def long(bench, rng, cycles, short=False):
    """One training of many steps, watched."""
    steps = STEPS[short]
    bench.report.count("cycles")
    run = copy(bench.nowhere, bench.root / "long")
    bench.must(run, INDEX, "din")
    words = [*LONG, "--set", f"train.initial.max-steps={steps}", *INITIAL]
    process = bench.start(run, words, "din", quiet=True)
    samples = []
    while process.poll() is None:
        try:
            samples.append((time.monotonic(), *state_of(process)))
        except (OSError, IndexError):
            break
        time.sleep(SAMPLE_SECONDS)
    process.wait()
    bench.report.judge(shown(words), bench.outcome(process, None))
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    speeds = [line["tokens_per_s"] for line in lines if line["stage"] == "initial" and "step" in line]
    memory, opened = ([sample[at] for sample in samples] for at in (1, 2))
    for what, values in {"memory in KB": memory, "open files": opened, "tokens/s": speeds}.items():
        early, late = quarters(values)
        change = late / early - 1
        print(f"long: {what}: {early:.0f} in the second quarter of {steps} steps, {late:.0f} in the last: "
              f"{100 * change:+.1f} %, slope {slope(values, steps):+.2f} per 1,000 steps", flush=True)
        if (change < -MOST_SLOWER and steps >= STEADY) if what == "tokens/s" else (change > MOST_MEMORY):
            bench.report.violation("other", f"{shown(words)}: {what} goes from {early:.0f} to {late:.0f}")


def quarters(values):
    """The medians of the second and of the last quarter."""
    n = len(values)
    return statistics.median(values[n // 4:n // 2]), statistics.median(values[3 * n // 4:])


def slope(values, steps):
    """The least-squares slope behind the first quarter, per 1,000 of the steps that the values are spread over."""
    rest = values[len(values) // 4:]
    places = [1e-3 * steps * (i / len(values)) for i in range(len(rest))]
    return statistics.linear_regression(places, rest).slope if hasattr(statistics, "linear_regression") else 0.0
