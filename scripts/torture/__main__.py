"""Tortures the pipeline on a tiny synthetic shop and checks that nothing changes in silence.

Whatever is done to a run folder, a command either ends with the results of an undisturbed run, or fails with an
error that names the file and says what to do. The parts:

  kills     signals at random moments of every command that writes, which is repeated until it ends
  two       a second writer at a folder, and readers, while a writer is at work
  damage    every file of finished and of unfinished runs altered, cut, exchanged or deleted
  force     a finished run whose redoing is killed or fails
  disk      a file system that is full at any point of every command
  readonly  a folder that cannot be written to
  long      a training of many steps, whose memory, open files and speed are watched

Draws follow the seed. Moments are fractions of what a command takes undisturbed, so the machine decides too."""
import argparse
import functools
import random
import sys
import tempfile
import time
from pathlib import Path

from bench import Bench
from damage import Chosen, damage
from disks import full, readonly
from disturb import force, two
from kills import kills
from long import long
from report import Report

BINARY = Path(__file__).resolve().parents[2] / "target/release/llmbs"
PARTS = {"kills": kills, "two": two, "damage": damage, "force": force, "disk": full, "readonly": readonly,
         "long": long}
# How often each part is done, and how many files of each folder are damaged (None: every one, in every way).
CYCLES = {"kills": 20, "two": 20, "damage": 1, "force": 24, "disk": 2, "readonly": 1, "long": 1}
SHORT = {"kills": 5, "two": 8, "damage": 1, "force": 8, "disk": 1, "readonly": 1, "long": 1}
SHORT_DAMAGES = 40


def main():
    parser = argparse.ArgumentParser(prog="torture.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, help="of kills, two and force [default: 20, 20 and 24]")
    parser.add_argument("--seed", type=int, help="of all draws [default: drawn, and printed]")
    parser.add_argument("--binary", type=Path, default=BINARY, help="the program [default: target/release/llmbs]")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--files", default="", help="damage those whose paths match this expression")
    parser.add_argument("--short", action="store_true", help="a sample of each, in about three minutes")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    cycles = dict(SHORT if arguments.short else CYCLES)
    if arguments.cycles:
        cycles.update(dict.fromkeys(["kills", "two", "force"], arguments.cycles))
    chosen = Chosen(arguments.files, SHORT_DAMAGES if arguments.short else None)
    parts = dict(PARTS, damage=functools.partial(damage, chosen=chosen),
                 long=functools.partial(long, short=arguments.short))
    report = Report()
    with tempfile.TemporaryDirectory(prefix="torture-") as root:
        bench = Bench(arguments.binary.resolve(strict=True), Path(root), report)
        for part, torture in parts.items():
            if arguments.only in (None, part):
                report.part = part
                start = time.monotonic()
                # A part draws the same whether or not others are there.
                torture(bench, random.Random(f"{seed} {part}"), cycles[part])
                report.seconds[part] = time.monotonic() - start
    report.table()
    sys.exit(1 if report.violations() else 0)


if __name__ == "__main__":
    main()
