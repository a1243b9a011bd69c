"""What else costs something: scrapes, many pools in one sidecar, a second worker."""

import urllib.request
from statistics import median

from cells import Cell, measure
from figures import Series
from lab import process
from poolers import Poolkeeper, Setup

TITLE = "scrapes, 20 pools, two workers"
POOLS = 20
SCRAPES = 200


def section(bench):
    one, many = bench.make(Poolkeeper), bench.make(Poolkeeper, Setup(databases=bench.databases(POOLS - 1)))
    try:
        sides = {"1 pool": one, f"{POOLS} pools": many}
        seen = {name: [] for name in sides}
        for turn in range(3 if bench.options.quick else 7):
            for name in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
                seen[name].append(measure(bench.postgres, sides[name], Cell("simple", 16, None), "tcp", 3).cpu)
        lines = ["## Scrapes, and many pools in one sidecar", ""]
        lines += ["| | a scrape of /metrics | its size | RSS | CPU per transaction (simple, 16 clients, one pool in use) |", "|---|---|---|---|---|"]
        for name, side in sides.items():
            used, size = _scrape(side)
            rss = process.rss_kb(side.pid) / 1024
            bench.note(f"{name}: {used:.2f} ms a scrape of {size / 1024:.0f} kB, RSS {rss:.1f} MB")
            lines.append(f"| {name} | {used:.2f} ms of CPU | {size / 1024:.0f} kB | {rss:.1f} MB | {median(seen[name]):.1f} µs |")
    finally:
        one.stop()
        many.stop()
    ratio = Series(seen[f"{POOLS} pools"], seen["1 pool"]).ratio()
    return [*lines, "", f"CPU per transaction with {POOLS} pools over that with one: {ratio:.2f}."]


def _scrape(side):
    """CPU milliseconds of one, and its bytes."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    url, size = f"http://127.0.0.1:{side.sidecar.http}/metrics", 0
    before = process.cpu_seconds(side.pid)
    for _ in range(SCRAPES):
        with direct.open(url, timeout=10) as answer:
            size = len(answer.read())
    return (process.cpu_seconds(side.pid) - before) / SCRAPES * 1000, size


def workers(bench):
    """The report's section on a second worker."""
    sides = {1: bench.make(Poolkeeper), 2: bench.make(Poolkeeper, Setup(workers=2))}
    seen = {number: [] for number in sides}
    try:
        for turn in range(3 if bench.options.quick else 7):
            for number in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
                seen[number].append(measure(bench.postgres, sides[number], Cell("simple", 64, None), "tcp", bench.options.seconds))
    finally:
        for side in sides.values():
            side.stop()
    throughput = Series([run.tps for run in seen[2]], [run.tps for run in seen[1]]).ratio()
    cpu = Series([run.cpu for run in seen[2]], [run.cpu for run in seen[1]]).ratio()
    bench.note(f"two workers: {throughput:.2f} x the throughput of one, {cpu:.2f} x the CPU per transaction")
    return [
        "## Two workers",
        "",
        f"Simple, 64 clients: two workers have **{throughput:.2f}** times the throughput of one and take {cpu:.2f} times the CPU per transaction. "
        "The goal is ≥ 1.6 where there are cores for it: here pgbench, PostgreSQL and the pooler share them, and one worker is not what is short.",
    ]
