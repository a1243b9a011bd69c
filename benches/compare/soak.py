"""An hour of churn through one sidecar: `benches/compare/run --soak [--minutes N]` (part of make soak; some seconds of it in make test).

Clients that stay, clients that log in for one query, clients that idle and leave, servers that are recycled every five seconds, a pool whose
size changes every two: nothing may fail, and memory, descriptors and p99 must not grow."""

import argparse
import os
import random
import re
import subprocess
import sys
import threading
import time
from statistics import median

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../../scripts")]

from cells import environment, pgbench  # noqa: E402
from figures import percentile  # noqa: E402
from lab import postgres, process, wire  # noqa: E402
from poolers import DATABASE, PASSWORD, USER, Poolkeeper, Setup  # noqa: E402
from world import fill  # noqa: E402

STAYING, IDLING, SAMPLES = 32, 200, 60
# What RSS may grow by between the middle and the end (an allocator settles by steps), and p99 against the first quarter.
GROWTH_KB, DRIFT = 2048, 3.0


class Churn(threading.Thread):
    """Does something again and again until told to stop; keeps what went wrong."""

    def __init__(self, step, pause):
        super().__init__(daemon=True)
        self.step, self.pause, self.stopped, self.done, self.wrong = step, pause, threading.Event(), 0, []

    def run(self):
        while not self.stopped.wait(self.pause):
            try:
                self.step()
                self.done += 1
            except Exception as error:  # noqa: BLE001: whatever it is, it must not be
                self.wrong.append(repr(error))
                return


def visitor(port, asks):
    """A client that logs in, asks so often, and leaves, mostly politely."""
    client = wire.Connection("127.0.0.1", port, USER, DATABASE, PASSWORD)
    for number in range(asks):
        if client.query(f"SELECT {number} + 1") != [[str(number + 1)]]:
            raise RuntimeError("a wrong answer")
    client.close() if random.random() < 0.8 else client.sock.close()


class Idlers:
    """Some hundred clients that come, ask once, idle, and go."""

    def __init__(self, port):
        self.port, self.clients = port, []

    def step(self):
        if len(self.clients) >= IDLING or (self.clients and random.random() < 0.4):
            self.clients.pop(random.randrange(len(self.clients))).close()
            return
        client = wire.Connection("127.0.0.1", self.port, USER, DATABASE, PASSWORD)
        client.query("SELECT 1")
        self.clients.append(client)


def main():
    parser = argparse.ArgumentParser(prog="benches/compare/run --soak", description="Churn through one sidecar, and what it leaves.")
    parser.add_argument("--poolkeeper", required=True)
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    Poolkeeper.binary = os.path.abspath(options.poolkeeper)
    process.interrupted_as_exception()
    try:
        folder = process.folder("soak")
        server = postgres.Postgres(folder, shared_buffers="256MB")
        fill(server, folder)
        pooler = Poolkeeper(server, process.folder("poolkeeper"), Setup(pool=(("recycle", "5s"), ("maxOverflow", 5))))
        problems = soak(server, pooler, options.minutes * 60)
        pooler.stop()
    finally:
        process.end_all()
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def soak(server, pooler, seconds):
    print(f"==> {seconds / 60:g} minutes of churn: {STAYING} clients without pause, others come and go, servers recycle, the pool changes", flush=True)
    visitor(pooler.port, 1)
    at_first = process.descriptors(pooler.pid)
    argv = pgbench(server, pooler, "prepared", STAYING, options=["-S", "-T", str(int(seconds) + 600), "-P", "1", "-R", "2000"])
    said = open(f"{server.folder}/load", "w+")
    load = subprocess.Popen(argv, stdout=said, stderr=subprocess.STDOUT, text=True, env=environment())
    idlers = Idlers(pooler.port)
    churns = {
        "visitors": Churn(lambda: visitor(pooler.port, 3), 0.05),
        "idlers": Churn(idlers.step, 0.02),
        "reloads": Churn(lambda: pooler.resize(random.choice((5, 12, 20, 33))), 2),
        "scrapes": Churn(lambda: pooler.sidecar.get("/metrics"), 1),
    }
    for churn in churns.values():
        churn.start()
    rss, descriptors = [], []
    try:
        for number in range(SAMPLES):
            time.sleep(seconds / SAMPLES)
            rss.append(process.rss_kb(pooler.pid))
            descriptors.append(process.descriptors(pooler.pid))
            if number % 10 == 9:
                print(f"    {(number + 1) * seconds / SAMPLES / 60:6.1f} min: RSS {rss[-1] / 1024:.1f} MB, {descriptors[-1]} descriptors", flush=True)
        failed_early = load.poll() is not None
    finally:
        for churn in churns.values():
            churn.stopped.set()
        load.kill()
        load.wait()
    for churn in churns.values():
        churn.join(20)
    for client in idlers.clients:
        client.close()
    said.seek(0)
    text = said.read()
    times = [float(found) for found in re.findall(r"progress: .* lat ([\d.]+) ms", text)]
    problems = [f"{name}: {churn.wrong[0]}" for name, churn in churns.items() if churn.wrong]
    if failed_early or "aborted" in text:
        problems.append(f"pgbench: {text[-300:]}")
    return problems + judged(pooler, rss, times, at_first, churns)


def judged(pooler, rss, times, at_first, churns):
    """Says what was seen; what is wrong with it."""
    problems, half, quarter = [], len(rss) // 2, max(1, len(times) // 4)
    grown = median(rss[-5:]) - median(rss[half - 2 : half + 3])
    early, late = (percentile(part, 0.99) for part in (times[1 : 1 + quarter], times[-quarter:]))
    done = ", ".join(f"{churn.done} {name}" for name, churn in churns.items())
    print(f"    {done}; RSS {rss[half] / 1024:.1f} MB half-way, {rss[-1] / 1024:.1f} MB at the end ({grown:+.0f} kB); ", end="")
    print(f"seconds' mean latency, p99: {early:.2f} ms in the first quarter, {late:.2f} ms in the last", flush=True)
    if grown > GROWTH_KB:
        problems.append(f"RSS grew by {grown:.0f} kB in the second half")
    if late > early * DRIFT + 5:
        problems.append(f"latency grew from {early:.2f} to {late:.2f} ms")
    # Servers stay; all else that was opened is closed.
    pooler.resize(1)
    try:
        process.wait_for(lambda: process.descriptors(pooler.pid) <= at_first + 6, "descriptors to be given back", 20, pause=0.2)
    except RuntimeError as error:
        problems.append(f"{error}: {process.descriptors(pooler.pid)} are open, {at_first} were at first")
    return problems


if __name__ == "__main__":
    sys.exit(main())
