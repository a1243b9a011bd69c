"""Poolkeeper and PgBouncer side by side. Started by benches/compare/run, which installs what is missing."""

import argparse
import contextlib
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../../scripts")]

import calls  # noqa: E402
import cells  # noqa: E402
import costs  # noqa: E402
import idle  # noqa: E402
import overload  # noqa: E402
import reload  # noqa: E402
import report  # noqa: E402
import transfers  # noqa: E402
from figures import Series  # noqa: E402
from lab import postgres, process  # noqa: E402
from poolers import DATABASE, PASSWORD, USER, Nothing, PgBouncer, Poolkeeper, Setup  # noqa: E402

# After pgbench's cells: name for --only → (what is said, function, whether a quick run has it).
SECTIONS = {
    "transfers": (transfers.TITLE, transfers.section, False),
    "memory": (idle.TITLE, idle.section, True),
    "startup": ("start-up", idle.startup, False),
    "calls": (calls.TITLE, calls.section, True),
    "reload": (reload.TITLE, reload.section, True),
    "thousand": ("a thousand changes under load", reload.thousand, False),
    "overload": (overload.TITLE, overload.section, False),
    "costs": (costs.TITLE, costs.section, False),
    "workers": ("two workers", costs.workers, False),
}


def arguments():
    parser = argparse.ArgumentParser(prog="benches/compare/run", description="Poolkeeper and PgBouncer side by side.")
    parser.add_argument("--quick", action="store_true", help="the four main cells, 3 pairs of 3 s (3 minutes in all)")
    parser.add_argument("--pairs", type=int, help="interleaved pairs per cell (default 7, quick 3)")
    parser.add_argument("--seconds", type=int, help="measured seconds of one run (default 4, quick 3)")
    parser.add_argument("--only", default="", help=f"some cells (simple-16, prepared-256, simple-16-unix, simple-16-tpcb, …) or sections ({', '.join(SECTIONS)}), comma separated")
    parser.add_argument("--report", help="where to write the report (default benches/report.md; a run with --only writes none)")
    parser.add_argument("--poolkeeper", help="the binary to measure (default: builds the release binary)")
    parser.add_argument("--self", action="store_true", help="PgBouncer against itself: shows the noise of this machine")
    options = parser.parse_args()
    options.pairs = options.pairs or (3 if options.quick else 7)
    options.seconds = options.seconds or (3 if options.quick else 4)
    if not options.report and not options.only and not options.self:
        options.report = os.path.join(HERE, "../report.md")
    return options


class Bench:
    """One PostgreSQL, both poolers, and what has been measured so far."""

    def __init__(self, options):
        self.options = options
        self.kinds = (PgBouncer if options.self else Poolkeeper, PgBouncer)
        self.folder = process.folder("bench")
        self.started = time.time()
        self.load_before = os.getloadavg()[0]
        self.sections = []
        self.note = note
        say("starting PostgreSQL and filling pgbench's tables")
        self.postgres = postgres.Postgres(self.folder, shared_buffers="256MB", autovacuum="off")
        self._fill()

    def _fill(self):
        admin = self.postgres.admin()
        admin.query(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
        admin.query(f"CREATE DATABASE {DATABASE} OWNER {USER}")
        admin.close()
        command = f"{self.postgres.program('pgbench')} -q -i -I dtGvp -s 5 -h {self.folder} -p {self.postgres.port} -U postgres {DATABASE}"
        if os.system(f"{command} >{self.folder}/fill.log 2>&1") != 0:
            raise RuntimeError(open(f"{self.folder}/fill.log").read())
        admin = self.postgres.admin(DATABASE)
        admin.query(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {USER}")
        admin.close()

    def databases(self, count):
        """The names of so many more databases."""
        names = tuple(f"more_{number}" for number in range(count))
        admin = self.postgres.admin()
        for name in names:
            admin.query(f"CREATE DATABASE {name} OWNER {USER}")
        admin.close()
        return names

    def make(self, kind, setup=Setup()):
        return kind(self.postgres, process.folder(kind.name.lower().replace(" ", "-")), setup)

    @contextlib.contextmanager
    def running(self, kind, setup=Setup()):
        pooler = self.make(kind, setup)
        try:
            yield pooler
        finally:
            pooler.stop()

    def each_kind(self):
        return dict.fromkeys(self.kinds)

    def _wanted(self, name):
        only = [word.strip() for word in self.options.only.split(",") if word.strip()]
        return not only or name in only

    def pgbench_cells(self):
        every = not self.options.quick or self.options.only
        chosen = [cell for cell in cells.CELLS if (cell.quick or every) and self._wanted(cell.key())]
        pgbench, direct, pair = {}, {}, None
        try:
            for cell in chosen:
                setup = Setup(tls=cell.tls, trust=cell.trust)
                if pair is None or pair[0] != setup:
                    for side in pair[1:] if pair else ():
                        side.stop()
                    pair = (setup, *(self.make(kind, setup) for kind in self.kinds))
                pgbench[cell] = self._pairs(cell, *pair[1:])
                if cell.clients == 1:
                    itself = self.make(Nothing)
                    direct[cell] = [cells.measure(self.postgres, itself, cell, "tcp", self.options.seconds) for _ in range(self.options.pairs)]
        finally:
            for side in pair[1:] if pair else ():
                side.stop()
        if pgbench:
            self.sections.append(report.cells(pgbench, [kind.name for kind in self.kinds], self.options.pairs, self.options.seconds))
        if direct:
            self.sections.append(report.added(pgbench, direct))

    def _pairs(self, cell, ours, theirs):
        say(f"{cell.name()}: {self.options.pairs} interleaved pairs")
        pairs = []
        for index in range(self.options.pairs):
            sides = [(ours, cell.ours), (theirs, cell.theirs)]
            if index % 2:  # every other pair the other way round: drift favours neither
                sides.reverse()
            runs = {id(side): cells.measure(self.postgres, side, cell, where, self.options.seconds) for side, where in sides}
            pairs.append((runs[id(ours)], runs[id(theirs)]))
        cpu = Series([a.cpu for a, _ in pairs], [b.cpu for _, b in pairs])
        low, high = cpu.spread()
        note(f"CPU per transaction {cpu.ratio():.2f} x PgBouncer's ({low:.2f} to {high:.2f})")
        return pairs

    def run(self):
        self.pgbench_cells()
        for name, (title, section, quick) in SECTIONS.items():
            if self._wanted(name) and (quick or self.options.only or not self.options.quick):
                say(title)
                self.sections.append(section(self))

    def facts(self):
        return report.Facts(
            versions=[kind.version() for kind in self.each_kind()] + [f"PostgreSQL {self.postgres.version()}"],
            settings={kind.name: kind.settings for kind in self.each_kind()},
            postgres=self.postgres.settings,
            load_before=self.load_before,
            seconds=time.time() - self.started,
        )


def say(text):
    print(f"==> {text}", flush=True)


def note(text):
    print(f"    {text}", flush=True)


def main():
    options = arguments()
    Poolkeeper.binary = options.poolkeeper and os.path.abspath(options.poolkeeper)
    process.interrupted_as_exception()
    bench = None
    try:
        bench = Bench(options)
        bench.run()
        text = report.render(bench.sections, bench.facts())
        print("\n" + text)
        if options.report:
            with open(options.report, "w") as out:
                out.write(text)
            say(f"written to {os.path.relpath(options.report)}")
    except KeyboardInterrupt:
        print("\ninterrupted: cleaned up, nothing written", file=sys.stderr)
        return 130
    finally:
        process.end_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
