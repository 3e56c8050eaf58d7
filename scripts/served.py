"""A service at work, for the scripts that talk to one."""

import contextlib
import re
import signal
import subprocess


@contextlib.contextmanager
def served(program, run, *more):
    """Starts `llmbs serve` on a port of its own; gives its process and its port, and stops it at the end."""
    command = [program, "--run", run, "serve", "--addr", "127.0.0.1:0", *more]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            raise SystemExit("the service did not begin:\n" + "".join(said))
        yield process, int(found[1])
        assert process.poll() is None, "the service ended by itself"
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(60) == 0, "a service that is stopped has not failed"
    finally:
        process.kill()
        process.wait()
