#!/usr/bin/env python3
"""The speed of `llmbs serve` on loopback beside that of `llmbs recommend --batch` on the same run and requests:
scripts/bench-serve.py [--run runs/demo] [--rounds 3] [--clients 1 64] [--json FILE]

Each round times the batch and then each number of clients, so that a machine that slows down slows all of them.
A client keeps its connection and sends its next request when it has the answer to the one before. The load comes
from one thread of this script, on the same machine: what it costs is the service's loss, and is shown.

At the end 8 such clients are served beside hostile ones, which are to cost bounded time and memory: clients that
stop in the middle of a head, that send bodies of 1 MiB which are no requests, that ask for as much as may be asked,
and that go before they are answered.
"""

import argparse
import contextlib
import json
import re
import select
import socket
import statistics
import subprocess
import tempfile
import threading
import time

from served import served


def bodies(program, run, count):
    """Requests for the users of the dataset, in turn."""
    stats = subprocess.run([program, "--run", run, "recommend", "--all-users", "--top", "1", "-q"],
                           capture_output=True, text=True, check=True)
    users = [json.loads(line)["user"] for line in stats.stdout.splitlines()]
    return [json.dumps({"user": users[i % len(users)]}) for i in range(count)]


def batch(program, run, requests):
    """Users a second of `recommend --batch`, the loading of the model left out."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("\n".join(requests))
        file.flush()
        command = [program, "--run", run, "recommend", "--batch", file.name, "--out", file.name + ".out"]
        begin = time.monotonic()
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        whole = time.monotonic() - begin
    seconds = float(re.search(r"requests answered in ([\d.]+) s", said)[1])
    assert seconds < whole
    return len(requests) / seconds


def load(port, clients, requests):
    """Sends the requests from so many clients; each one's seconds, and how long all took."""
    poll = select.epoll()
    waiting = iter(requests)
    taken, begun, rest = [], {}, {}

    def ask(connection):
        body = next(waiting, None)
        if body is None:
            poll.unregister(connection)
            connection.close()
            return False
        head = "POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        begun[connection.fileno()] = time.perf_counter()
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        return True

    connections = {}
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(clients):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(connection, select.EPOLLIN)
        connections[connection.fileno()] = connection
        rest[connection.fileno()] = b""
        ask(connection)
    while len(taken) < len(requests):
        for at, _ in poll.poll():
            got = connections[at].recv(1 << 16)
            assert got, "an answer was lost"
            whole = rest[at] + got
            end = whole.find(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", whole[:end]) if end >= 0 else None
            if length is None or len(whole) < end + 4 + int(length[1]):
                rest[at] = whole
                continue
            assert whole.startswith(b"HTTP/1.1 200 "), whole
            rest[at] = b""
            taken.append(time.perf_counter() - begun[at])
            ask(connections[at])
    return taken, time.perf_counter() - start, time.process_time() - cpu


def message(body):
    head = "POST /recommend HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


@contextlib.contextmanager
def hostile(port):
    """Clients that mean no good, for as long as the block runs; gives what they were answered."""
    over = threading.Event()
    answered = {}
    junk = message('{"history": ' + "[" * ((1 << 20) - 20) + "}")
    items = json.dumps(list(range(500)) * 2)
    most = message(f'{{"history": {items}, "exclude_history": true, "top": 1000, "explain": true}}')

    def connect():
        return socket.create_connection(("127.0.0.1", port), timeout=60)

    def again(name, sent, stays):
        while not over.is_set():
            with contextlib.suppress(OSError), connect() as connection:
                connection.sendall(sent)
                status = connection.recv(12)[9:].decode() if stays else "gone"
                while stays and connection.recv(1 << 16):
                    pass
                answered[name, status] = answered.get((name, status), 0) + 1

    threads = [threading.Thread(target=again, args=args) for args in [
        ("junk", junk, True), ("junk", junk, True), ("most", most, True), ("gone", most, False),
    ]]
    slow = [connect() for _ in range(100)]
    for connection in slow:
        connection.sendall(b"POST /recommend HTTP/1.1\r\nHos")
    for thread in threads:
        thread.start()
    yield answered
    over.set()
    for thread in threads:
        thread.join()
    for connection in slow:
        connection.close()


def peak_memory(process):
    """MiB."""
    with open(f"/proc/{process.pid}/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/llmbs")
    parser.add_argument("--run", default="runs/demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=5000, help="of the batch and of many clients; one sends a fifth")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    requests = bodies(args.program, args.run, args.requests)
    rows = {}
    with served(args.program, args.run) as (process, port):
        load(port, 8, requests[:200])
        for _ in range(args.rounds):
            rate = batch(args.program, args.run, requests)
            rows.setdefault("batch", []).append({"requests_per_s": rate})
            for clients in args.clients:
                mine = requests if clients > 1 else requests[: len(requests) // 5]
                seconds, took, cpu = load(port, clients, mine)
                cuts = statistics.quantiles(seconds, n=100, method="inclusive")
                rows.setdefault(f"{clients} clients", []).append({
                    "requests_per_s": len(mine) / took,
                    "p50_ms": 1000 * cuts[49],
                    "p99_ms": 1000 * cuts[98],
                    "load_cpu_share": cpu / took,
                })
        peak = peak_memory(process)
        with hostile(port) as answered:
            seconds, took, _ = load(port, 8, requests[:2000])
        beside = statistics.quantiles(seconds, n=100, method="inclusive")
        peak_beside = peak_memory(process)
    print(f"{args.run}, medians of {args.rounds} rounds; peak memory of the service {peak:.0f} MiB")
    print(f"{'':12} {'requests/s':>11} {'of batch':>9} {'p50 ms':>8} {'p99 ms':>8} {'load, cores':>12}")
    for name, rounds in rows.items():
        middle = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        shares = [r["requests_per_s"] / b["requests_per_s"] for r, b in zip(rounds, rows["batch"])]
        text = f"{name:12} {middle['requests_per_s']:11.1f} {statistics.median(shares):9.2f}"
        if "p50_ms" in middle:
            text += f" {middle['p50_ms']:8.2f} {middle['p99_ms']:8.2f} {middle['load_cpu_share']:12.2f}"
        print(text)
    print(f"8 clients beside hostile ones: {len(seconds) / took:.1f} requests/s, p50 {1000 * beside[49]:.1f} ms, "
          f"p99 {1000 * beside[98]:.1f} ms; peak memory {peak_beside:.0f} MiB; these were answered:",
          ", ".join(f"{name} {status}: {count}" for (name, status), count in sorted(answered.items())))
    if args.json:
        with open(args.json, "w") as out:
            json.dump(rows, out, indent=2)


main()
