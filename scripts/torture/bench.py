"""The program, its commands on a tiny shop, and undisturbed runs to compare with."""
import re
import resource
import signal
import subprocess
import sys
import time

from moments import can_trace
from report import Outcome
from scenarios import CHAINS, WHOLE, provide
from snapshot import copy, describe, differences, is_made, left_behind, settled_text, snapshot, torn_lines

HANG_SECONDS = 60


def shown(words):
    """A command as it stands in a finding."""
    return f"`{' '.join(map(str, words))}`"


# Commands that go by neither a run nor a configuration.
WITHOUT_RUN = (["init"], ["data", "import"], ["data", "export"])


class Bench:
    """A temporary folder for all of it."""

    def __init__(self, binary, root, report):
        self.binary, self.root, self.report = binary, root, report
        self.durations, self.said, self.answers = {}, {}, {}
        self.traces = can_trace()
        self.nowhere = root / "nowhere"
        self.nowhere.mkdir()
        provide(root, binary)

    def start(self, run, words, variant=None, threads=1, most_bytes=None, quiet=False, tracer=()):
        """Starts a command on a run folder. Without a variant the folder's own configuration holds; files are not to
        grow beyond `most_bytes`; what it says is not kept where it is `quiet`; `tracer` are words that go before it."""
        config = ["--config", self.root / f"{variant}.toml"] if variant else []
        config += ["--run", run]
        if any(words[:len(alone)] == alone for alone in WITHOUT_RUN):
            config = []

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

        for place, found in {"{run}": run, "{root}": self.root, "{variant}": variant}.items():
            words = [word.replace(place, str(found)) for word in words]
        command = [*tracer, self.binary, *config, "--threads", str(threads), *words]
        limits = {} if most_bytes is None else {"preexec_fn": limit, "restore_signals": False}
        said = subprocess.DEVNULL if quiet else subprocess.PIPE
        return subprocess.Popen(command, cwd=self.nowhere, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                                text=True, errors="replace", **limits)

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
        """Runs a command that nothing disturbs and that has to end well; its outcome."""
        outcome = self.run(run, words, variant)
        if outcome.code != 0:
            sys.exit(f"undisturbed, {shown(words)} fails: {outcome.stderr}")
        return outcome

    def words(self, step, seed=None, chain="pipeline"):
        """A command of a chain, with another seed than that of the configuration."""
        return (["--seed", str(seed)] if seed else []) + CHAINS[chain][step].words

    def reference(self, variant, step, seed=None, chain="pipeline"):
        """A folder as the first `step` commands of a chain leave it, undisturbed."""
        if not step:
            return self.nowhere
        folder = self.root / "reference" / f"{chain}-{variant}-{seed}" / str(step)
        if not folder.exists():
            copy(self.reference(variant, step - 1, seed, chain), folder)
            start = time.monotonic()
            outcome = self.must(folder, self.words(step - 1, seed, chain), variant)
            self.durations[variant, step - 1, seed, chain] = time.monotonic() - start
            self.said[variant, step - 1, seed, chain] = settled_text(outcome.stdout)
        return folder

    def duration(self, variant, step, chain="pipeline"):
        """What a command of a chain takes undisturbed, in seconds."""
        self.reference(variant, step + 1, chain=chain)
        return self.durations[variant, step, None, chain]

    def whole(self, variant, seed=None):
        """A finished run with an item added to its index."""
        return self.reference(variant, WHOLE, seed)

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
            for torn in torn_lines(folder):
                self.report.violation("other", f"{label}: {torn} is torn")
        return self.report.violations() == before

    def readers(self, label, folder, readers, expected, writer=None):
        """Checks that readers say of a folder what they say of one of the folders `expected`.

        They may refuse it, and name its writer, who stands still while it puts a whole result in its place."""
        busy = [f"process {writer}"] if writer and is_made(folder) else []
        for words in readers:
            answers = [self.answer(each, words) for each in expected]
            outcome = self.run(folder, words)
            then = f"{label}, then {shown(words)}"
            # Where they refuse an undisturbed folder, they may refuse this one.
            self.report.judge(then, outcome, busy + ([folder.name] if None in answers else []), answers)
