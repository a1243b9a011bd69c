"""What is measured. A cell of pgbench is one line of CELLS; memory, system calls and reloads have a function each."""

import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass

from figures import percentile
from lab import process, wire
from poolers import DATABASE, PASSWORD, USER


@dataclass(frozen=True)
class Cell:
    """One pgbench load. `goal`: CPU per transaction relative to PgBouncer's that part 5 wants; `quick`: also in a quick run.
    `ours`, `theirs`: over which socket each side is reached."""

    mode: str
    clients: int
    goal: float | None
    quick: bool = False
    ours: str = "tcp"
    theirs: str = "tcp"

    def name(self):
        where = "" if self.ours == self.theirs == "tcp" else f", {self.ours} (PgBouncer {self.theirs})"
        return f"{self.mode}, {self.clients} client{'s' if self.clients > 1 else ''}{where}"

    def key(self):
        """For --only."""
        return f"{self.mode}-{self.clients}" + ("" if self.ours == "tcp" else f"-{self.ours}")


CELLS = [
    Cell("simple", 1, None),
    Cell("simple", 16, 0.95, quick=True),
    Cell("simple", 64, 0.75, quick=True),
    Cell("simple", 256, 0.85),
    Cell("extended", 1, None),
    Cell("extended", 16, 0.95, quick=True),
    Cell("extended", 64, 0.75, quick=True),
    Cell("extended", 256, 0.85),
    Cell("prepared", 1, None),
    Cell("prepared", 16, 0.8),
    Cell("prepared", 64, 0.8),
    Cell("prepared", 256, 0.8),
    Cell("simple", 16, 0.7, ours="unix"),
]


@dataclass
class Run:
    """What one run of a load showed. CPU in microseconds per transaction, latencies in milliseconds."""

    cpu: float
    tps: float
    p50: float
    p99: float


def environment():
    return {**os.environ, "PGPASSWORD": PASSWORD, "PGUSER": USER, "PGDATABASE": DATABASE, "PGSSLMODE": "disable"}


def pgbench(postgres, pooler, mode, clients, where="tcp", options=()):
    """The command line of pgbench's select-only load through a pooler."""
    host = pooler.socket if where == "unix" else "127.0.0.1"
    what = [] if "-f" in options else ["-S"]
    return [postgres.program("pgbench"), "-n", *what, "-M", mode, "-h", host, "-p", str(pooler.port), "-c", str(clients), *options]


_PROGRESS = re.compile(r"progress: ([\d.]+) s, ([\d.]+) tps, lat ([\d.]+) ms stddev [\d.]+(?:, (\d+) failed)?")


def measure(postgres, pooler, cell, where, seconds):
    """One run: the pooler's CPU time between pgbench's first and last progress line, so that logging in does not count."""
    logs = tempfile.mkdtemp(prefix="poolkeeper-latency-")
    # pgbench's time includes its logging in: it is told to end when enough has been seen (ALRM is its own end of -T).
    options = ["-T", "600", "-P", "1", "--progress-timestamp", "-l", "--sampling-rate=0.1", f"--log-prefix={logs}/l"]
    load = subprocess.Popen(
        pgbench(postgres, pooler, cell.mode, cell.clients, where, options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        marks, words, transactions = [], [], 0.0
        for line in load.stderr:
            found = _PROGRESS.match(line)
            if not found:
                words.append(line)
                continue
            now, tps = float(found[1]), float(found[2])
            if not marks and not tps:
                continue  # still logging in
            if marks:
                transactions += tps * (now - marks[-1][0])
            marks.append((now, process.cpu_seconds(pooler.pid)))
            if now - marks[0][0] > seconds - 0.5:
                load.send_signal(signal.SIGALRM)
                break
        words.append(load.stderr.read())
        if load.wait() != 0 or len(marks) < 2:
            raise RuntimeError(f"pgbench through {pooler.name} failed in {cell.name()}: {''.join(words)}")
        (began, cpu_began), (ended, cpu_ended) = marks[0], marks[-1]
        times = _latencies(logs, began, ended)
    finally:
        if load.poll() is None:
            load.kill()
            load.wait()
        shutil.rmtree(logs, ignore_errors=True)
    cpu = (cpu_ended - cpu_began) / transactions * 1e6
    return Run(cpu, transactions / (ended - began), percentile(times, 0.5), percentile(times, 0.99))


def _latencies(folder, began, ended):
    """pgbench's sampled log lines (client, number, microseconds, script, second, microsecond) of the window, in milliseconds."""
    times = []
    for name in os.listdir(folder):
        with open(f"{folder}/{name}") as text:
            for line in text:
                fields = line.split()
                if began <= int(fields[4]) + int(fields[5]) / 1e6 <= ended:
                    times.append(int(fields[2]) / 1000)
    return times or [0.0]


def idle_memory(make, clients=1000):
    """RSS of a fresh pooler in kB, and bytes more per idle client: logged in only, and after a query each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65536, hard))
    pooler = make()
    opened = []
    try:
        first = wire.Connection("127.0.0.1", pooler.port, USER, DATABASE, PASSWORD)
        first.query("SELECT 1")  # the first query opens a server and whatever else is lazy
        time.sleep(0.5)
        start = process.rss_kb(pooler.pid)
        for _ in range(clients):
            opened.append(wire.Connection("127.0.0.1", pooler.port, USER, DATABASE, PASSWORD))
        time.sleep(1.0)
        logged_in = process.rss_kb(pooler.pid)
        for client in opened:
            client.query("SELECT 1")
        time.sleep(1.0)
        queried = process.rss_kb(pooler.pid)
        first.close()
    finally:
        for client in opened:
            client.close()
        pooler.stop()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return start, (logged_in - start) * 1024 / clients, (queried - start) * 1024 / clients


def system_calls(postgres, pooler, mode, clients, each=2000):
    """System calls per transaction by name, most frequent first, counted by strace."""
    counts = tempfile.mkstemp(prefix="poolkeeper-strace-")[1]
    trace = subprocess.Popen(["strace", "-c", "-f", "-q", "-p", str(pooler.pid), "-o", counts], stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)  # attaching takes a moment
        load = pgbench(postgres, pooler, mode, clients, options=["-t", str(each)])
        subprocess.run(load, check=True, capture_output=True, env=environment())
        trace.terminate()
        trace.wait()
        calls = {}
        with open(counts) as text:
            for line in text:
                fields = line.split()
                if len(fields) >= 5 and fields[3].isdigit() and fields[-1] != "total":
                    calls[fields[-1]] = int(fields[3]) / (clients * each)
    finally:
        if trace.poll() is None:
            trace.kill()
        os.unlink(counts)
    return dict(sorted(calls.items(), key=lambda item: -item[1]))


class Watch:
    """Looks at the servers from PostgreSQL's own view of them, without pause: about a thousand looks a second."""

    def __init__(self, postgres):
        self.admin = postgres.admin()
        if os.getuid() == 0:  # a look that waits for a core behind the load would show the scheduler, not the pooler
            os.setpriority(os.PRIO_PROCESS, self.admin.pid, -15)

    def servers(self):
        """pid → time of its latest query's start (None before its first)."""
        sql = f"SELECT pid, extract(epoch FROM query_start) FROM pg_stat_activity WHERE usename = '{USER}'"
        return {int(pid): float(start) if start else None for pid, start in self.admin.query(sql)}

    def close(self):
        self.admin.close()


@dataclass
class Effect:
    """Milliseconds from the rename of the configuration file to the effect, and, where the pooler says when it applied it, from then.
    None where there was no effect within PATIENCE."""

    saved: float | None
    applied: float | None


PATIENCE = 2.0


# Loads that saturate a pool of 5: name → statement, None = pgbench's own select.
RELOADS = {"processors free": "SELECT pg_sleep(0.004)", "processors saturated, too": None}


def reloads(postgres, pooler, statement, small=5, large=20, times=10, clients=64):
    """Under a load that saturates the pool, again and again: grow (until the first waiter is served by a new server) and shrink (until
    the count is at the new limit); two lists of Effects."""
    options = ["-T", "600"]
    with tempfile.NamedTemporaryFile("w", prefix="poolkeeper-load-") as script:
        if statement:
            script.write(f"{statement};\n")
            script.flush()
            options += ["-f", script.name]
        return _reloads(postgres, pooler, pgbench(postgres, pooler, "simple", clients, options=options), small, large, times)


def _reloads(postgres, pooler, load, small, large, times):
    load = subprocess.Popen(
        load,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    watch = Watch(postgres)
    grown, shrunk = [], []
    try:
        if os.getuid() == 0:
            os.setpriority(os.PRIO_PROCESS, 0, -15)
        pooler.resize(small)
        time.sleep(2.5)
        for _ in range(times):
            before = set(watch.servers())
            grown.append(_effect(pooler, large, lambda saved, before=before: _first_served(watch, before, saved)))
            time.sleep(0.5)
            shrunk.append(_effect(pooler, small, lambda _saved: time.time() if len(watch.servers()) <= small else None))
            time.sleep(0.5)
        if load.poll() is not None:
            raise RuntimeError(f"the load through {pooler.name} ended while its pool was resized")
    finally:
        if os.getuid() == 0:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        load.kill()
        load.wait()
        watch.close()
    return grown, shrunk


def floor(postgres, small=5, large=20, times=10):
    """The same without a pooler, and with nothing else to do: how long PostgreSQL takes from a login to its first answer, and to count
    no more than `small` when all above it have said goodbye at once; two lists of Effects."""

    def connect():
        return wire.Connection("127.0.0.1", postgres.port, USER, DATABASE, PASSWORD)

    watch = Watch(postgres)
    grown, shrunk, kept = [], [], [connect() for _ in range(small)]
    try:
        for _ in range(times):
            began = time.time()
            alone = postgres.admin(DATABASE)  # without a password: its 4096 rounds are Python's here
            alone.query("SELECT 1")
            grown.append(Effect((time.time() - began) * 1000, None))
            alone.close()
            surplus = [connect() for _ in range(large - small)]
            for each in surplus * 20:
                each.query("SELECT abalance FROM pgbench_accounts WHERE aid = 1")
            time.sleep(0.3)
            began = time.time()
            for each in surplus:
                each.send_goodbye()
            while len(watch.servers()) > small:
                pass
            shrunk.append(Effect((time.time() - began) * 1000, None))
            for each in surplus:
                each.close()
    finally:
        watch.close()
        for each in kept:
            each.close()
    return grown, shrunk


def _effect(pooler, size, seen):
    """Resizes, and looks until `seen(saved)` gives the time of the effect."""
    saved = pooler.resize(size)
    while time.time() < saved + PATIENCE:
        at = seen(saved)
        if at:
            applied = pooler.applied()
            return Effect((at - saved) * 1000, (at - applied) * 1000 if applied else None)
    return Effect(None, None)


def _first_served(watch, before, saved):
    """When the first query ran on a server that was not there before."""
    return min((at for pid, at in watch.servers().items() if pid not in before and at and at > saved), default=None)
