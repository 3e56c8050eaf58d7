"""Random moments at which a command gets a signal."""
import math
import os
import random
import shutil
import subprocess
import time

# The moment of a fault, as a fraction of what a command takes: log-uniform between these.
MOMENTS = (0.01, 1.3)
# How often it is the moment at which there are some files more, and how many.
BY_FILES, MORE_FILES, POLL_SECONDS = 0.4, (1, 6), 0.0005
# How often, where strace is there, it is the moment of a call to the system, and how many of that kind a thread may
# have made by then: so many, and more for each second that the command takes.
BY_CALLS, MOST_CALLS, MORE_A_SECOND = 0.3, 8, 100
# Not every system has all of these; each is counted on its own.
CALLS = ["?rename,?renameat,?renameat2", "?unlink", "?unlinkat", "?rmdir", "?mkdir,?mkdirat", "fsync", "write"]
TRACE = ["strace", "-f", "-qq", "-o", "/dev/null", "-e"]


def branch(rng, name=""):
    """Draws of their own: however many they are, those that follow from `rng` are the same."""
    return random.Random(f"{rng.random()} {name}")


def log_uniform(rng, least, most):
    """A number between two, whose logarithm is uniform."""
    return math.exp(rng.uniform(math.log(least), math.log(most)))


def can_trace():
    """Whether there is a strace that may follow programs."""
    command = [*TRACE, f"trace={CALLS[0]}", "true"]
    return shutil.which(TRACE[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


def count_files(folder):
    """How many files a folder has at any depth, while somebody changes it."""
    return sum(len(names) for _, _, names in os.walk(folder))


def cut_short(bench, rng, run, words, variant, duration, number, threads=1):
    """Starts a command and sends it a signal at a random moment: after a part of its duration, as soon as there are
    some files more in its folder, or at a call. Its outcome, whether it got that before its end, and the moment."""
    kind, name = rng.random(), number.name[3:]
    if kind < BY_FILES:
        more = rng.randint(*MORE_FILES)
        enough = count_files(run) + more
        process = bench.start(run, words, variant, threads)
        latest = time.monotonic() + MOMENTS[1] * duration
        while process.poll() is None and count_files(run) < enough and time.monotonic() < latest:
            time.sleep(min(POLL_SECONDS, duration / 100))
        return *bench.end(process, 0, number), f"{name} at {more} files"
    if kind < BY_FILES + BY_CALLS and bench.traces:
        most = MOST_CALLS + MORE_A_SECOND * duration
        calls, times = rng.choice(CALLS), int(log_uniform(rng, 1, most))
        tracer = [*TRACE, f"trace={calls}", "-e", f"inject={calls}:signal={name}:when={times}"]
        outcome = bench.end(bench.start(run, words, variant, threads, tracer=tracer))[0]
        return outcome, outcome.code in (-number, 128 + number), f"{name} at {calls.split(',')[0].strip('?')} {times}"
    fraction = log_uniform(rng, *MOMENTS)
    process = bench.start(run, words, variant, threads)
    return *bench.end(process, fraction * duration, number), f"{name} at {fraction:.2f}"
