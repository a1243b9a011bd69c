"""Overload: ten and fifty times as many clients as servers, with time to wait and without."""

import selectors
import socket
import struct
import time
from collections import Counter
from statistics import median

from cells import Cell, measure
from lab import wire
from poolers import DATABASE, PASSWORD, POOL, USER, PgBouncer, Poolkeeper, Setup

TITLE = "overload: clients = 10 and 50 x pool"
TIMES = (1, 10, 50)
# Where there is no time to wait: what a transaction takes at the server, and how long a client waits for one.
WORK, PATIENCE = 0.01, 0.1


def section(bench):
    lines = ["## Overload", "", f"pgbench's select on a pool of {POOL}: throughput with 10 and 50 times as many clients, beside as many as there are servers. CPU is per transaction: they share the processors.", ""]
    lines += ["| | clients | tps | of the peak | longest answer (a tenth of them seen) | CPU of the pooler | CPU of pgbench |", "|---|---|---|---|---|---|---|"]
    rounds = 1 if bench.options.quick else 3
    sides = {kind: bench.make(kind) for kind in (Poolkeeper, PgBouncer)}
    try:
        seen = {}
        for turn in range(rounds):
            for kind in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
                for times in TIMES:
                    run = measure(bench.postgres, sides[kind], Cell("simple", POOL * times, None), "tcp", bench.options.seconds)
                    seen.setdefault((kind, times), []).append(run)
    finally:
        for side in sides.values():
            side.stop()
    for kind in sides:
        peak = median(run.tps for run in seen[(kind, 1)])
        for times in TIMES:
            runs = seen[(kind, times)]
            tps, cpu, load = (median(getattr(run, what) for run in runs) for what in ("tps", "cpu", "load_cpu"))
            longest = max(run.longest for run in runs)
            bench.note(f"{kind.name}, {times} x: {tps / peak:.2f} of the peak")
            lines.append(f"| {kind.name} | {POOL * times} | {tps:.0f} | **{tps / peak:.2f}** | {longest:.0f} ms | {cpu:.1f} µs | {load:.1f} µs |")
    lines += ["| goal | | | ≥ 0.90 | ≤ 30 s | | |", ""]
    lines += [
        f"With {WORK * 1000:.0f} ms of work a transaction and {PATIENCE * 1000:.0f} ms to wait, most are refused and come again at once. "
        "Answers a second beside those of as many clients as servers, refusals by SQLSTATE, the longest time to an answer or a refusal, and the "
        "answers of the client that got fewest and most:",
        "",
        "| | clients | answers a second | of the peak | refused | ended otherwise | longest | fewest, most |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with bench.running(Poolkeeper, Setup(acquire=f"{PATIENCE * 1000:.0f}ms")) as pooler:
        peak = None
        for times in TIMES:
            crowd = Crowd(pooler, POOL * times)
            try:
                crowd.run(5)
            finally:
                crowd.close()
            peak = peak or crowd.rate()
            refused = ", ".join(f"{code} {count}" for code, count in crowd.refused.items()) or "none"
            bench.note(f"{times} x without time to wait: {crowd.rate() / peak:.2f} of the peak; refused {refused}; longest {crowd.longest * 1000:.0f} ms")
            lines.append(
                f"| Poolkeeper | {POOL * times} | {crowd.rate():.0f} | **{crowd.rate() / peak:.2f}** | {refused} | {crowd.lost} | "
                f"{crowd.longest * 1000:.0f} ms | {min(crowd.answers)}, {max(crowd.answers)} |"
            )
    return lines


class Crowd:
    """Clients that ask again as soon as they are answered or refused."""

    def __init__(self, pooler, clients):
        self.clients = [wire.Connection("127.0.0.1", pooler.port, USER, DATABASE, PASSWORD) for _ in range(clients)]
        self.answers, self.refused, self.lost, self.longest, self.took = [0] * clients, Counter(), 0, 0.0, 0.0
        text = f"SELECT pg_sleep({WORK})".encode() + b"\0"
        self.query = b"Q" + struct.pack("!i", len(text) + 4) + text

    def run(self, seconds):
        watched, asked, pending = selectors.EpollSelector(), {}, {}
        began = time.monotonic()
        for number, client in enumerate(self.clients):
            client.sock.setblocking(False)
            watched.register(client.sock, selectors.EVENT_READ, number)
            asked[number], pending[number] = began, b""
            client.sock.send(self.query)
        while (now := time.monotonic()) < began + seconds:
            for key, _ in watched.select(0.1):
                number = key.data
                piece = key.fileobj.recv(65536)
                if not piece:
                    self.lost += 1
                    watched.unregister(key.fileobj)
                    continue
                pending[number] += piece
                if not pending[number].endswith(b"Z\0\0\0\5I"):
                    continue
                self._answered(number, pending[number])
                now = time.monotonic()
                self.longest = max(self.longest, now - asked[number])
                asked[number], pending[number] = now, b""
                key.fileobj.send(self.query)
        self.took = time.monotonic() - began
        # Whoever still waits has not starved either, unless it is longer than for all others.
        self.longest = max(self.longest, *(now - since for since in asked.values()))

    def rate(self):
        return sum(self.answers) / self.took

    def close(self):
        for client in self.clients:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sock.close()

    def _answered(self, number, reply):
        if reply[:1] == b"E":
            fields = wire.fields(reply[5 : 1 + struct.unpack("!i", reply[1:5])[0]])
            self.refused[fields.get("C", "without an SQLSTATE")] += 1
        else:
            self.answers[number] += 1
