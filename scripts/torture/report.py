"""What was done and what was found, by part."""
import collections
import re
import signal

from snapshot import settled_text

KINDS = ("silent", "hang", "panic", "other")
# Words of an error that say what to do.
ADVICE = re.compile(r"`llmbs|--\w|\b(again|choose|delete|free|give|go back|make|name|put|redo|remove|run|set|wait)\b")
# Of what was said on stderr, so much is shown.
SHOWN = 300

# `code` is None where the process had to be ended.
Outcome = collections.namedtuple("Outcome", "code stdout stderr")


class Report:
    """Counts and findings; `part` is the one at work."""

    def __init__(self):
        self.counts = collections.defaultdict(collections.Counter)
        self.seconds = collections.Counter()
        self.part = None

    def count(self, what):
        """Counts a cycle or a fault."""
        self.counts[self.part][what] += 1

    def violations(self):
        """How many have been found."""
        return sum(counts[kind] for counts in self.counts.values() for kind in KINDS)

    def violation(self, kind, text):
        """Prints a finding of one of KINDS."""
        self.count(kind)
        print(f"{self.part}: {kind}: {' '.join(text.split())}", flush=True)

    def judge(self, label, outcome, names=(), answers=None, advice=True):
        """Whether a command ended well; says what is wrong with its end.

        Where it ended well, its results are one of `answers`. Where not, its error has one of `names` in it and says
        what to do; without names it has to end well."""
        said = outcome.stderr[-SHOWN:].strip() or "nothing is said"
        if outcome.code is None:
            self.violation("hang", f"{label}: does not end: {said}")
        elif outcome.code in (101, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS) or "panicked" in outcome.stderr:
            self.violation("panic", f"{label}: {said}")
        elif outcome.code == 0:
            if answers is not None and settled_text(outcome.stdout) not in answers:
                self.violation("silent", f"{label}: another result, exit code 0")
        elif outcome.code != 1:
            self.violation("other", f"{label}: exit code {outcome.code}: {said}")
        elif not names:
            self.violation("other", f"{label}: fails: {said}")
        elif not any(name in outcome.stderr for name in names):
            self.violation("other", f"{label}: the error does not name {' or '.join(names)}: {said}")
        elif advice and not ADVICE.search(outcome.stderr):
            self.violation("other", f"{label}: the error does not say what to do: {said}")
        return outcome.code == 0

    def table(self):
        """Prints a line for each part."""
        print("\n| part | cycles | faults injected | silent changes | hangs | panics | other violations | seconds |")
        print("|---|---|---|---|---|---|---|---|")
        for part, seconds in self.seconds.items():
            cells = [str(self.counts[part][column]) for column in ("cycles", "faults", *KINDS)]
            print(f"| {part} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)
