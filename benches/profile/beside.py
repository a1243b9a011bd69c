"""Poolkeeper's transactions beside PgBouncer's: time in user space and in the kernel."""

import os
import subprocess

from cells import environment, pgbench
from lab import process
from poolers import PgBouncer, Poolkeeper

LOADS = (("simple", 16), ("simple", 64), ("extended", 16), ("extended", 64), ("prepared", 16), ("prepared", 64))
TRANSACTIONS, ROUNDS = 100_000, 3


def show(server):
    """Prints a table, of runs in turn."""
    print(f"==> CPU per transaction (median of {ROUNDS} runs of {TRANSACTIONS} in turn): user space + kernel")
    for mode, clients in LOADS:
        sides = [kind(server, process.folder(kind.name)) for kind in (Poolkeeper, PgBouncer)]
        seen = {side.name: [] for side in sides}
        for _ in range(ROUNDS):
            for side in sides:
                seen[side.name].append(_split(server, side, mode, clients))
        for side in sides:
            side.stop()
        medians = {name: [sorted(part)[ROUNDS // 2] for part in zip(*runs)] for name, runs in seen.items()}
        text = ", ".join(f"{name} {user:.1f} + {system:.1f} µs" for name, (user, system) in medians.items())
        print(f"    {mode}, {clients} clients: {text}", flush=True)


def _split(server, pooler, mode, clients):
    before = _times(pooler.pid)
    argv = pgbench(server, pooler, mode, clients, options=["-S", "-t", str(TRANSACTIONS // clients)])
    subprocess.run(argv, check=True, capture_output=True, env=environment())
    return [(now - then) / TRANSACTIONS * 1e6 for then, now in zip(before, _times(pooler.pid))]


def _times(pid):
    """Seconds in user space and in the kernel (proc_pid_stat(5): utime and stime)."""
    with open(f"/proc/{pid}/stat") as text:
        fields = text.read().rpartition(")")[2].split()
    return [int(field) / os.sysconf("SC_CLK_TCK") for field in fields[11:13]]
