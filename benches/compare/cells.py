"""The loads of pgbench: a line of CELLS each, measured in interleaved pairs."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass

from figures import percentile
from lab import process
from poolers import DATABASE, PASSWORD, USER

PIPELINE = "\\startpipeline\n" + "SELECT abalance FROM pgbench_accounts WHERE aid = 1;\n" * 10 + "\\endpipeline\n"
# What pgbench is told to do, and the text of its script where that is ours.
LOADS = {
    "select": (["-S"], None),
    "TPC-B": (["-b", "tpcb-like"], None),
    "pipelines of 10": ([], PIPELINE),
    "log in, one select, leave": (["-S", "-C"], None),
}


@dataclass(frozen=True)
class Cell:
    """One pgbench load. `goal`: CPU per transaction relative to PgBouncer's that is aimed at; `quick`: also in a quick run.
    `ours`, `theirs`: over which socket each side is reached."""

    mode: str
    clients: int
    goal: float | None
    quick: bool = False
    ours: str = "tcp"
    theirs: str = "tcp"
    load: str = "select"
    tls: bool = False
    trust: bool = False

    def name(self):
        words = [self.load] if self.load != "select" else []
        words += [f"{self.mode}", f"{self.clients} client{'s' if self.clients > 1 else ''}"]
        words += ["TLS to the client"] if self.tls else []
        words += ["Trust"] if self.trust else []
        words += [] if self.ours == self.theirs == "tcp" else [f"{self.ours} (PgBouncer {self.theirs})"]
        return ", ".join(words)

    def key(self):
        """For --only."""
        short = {"select": "", "TPC-B": "tpcb", "pipelines of 10": "pipeline", "log in, one select, leave": "storm"}[self.load]
        parts = [self.mode, str(self.clients), short, "" if self.ours == "tcp" else self.ours, "tls" * self.tls, "trust" * self.trust]
        return "-".join(filter(None, parts))


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
    Cell("simple", 64, 0.7, ours="unix"),
    Cell("prepared", 64, 0.7, ours="unix"),
    Cell("simple", 64, None, ours="unix", theirs="unix"),
    Cell("simple", 16, None, load="TPC-B"),
    Cell("prepared", 16, None, load="TPC-B"),
    Cell("extended", 16, None, load="pipelines of 10"),
    Cell("simple", 16, None, tls=True),
    Cell("simple", 64, None, tls=True),
    Cell("simple", 8, 1.0, load="log in, one select, leave"),
    Cell("simple", 8, 1.0, load="log in, one select, leave", trust=True),
    Cell("simple", 8, None, load="log in, one select, leave", tls=True),
]


@dataclass
class Run:
    """What one run of a load showed. CPU in microseconds per transaction, of the pooler and of pgbench; latencies in milliseconds."""

    cpu: float
    load_cpu: float
    tps: float
    p50: float
    p99: float
    longest: float


def environment(tls=False):
    return {**os.environ, "PGPASSWORD": PASSWORD, "PGUSER": USER, "PGDATABASE": DATABASE, "PGSSLMODE": "require" if tls else "disable"}


def pgbench(postgres, pooler, mode, clients, where="tcp", options=("-S",)):
    """The command line of a load through a pooler."""
    host, port = (pooler.socket, pooler.socket_port) if where == "unix" else ("127.0.0.1", pooler.port)
    return [postgres.program("pgbench"), "-n", "-M", mode, "-h", host, "-p", str(port), "-c", str(clients), *options]


_PROGRESS = re.compile(r"progress: ([\d.]+) s, ([\d.]+) tps, lat ([\d.]+) ms stddev [\d.]+(?:, (\d+) failed)?")


def measure(postgres, pooler, cell, where, seconds, script=None):
    """One run: the pooler's CPU time between pgbench's first and last progress line, so that logging in does not count. `script`: SQL in
    place of the cell's load."""
    folder = tempfile.mkdtemp(prefix="poolkeeper-load-")
    what, text = LOADS[cell.load] if script is None else ([], script)
    if text is not None:
        with open(f"{folder}/script.sql", "w") as out:
            out.write(text)
        what = ["-f", f"{folder}/script.sql"]
    # pgbench's time includes its logging in: it is told to end when enough has been seen (ALRM is its own end of -T).
    options = [*what, "-T", "600", "-P", "1", "--progress-timestamp", "-l", "--sampling-rate=0.1", f"--log-prefix={folder}/l"]
    load = subprocess.Popen(
        pgbench(postgres, pooler, cell.mode, cell.clients, where, options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(cell.tls),
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
            marks.append((now, process.cpu_seconds(pooler.pid), process.cpu_seconds(load.pid)))
            if now - marks[0][0] > seconds - 0.5:
                load.send_signal(signal.SIGALRM)
                break
        words.append(load.stderr.read())
        if load.wait() != 0 or len(marks) < 2:
            raise RuntimeError(f"pgbench through {pooler.name} failed in {cell.name()}: {''.join(words)}")
        (began, *cpu_began), (ended, *cpu_ended) = marks[0], marks[-1]
        times = _latencies(folder, began, ended)
    finally:
        if load.poll() is None:
            load.kill()
            load.wait()
        shutil.rmtree(folder, ignore_errors=True)
    cpu = [(after - before) / transactions * 1e6 for before, after in zip(cpu_began, cpu_ended)]
    return Run(*cpu, transactions / (ended - began), percentile(times, 0.5), percentile(times, 0.99), max(times))


def _latencies(folder, began, ended):
    """pgbench's sampled log lines (client, number, microseconds, script, second, microsecond) of the window, in milliseconds."""
    times = []
    for name in os.listdir(folder):
        if not name.startswith("l."):
            continue
        with open(f"{folder}/{name}") as text:
            for line in text:
                fields = line.split()
                if began <= int(fields[4]) + int(fields[5]) / 1e6 <= ended:
                    times.append(int(fields[2]) / 1000)
    return times or [0.0]
