"""Large results and COPY: CPU per megabyte. PgBouncer twice, with its default buffers and with 64 kB."""

import os
import subprocess
from statistics import median

from cells import Cell, environment, measure
from figures import Series
from lab import process
from poolers import DATABASE, USER, PgBouncer, Poolkeeper, Setup

TITLE = "large results and COPY: CPU per MB"
ROW = "repeat('x', 100)"
ROWS, COPIED = 10_000, 400_000


def _digits(count):
    return sum(len(str(number)) for number in range(1, count + 1))


# Name → (statement, bytes of its rows as the protocol carries them).
QUERIES = {
    "one row of 1 MB": ("SELECT repeat('x', 1000000);", 1_000_000 + 11),
    "10 000 rows of 100 bytes": (f"SELECT g, {ROW} FROM generate_series(1, {ROWS}) g;", ROWS * (15 + 100) + _digits(ROWS)),
}
# A line of COPY is the number, a tabulator, the text and a newline, with five bytes of protocol before it.
LINES = COPIED * 102 + _digits(COPIED)


def section(bench):
    rounds = 3 if bench.options.quick else 7
    sides = {
        "Poolkeeper": bench.make(Poolkeeper),
        "PgBouncer": bench.make(PgBouncer),
        "PgBouncer, pkt_buf 64k": bench.make(PgBouncer, Setup(buffer=65536)),
    }
    seen = {}
    try:
        for name, (sql, size) in QUERIES.items():
            cell = Cell("simple", 4, None)
            run = lambda side, sql=sql, size=size, cell=cell: measure(bench.postgres, side, cell, "tcp", 3, sql + "\n").cpu / size * 1e6  # noqa: E731
            seen[name] = _interleaved(sides, rounds, run)
        with _Copies(bench) as copies:
            for name, run in (("COPY to the client", copies.out), ("COPY from the client", copies.into)):
                seen[name] = _interleaved(sides, rounds, run)
    finally:
        for side in sides.values():
            side.stop()
    lines = ["## Large results and COPY", "", "CPU of the pooler per megabyte (4 clients, for COPY one), median and, in brackets, ratio to Poolkeeper's."]
    lines += ["", "| | " + " | ".join(sides) + " | goal |", "|---|" + "---|" * (len(sides) + 1)]
    for name, runs in seen.items():
        ratios = [Series(runs["Poolkeeper"], runs[side]).ratio() for side in list(sides)[1:]]
        bench.note(f"{name}: {ratios[0]:.2f} x PgBouncer's, {ratios[1]:.2f} x PgBouncer's with 64 kB")
        figures = [f"{median(runs['Poolkeeper']) / 1000:.3f} ms"]
        figures += [f"{median(runs[side]) / 1000:.3f} ms (**{ratio:.2f}**)" for side, ratio in zip(list(sides)[1:], ratios)]
        lines.append(f"| {name} | {' | '.join(figures)} | ≤ 0.45 and ≤ 1.0 |")
    lines[2] = "CPU of the pooler per megabyte (4 clients; for COPY one), median; in brackets Poolkeeper's figure over this one."
    return lines


def _interleaved(sides, rounds, run):
    seen = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
            seen[name].append(run(sides[name]))
    return seen


class _Copies:
    """A table of numbered lines, copied by psql."""

    def __init__(self, bench):
        self.postgres, self.psql = bench.postgres, bench.postgres.program("psql")
        self.file = os.path.join(process.folder("copy"), "lines")

    def __enter__(self):
        admin = self.postgres.admin(DATABASE)
        admin.query(f"CREATE UNLOGGED TABLE lines (n int, text text); GRANT ALL ON lines TO {USER}")
        admin.query("INSERT INTO lines SELECT 0, ''")
        admin.close()
        with open(self.file, "w") as out:
            out.writelines(f"{number}\t{'x' * 100}\n" for number in range(1, COPIED + 1))
        return self

    def __exit__(self, *_):
        os.unlink(self.file)
        admin = self.postgres.admin(DATABASE)
        admin.query("DROP TABLE lines")
        admin.close()

    def out(self, side):
        """Microseconds per megabyte (of what the protocol carries), towards the client."""
        return self._run(side, f"\\copy (SELECT g, {ROW} FROM generate_series(1, {COPIED}) g) TO /dev/null", 5 * COPIED)

    def into(self, side):
        """The same, from the client; psql sends pieces of some kilobytes."""
        used = self._run(side, f"\\copy lines FROM {self.file}", 0)
        admin = self.postgres.admin(DATABASE)
        admin.query("TRUNCATE lines")
        admin.close()
        return used

    def _run(self, side, command, overhead):
        before = process.cpu_seconds(side.pid)
        argv = [self.psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(side.port), "-c", command]
        subprocess.run(argv, check=True, capture_output=True, env=environment())
        return (process.cpu_seconds(side.pid) - before) / (LINES + overhead) * 1e12
