"""Reload while clients wait: how soon a change of the pool's size is felt at the server, and a thousand changes in a row."""

import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from statistics import median

from cells import environment, pgbench
from lab import process, wire
from poolers import DATABASE, PASSWORD, USER, PgBouncer, Poolkeeper

TITLE = "reload under saturation: pool 5 → 20 → 5, seen from PostgreSQL"
PATIENCE = 2.0
# Loads that saturate a pool of 5: name → statement, None = pgbench's own select.
RELOADS = {"processors free": "SELECT pg_sleep(0.004)", "processors saturated, too": None}


def section(bench):
    rows = {("PostgreSQL itself, no pooler", "nothing else runs"): floor(bench.postgres)}
    for load, statement in RELOADS.items():
        for kind in bench.each_kind():
            with bench.running(kind) as pooler:
                effects = reloads(bench.postgres, pooler, statement, times=5 if bench.options.quick else 15)
            rows[(kind.name, load)] = effects
            texts = [times_text([effect.saved for effect in effects]) for effects in effects]
            bench.note(f"{kind.name}, {load}, from the rename: grow {texts[0]}; shrink {texts[1]}")
    lines = [
        "## Reload under saturation",
        "",
        "64 clients without pause on a pool of 5, all of them waiting or served; with processors free a transaction sleeps 4 ms at the server "
        "(a shrink has to wait for those that run), else it is pgbench's select and PostgreSQL's processes begin and end on cores that the load "
        "has filled. The configuration file is renamed into place with 20, later with 5 (PgBouncer: and SIGHUP). "
        "Grow: until the first query ran on a new server; shrink: until PostgreSQL counts no more than 5. In PostgreSQL's own view, from the "
        "rename and, where the pooler says when it applied the file, from then. PostgreSQL itself: a login until its first answer, and fifteen "
        "sessions that end at once; no pooler can be faster than that.",
        "",
        "| | load | grow, median (max) | of which after applying | shrink, median (max) | of which after applying |",
        "|---|---|---|---|---|---|",
    ]
    for (name, load), effects in rows.items():
        cells = " | ".join(times_text([getattr(e, since) for e in kind]) for kind in effects for since in ("saved", "applied"))
        lines.append(f"| {name} | {load} | {cells} |")
    lines.append("| goal | | | < 5 ms | | < 10 ms |")
    return lines


def thousand(bench):
    """The report's section on many changes in a row."""
    times = 200 if bench.options.quick else 1000
    lines = ["## Changes in a row", "", f"{times} changes of the pool's size (5, 20, 12, 33, …) under 64 clients that select without pause.", ""]
    lines += ["| | changes | in | transactions meanwhile | failed |", "|---|---|---|---|---|"]
    for kind in (Poolkeeper, PgBouncer):
        with bench.running(kind) as pooler:
            took, transactions, failed = in_a_row(bench.postgres, pooler, times)
        bench.note(f"{kind.name}: {times} changes in {took:.0f} s, {transactions} transactions, {failed} failed")
        lines.append(f"| {kind.name} | {times} | {took:.0f} s | {transactions} | {failed} |")
    return lines


def in_a_row(postgres, pooler, times, clients=64):
    """Seconds, transactions, and clients that an error ended (pgbench's clients end at their first)."""
    argv = pgbench(postgres, pooler, "simple", clients, options=["-S", "-T", "600"])
    load = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    try:
        time.sleep(2)
        began = time.monotonic()
        for number in range(times):
            before = pooler.applied()
            pooler.resize((5, 20, 12, 33)[number % 4])
            if before is None:  # it does not say when it has applied one
                time.sleep(0.03)
            else:
                process.wait_for(lambda before=before: pooler.applied() != before, "the change to be applied", 10, pause=0.002)
        took = time.monotonic() - began
        load.send_signal(signal.SIGALRM)
        said = load.communicate(timeout=30)[0]
    finally:
        if load.poll() is None:
            load.kill()
            load.wait()
    count = next(int(line.split(":")[1].split("/")[0]) for line in said.splitlines() if line.startswith("number of transactions actually processed"))
    failed = sum("aborted" in line or "error" in line.lower() for line in said.splitlines() if line.startswith("pgbench:"))
    if load.returncode != 0 and not failed:
        raise RuntimeError(f"pgbench through {pooler.name} failed: {said}")
    return took, count, failed


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


def reloads(postgres, pooler, statement, small=5, large=20, times=10, clients=64):
    """Under a load that saturates the pool, again and again: grow (until the first waiter is served by a new server) and shrink (until
    the count is at the new limit); two lists of Effects."""
    options = ["-T", "600"] if statement else ["-S", "-T", "600"]
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


def times_text(times):
    """Median and maximum in milliseconds; times that never came are said."""
    came = [value for value in times if value is not None]
    missed = len(times) - len(came)
    if not came:
        return "–"
    text = f"{median(came):.1f} ms ({max(came):.1f})"
    return text + (f", {missed} of {len(times)} not within 2 s" if missed else "")
