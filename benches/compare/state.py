"""What it costs that no client meets another's session: `benches/compare/run --state` (make bench-state).

One PostgreSQL, five sidecars before it, the same load through each in turn, many more clients than servers, so that nearly every transaction
changes client. Trusting does least: the others are held against it in the same database, pair by pair."""

import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../../scripts")]

from cells import _PROGRESS, environment  # noqa: E402
from lab import postgres, process  # noqa: E402
from lab.poolkeeper import Poolkeeper as Sidecar  # noqa: E402
from poolers import DATABASE, PASSWORD, USER  # noqa: E402
from world import fill  # noqa: E402

NOISY = "noisy"
CLIENTS, SERVERS, SECONDS, ROUNDS = 32, 4, 3, int(os.environ.get("ROUNDS", "7"))

WRITE = """\\set aid random(1, 500000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :aid, 1, CURRENT_TIMESTAMP);
COMMIT;
"""
TENANT = """\\set aid random(1, 500000)
BEGIN;
SET LOCAL app.tenant_id = '17';
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
COMMIT;
"""
# Name, script (none: pgbench's own select), pgbench's protocol, whether a commit is waited for until the disk has it (PostgreSQL's default).
LOADS = [
    ("one SELECT", None, "simple", False),
    ("read-write transaction", WRITE, "simple", False),
    ("read-write transaction, extended", WRITE, "extended", False),
    ("read-write transaction, durable", WRITE, "simple", True),
    ("read-write transaction, extended, durable", WRITE, "extended", True),
    ("SET LOCAL of a tenant, one SELECT", TENANT, "simple", False),
]


class Side:
    """One sidecar: its name, its database, what it was told."""

    def __init__(self, server, binary, database, state):
        self.name = f"{state}, {'noisy' if database == NOISY else 'quiet'}"
        self.database = database
        spec = {
            "pool": {"mode": "Transaction", "size": SERVERS, "maxOverflow": 0, "sessionState": state},
            "timeouts": {"statement": "0s"},
        }
        folder = process.folder("state")
        self.sidecar = Sidecar(binary, folder, server, database, USER, PASSWORD, spec)

    def metric(self, name):
        lines = self.sidecar.get("/metrics")[0].splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def run(self, server, script, protocol, seconds):
        """Transactions a second, and scrubs and audits a transaction."""
        what = ["-S"] if script is None else ["-f", script]
        command = [server.program("pgbench"), "-n", *what, "-M", protocol, "-h", "127.0.0.1", "-p", str(self.sidecar.port)]
        command += ["-c", str(CLIENTS), "-T", str(seconds + 1), "-P", "1", "--progress-timestamp", self.database]
        names = ("poolkeeper_session_scrubs_total", "poolkeeper_session_audits_total", "poolkeeper_transactions_total")
        before = [self.metric(name) for name in names]
        ended = subprocess.run(command, capture_output=True, text=True, env=environment())
        if ended.returncode != 0:
            raise RuntimeError(f"pgbench through {self.name} failed: {ended.stderr}")
        seen = [float(found[2]) for found in map(_PROGRESS.match, ended.stderr.splitlines()) if found]
        scrubs, audits, transactions = (self.metric(name) - was for name, was in zip(names, before))
        return statistics.mean(seen[1:]), scrubs / max(1, transactions), audits / max(1, transactions)


def fill_both(server, folder):
    fill(server, folder, (DATABASE, NOISY))
    own = server.admin(NOISY)
    own.query("CREATE FUNCTION tenant(text) RETURNS text LANGUAGE sql AS $$SELECT set_config('app.tenant_id', $1, false)$$")
    own.close()


def commits_wait(server, durable):
    """Sessions that are open take it over, too."""
    own = server.admin("postgres")
    own.query(f"ALTER SYSTEM SET synchronous_commit = {'on' if durable else 'off'}")
    own.query("SELECT pg_reload_conf()")
    own.close()


def main():
    binary = os.path.abspath(sys.argv[sys.argv.index("--poolkeeper") + 1])
    process.interrupted_as_exception()
    try:
        folder = process.folder("state-pg")
        server = postgres.Postgres(folder, shared_buffers="256MB", autovacuum="off", fsync="on", synchronous_commit=None)
        fill_both(server, folder)
        sides = [
            Side(server, binary, DATABASE, "Trusting"),
            Side(server, binary, DATABASE, "Preserve"),
            Side(server, binary, DATABASE, "Strict"),
            Side(server, binary, NOISY, "Trusting"),
            Side(server, binary, NOISY, "Preserve"),
        ]
        print(
            f"{CLIENTS} clients, {SERVERS} servers, {ROUNDS} interleaved rounds of {SECONDS} s; throughput beside Trusting in the same database, "
            "median (least to most)\n"
        )
        print("| load | " + " | ".join(side.name for side in sides) + " |")
        print("|---|" + "---|" * len(sides), flush=True)
        for name, text, protocol, durable in LOADS:
            commits_wait(server, durable)
            script = None
            if text:
                script = f"{folder}/load.sql"
                with open(script, "w") as out:
                    out.write(text)
            for side in sides:  # the catalog is read, what is slow the first time is done
                side.run(server, script, protocol, 2)
            seen = {side.name: [] for side in sides}
            for turn in range(ROUNDS):
                for side in sides if turn % 2 == 0 else sides[::-1]:
                    seen[side.name].append(side.run(server, script, protocol, SECONDS))
            print(f"| {name} | " + " | ".join(cell(seen, side.name) for side in sides) + " |", flush=True)
    finally:
        process.end_all()


def cell(seen, name):
    runs = seen[name]
    base = f"Trusting, {name.split(', ')[1]}"
    if name == base:
        return f"{statistics.median(run[0] for run in runs):.0f} tps"
    scrubs, audits = (statistics.median(run[place] for run in runs) for place in (1, 2))
    extra = f"; {scrubs:.2f} scrubs, {audits:.2f} audits"
    ratios = sorted(run[0] / other[0] for run, other in zip(runs, seen[base]))
    return f"{statistics.median(ratios):.3f} ({ratios[0]:.2f}–{ratios[-1]:.2f}){extra}"


if __name__ == "__main__":
    main()
