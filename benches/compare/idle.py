"""Memory: of a fresh process, and per idle client. Start-up: from the start of the process to the first answer."""

import resource
import time
from statistics import median

from figures import Series
from lab import process, wire
from poolers import DATABASE, PASSWORD, USER, PgBouncer, Poolkeeper, Setup

TITLE = "memory: a fresh pooler, idle clients"
# Name → (clients, setup, rounds).
CASES = {
    "1 000 clients": (1000, Setup(), 3),
    "10 000 clients": (10_000, Setup(), 1),
    "1 000 clients with TLS": (1000, Setup(tls=True), 1),
}


def section(bench):
    lines = ["## Memory", "", "A fresh process, 1 server open; then clients that logged in (SCRAM), then the same after a query each.", ""]
    lines += ["| | | RSS | per idle client | per idle client that has queried |", "|---|---|---|---|---|"]
    cases = dict(list(CASES.items())[:1]) if bench.options.quick else CASES
    for name, (clients, setup, rounds) in cases.items():
        for kind in bench.each_kind():
            seen = [memory(lambda kind=kind, setup=setup: bench.make(kind, setup), clients, setup.tls) for _ in range(1 if bench.options.quick else rounds)]
            start, idle, queried = (median(values) for values in zip(*seen))
            bench.note(f"{name}: {kind.name}: {start / 1024:.1f} MB, {idle:.0f} bytes per idle client, {queried:.0f} after a query")
            lines.append(f"| {name} | {kind.name} | {start / 1024:.1f} MB | {idle:.0f} bytes | {queried:.0f} bytes |")
    lines.append("| goal (TLS apart) | | ≤ 8 MB | ≤ 2500 bytes | ≤ 2500 bytes |")
    return lines


def memory(make, clients, tls):
    """RSS of a fresh pooler in kB, and bytes more per idle client: logged in only, and after a query each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65536, hard))
    pooler = make()
    opened = []
    connect = lambda: wire.Connection("127.0.0.1", pooler.port, USER, DATABASE, PASSWORD, tls=tls)  # noqa: E731
    try:
        first = connect()
        first.query("SELECT 1")  # the first query opens a server and whatever else is lazy
        time.sleep(0.5)
        start = process.rss_kb(pooler.pid)
        opened += [connect() for _ in range(clients)]
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


def startup(bench):
    """The report's section on starting."""
    seen = {Poolkeeper: [], PgBouncer: []}
    for turn in range(5 if bench.options.quick else 15):
        for kind in list(seen) if turn % 2 == 0 else list(seen)[::-1]:
            seen[kind].append(_first_answer(bench, kind))
    ratio = Series(seen[Poolkeeper], seen[PgBouncer]).ratio()
    texts = [f"{kind.name} {median(times):.1f} ms (at most {max(times):.1f})" for kind, times in seen.items()]
    bench.note(f"{'; '.join(texts)}; ratio {ratio:.2f}")
    return [
        "## Start-up",
        "",
        f"From the start of the process to the answer to a client's first query, {len(seen[PgBouncer])} times in turn: {'; '.join(texts)}; ratio **{ratio:.2f}** (goal ≤ 1.0).",
    ]


def _first_answer(bench, kind):
    """Milliseconds."""
    folder = process.folder("start")
    pooler = kind(bench.postgres, folder, Setup(wait=False))
    began = pooler.process.began
    try:
        while True:
            try:
                client = wire.Connection("127.0.0.1", pooler.port, USER, DATABASE, PASSWORD)
                break
            except OSError:
                if time.monotonic() > began + 20:
                    raise
        client.query("SELECT 1")
        took = time.monotonic() - began
        client.close()
    finally:
        pooler.stop()
    return took * 1000
