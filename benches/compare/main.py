"""Poolkeeper and PgBouncer side by side. Started by benches/compare/run, which installs what is missing."""

import argparse
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../../scripts")]

import cells  # noqa: E402
import report  # noqa: E402
from figures import Series  # noqa: E402
from lab import postgres, process  # noqa: E402
from poolers import DATABASE, PASSWORD, USER, PgBouncer, Poolkeeper  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(prog="benches/compare/run", description="Poolkeeper and PgBouncer side by side.")
    parser.add_argument("--quick", action="store_true", help="the four main cells, 3 pairs of 3 s (3 minutes in all)")
    parser.add_argument("--pairs", type=int, help="interleaved pairs per cell (default 7, quick 3)")
    parser.add_argument("--seconds", type=int, help="measured seconds of one run (default 4, quick 3)")
    parser.add_argument("--only", default="", help="some cells: simple-16, prepared-256, simple-16-unix, …, memory, calls, reload (comma separated)")
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
        self.results = report.Results()
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

    def make(self, kind, size=20):
        folder = process.folder(kind.name.lower())
        return kind(self.postgres, folder, size)

    def wanted(self, name):
        only = [word.strip() for word in self.options.only.split(",") if word.strip()]
        return not only or name in only

    def pgbench_cells(self):
        chosen = [cell for cell in cells.CELLS if (cell.quick or not self.options.quick or self.options.only) and self.wanted(cell.key())]
        if not chosen:
            return
        ours, theirs = (self.make(kind) for kind in self.kinds)
        try:
            for cell in chosen:
                say(f"{cell.name()}: {self.options.pairs} interleaved pairs")
                pairs = []
                for index in range(self.options.pairs):
                    sides = [(ours, cell.ours), (theirs, cell.theirs)]
                    if index % 2:  # every other pair the other way round: drift favours neither
                        sides.reverse()
                    runs = {id(side): cells.measure(self.postgres, side, cell, where, self.options.seconds) for side, where in sides}
                    pairs.append((runs[id(ours)], runs[id(theirs)]))
                self.results.pgbench[cell] = pairs
                cpu = Series([a.cpu for a, _ in pairs], [b.cpu for _, b in pairs])
                low, high = cpu.spread()
                note(f"CPU per transaction {cpu.ratio():.2f} x PgBouncer's ({low:.2f} to {high:.2f})")
        finally:
            ours.stop()
            theirs.stop()

    def memory(self):
        say("memory: a fresh pooler, 1000 idle clients")
        rounds = 1 if self.options.quick else 3
        for kind in dict.fromkeys(self.kinds):
            self.results.memory[kind.name] = [cells.idle_memory(lambda kind=kind: self.make(kind)) for _ in range(rounds)]
            start, idle, queried = self.results.memory[kind.name][0]
            note(f"{kind.name}: {start / 1024:.1f} MB, {idle:.0f} bytes per idle client, {queried:.0f} after a query")

    def calls(self):
        say("system calls per transaction (strace)")
        for mode, clients in (("simple", 16), ("extended", 64)) if self.options.quick else report.CALL_CELLS:
            for kind in dict.fromkeys(self.kinds):
                pooler = self.make(kind)
                try:
                    calls = cells.system_calls(self.postgres, pooler, mode, clients)
                finally:
                    pooler.stop()
                self.results.calls[(mode, clients, kind.name)] = calls
                note(f"{kind.name}, {mode}, {clients} clients: " + report.calls_text(calls))

    def reload(self):
        say("reload under saturation: pool 5 → 20 → 5, seen from PostgreSQL")
        self.results.reload[("PostgreSQL itself, no pooler", "nothing else runs")] = cells.floor(self.postgres)
        for load, statement in cells.RELOADS.items():
            for kind in dict.fromkeys(self.kinds):
                pooler = self.make(kind)
                try:
                    effects = cells.reloads(self.postgres, pooler, statement, times=5 if self.options.quick else 15)
                finally:
                    pooler.stop()
                self.results.reload[(kind.name, load)] = effects
                texts = [report.times_text([effect.saved for effect in effects]) for effects in effects]
                note(f"{kind.name}, {load}, from the rename: grow {texts[0]}; shrink {texts[1]}")

    def run(self):
        self.pgbench_cells()
        for name in ("memory", "calls", "reload"):
            if self.wanted(name):
                getattr(self, name)()

    def facts(self):
        return report.Facts(
            versions=[kind.version() for kind in dict.fromkeys(self.kinds)] + [f"PostgreSQL {self.postgres.version()}"],
            names=[kind.name for kind in self.kinds],
            settings={kind.name: kind.settings for kind in dict.fromkeys(self.kinds)},
            postgres=self.postgres.settings,
            load_before=self.load_before,
            seconds=time.time() - self.started,
            pairs=self.options.pairs,
            each=self.options.seconds,
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
        text = report.render(bench.results, bench.facts())
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
