"""File systems that are full, or cannot be written to."""
import os
import subprocess

from bench import shown
from damage import CHECKS
from scenarios import ANNEAL, BASELINE, INDEX, INITIAL, PIPELINE, VARIANTS
from snapshot import copy, differences, snapshot

# Bytes: a run has room in so many, a command needs no more than so many, and what it needs is found to within so many.
ROOM, MOST, NEAR = 64 << 20, 8 << 20, 16 << 10
# The bisection tries a place in this part of what is left: below the middle, since faults are there.
TRIED = (0.2, 0.5)
# What a stage says of itself while it is under way.
OWN = {"manifest.json", "config.toml"}
# Commands that have to write to a finished run, and nothing has to stand there for the first.
WRITERS = [
    INDEX + ["--force"], INITIAL + ["--force"], BASELINE + ["--force"], BASELINE + ["--seeds", "2"],
    ["--set", "train.anneal.epochs=2", *ANNEAL, "--force"], ["eval", "--split", "valid", "--json"],
]


class SmallDisk:
    """A file system of its own, of any size."""

    def __init__(self, root):
        self.place = root / "disk"
        self.place.mkdir(exist_ok=True)

    def __enter__(self):
        self.mount(f"size={ROOM}")
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", self.place], check=True)

    def mount(self, options):
        """Makes it, or changes its options."""
        command = ["mount", "-t", "tmpfs", "-o", options, "torture", self.place]
        subprocess.run(command, check=True, capture_output=True)

    def change(self, options):
        """Changes its options."""
        self.mount(f"remount,{options}")

    def leave(self, space):
        """Leaves so many bytes free."""
        found = os.statvfs(self.place)
        self.change(f"size={(found.f_blocks - found.f_bfree) * found.f_frsize + space}")


def small_disk(bench):
    """A small disk, or None where there can be none, which is said."""
    disk = SmallDisk(bench.root)
    try:
        with disk:
            return disk
    except (OSError, subprocess.CalledProcessError):
        print(f"{bench.report.part}: skipped: it takes root or a user namespace to mount a file system", flush=True)
        return None


def full(bench, rng, cycles):
    """Every command with too little space, by bisection about what it needs, and again with enough."""
    disk = small_disk(bench)
    for cycle in range(cycles if disk else 0):
        variant = list(VARIANTS)[cycle % len(VARIANTS)]
        bench.report.count("cycles")
        for step in range(len(PIPELINE)):
            too_little, enough = 0, MOST
            while enough - too_little > NEAR:
                space = too_little + int((enough - too_little) * rng.uniform(*TRIED))
                with disk:
                    if fits(bench, disk, variant, step, space):
                        enough = space
                    else:
                        too_little = space


def fits(bench, disk, variant, step, space):
    """Whether a command ends well with so much space; where not, nothing is lost, and with room it ends well."""
    words, before, after = PIPELINE[step], bench.reference(variant, step), bench.reference(variant, step + 1)
    run = copy(before, disk.place / "run")
    disk.leave(space)
    label = f"{variant}, {shown(words)} with {space} bytes of space"
    outcome = bench.run(run, words, variant)
    if bench.report.judge(label, outcome, ["No space left", "are free; make room"], advice=False):
        bench.same(label, run, after)
        return True
    bench.report.count("faults")
    if str(run) not in outcome.stderr:
        bench.report.violation("other", f"{label}: the error names no path: {outcome.stderr}")
    there, found = snapshot(before), snapshot(run)
    lost = [name for name in differences(found, there) if name in there and name not in OWN]
    if lost:
        bench.report.violation("silent", f"{label}: no longer as it was: {', '.join(lost)}")
    disk.change(f"size={ROOM}")
    if bench.report.judge(f"{label}, then with room", bench.run(run, words, variant)):
        bench.same(f"{label}, then with room", run, after)
    return False


def readonly(bench, rng, cycles):
    """A finished run that cannot be written to: readers read, writers name the path."""
    disk = small_disk(bench)
    if disk is None:
        return
    whole = bench.whole("din")
    bench.report.count("cycles")
    with disk:
        run = copy(whole, disk.place / "run")
        disk.change("ro")
        for place, words in [(disk.place / "new", INDEX), *((run, words) for words in WRITERS)]:
            bench.report.count("faults")
            if bench.report.judge(shown(words), bench.run(place, words, "din"), [str(place)], advice=False):
                bench.report.violation("other", f"{shown(words)}: ends well where nothing can be written")
        for command, _ in CHECKS:
            # Those that keep a new result have to write.
            if command not in WRITERS and "--fuse" not in command:
                words = [word.replace("{run}", str(run)) for word in command]
                answers = [bench.answer(whole, command)] if "--json" in words else None
                bench.report.judge(shown(command), bench.run(run, words), [], answers)
