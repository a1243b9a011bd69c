"""A pool that is changed while it serves. Started by demo/local/run, which installs and builds what is missing."""

import argparse
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../../scripts")]

import steps  # noqa: E402
from lab import poolkeeper, postgres, process  # noqa: E402
from load import DATABASE, USER, Load, Newcomers, books, fill  # noqa: E402
from view import View  # noqa: E402

PASSWORD = "the first password"
CLIENTS = 64


def say(text):
    print(f"==> {text}")


class Stage:
    """PostgreSQL, the sidecar and the load, and what the steps ask of them."""

    def __init__(self, binary, pace):
        self.pace = pace
        self.folder = process.folder("demo")
        say("starting a throw-away PostgreSQL and filling pgbench's tables")
        self.postgres = postgres.Postgres(self.folder)
        fill(self.postgres, PASSWORD)
        self.admin = self.postgres.admin()
        self.eye = self.postgres.admin()  # the table's own look at the servers
        say("starting Poolkeeper with this policy")
        home = process.folder("sidecar")
        # Fast answers to the health query are for free while there is load; statement: 0s lets the demo's pace be what it is.
        spec = {"preset": "Production", "pool": {"mode": "Transaction"}, "timeouts": {"acquire": "30s"}}
        self.sidecar = poolkeeper.Poolkeeper(binary, home, self.postgres, DATABASE, USER, PASSWORD, spec)
        print("".join(f"    {line}\n" for line in self.sidecar.text(self.sidecar.spec).splitlines()))
        say(f"starting the load: pgbench with {CLIENTS} clients that check every answer, and newcomers that log in all the time")
        self.load = Load(self.postgres, self.sidecar, PASSWORD, CLIENTS, self.folder)
        self.newcomers = Newcomers(self.sidecar.port, PASSWORD)
        self.view = View(self.sample)

    def sample(self):
        numbers = steps.numbers(self.sidecar.status())
        servers = self.eye.query(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}'")
        return {**numbers, "at_server": int(servers[0][0]), "tps": self.load.tps, "latency": self.load.latency}

    def servers(self):
        """When each server connection began, by PostgreSQL's clock (this machine's), seconds since 1970."""
        sql = f"SELECT extract(epoch FROM backend_start) FROM pg_stat_activity WHERE usename = '{USER}'"
        return [float(began) for (began,) in self.admin.query(sql)]

    def watch(self, seconds):
        time.sleep(seconds * self.pace)
        if self.load.process.poll() is not None:
            raise RuntimeError("the load ended: " + " ".join(self.load.words[-3:]))


def summary(stage, effects):
    """Prints what happened; True if nothing failed."""
    stage.newcomers.stop()
    report = stage.load.stop()
    stage.view.stop()
    transfers, balanced = books(stage.postgres)
    failures = report.aborted + stage.newcomers.failures
    if report.failed:
        failures.append(f"pgbench counts {report.failed} failed transactions")
    if transfers != report.transfers:
        failures.append(f"{report.transfers} transfers were reported, {transfers} are in the books")
    if not balanced:
        failures.append("the books don't balance")
    print()
    say("summary")
    print(f"    {report.transactions} transactions, every answer checked; {report.failed + len(failures)} failed")
    print(f"    {transfers} transfers in the books, as many as were reported, once each; sums {'agree' if balanced else 'DIFFER'}")
    print(f"    {stage.newcomers.served} newcomers logged in, asked and left; {len(stage.newcomers.failures)} refused")
    print(f"\n    {'change':<44} {'from save to effect':>20}  seen as")
    for change, seconds, seen in effects:
        took = f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
        print(f"    {change:<44} {took:>20}  {seen}")
    for failure in failures[:10]:
        print(f"    FAILED: {failure}")
    return not failures


def main():
    parser = argparse.ArgumentParser(prog="demo/local/run", description="A pool that is changed while it serves.")
    parser.add_argument("--short", action="store_true", help="the same changes with less time to look at them (20 s)")
    parser.add_argument("--poolkeeper", required=True, help="the binary to show (default: builds it)")
    options = parser.parse_args()
    process.interrupted_as_exception()
    stage = None
    try:
        stage = Stage(os.path.abspath(options.poolkeeper), 0.25 if options.short else 1.0)
        effects = steps.play(stage)
        good = summary(stage, effects)
        status = stage.sidecar.stop()
        if status != 0:
            print(f"    FAILED: Poolkeeper ended with status {status}")
        print(f"\n    {'All of it held.' if good and status == 0 else 'Something failed: see above.'} Nothing is left running.")
        return 0 if good and status == 0 else 1
    except KeyboardInterrupt:
        print("\ninterrupted: cleaning up", file=sys.stderr)
        return 130
    except RuntimeError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    finally:
        if stage:
            stage.view.stop()
            stage.load.kill()
        process.end_all()


if __name__ == "__main__":
    sys.exit(main())
