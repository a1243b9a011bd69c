"""One suite in one column: a fresh PostgreSQL, Poolkeeper before it or not, forty background clients, and what was counted meanwhile."""

import json
import os
import subprocess
import sys
import threading
import time

import background
from lab import poolkeeper, postgres, process, wire

PASSWORD = "driver-secret"
COLUMNS = ("direct", "session", "transaction")
# Session mode needs a server for every connection that a suite holds open at once; Transaction mode must do with few (suite.servers).
SESSION_SERVERS = 70


class Place:
    """Where a suite's clients connect."""

    host = "127.0.0.1"

    def __init__(self, port, suite):
        self.port = port
        self.user = suite.user
        self.password = PASSWORD
        self.database = suite.databases[0]

    def libpq(self):
        """libpq's environment."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.database,
            "PGSSLMODE": "disable",
        }


class Run:
    """What came out of one suite in one column."""

    def __init__(self, tests, seconds, figures):
        self.tests = tests
        self.seconds = seconds
        self.figures = figures


def run(suite, column, binary, logs):
    """Runs it; the suite's output is kept in `logs`."""
    folder = process.folder(f"driver-{suite.name}")
    server = postgres.Postgres(folder, max_connections="200", **suite.settings)
    try:
        _roles(server, suite)
        suite.prepare(server)
        expected = _fill(server, suite)
        if column == "direct":
            return _measure(suite, Place(server.port, suite), column, expected, None, logs)
        pooler = _pooler(suite, column, binary, server)
        try:
            return _measure(suite, Place(pooler.port, suite), column, expected, pooler, logs)
        finally:
            pooler.stop()
            os.replace(f"{pooler.folder}/poolkeeper.log", f"{logs}/{suite.name}-{column}.poolkeeper.log")
    finally:
        server.stop()
        os.replace(f"{folder}/postgres.log", f"{logs}/{suite.name}-{column}.postgres.log")


def _roles(server, suite):
    admin = server.admin()
    admin.query(f"CREATE ROLE {suite.user} LOGIN {suite.role} PASSWORD '{PASSWORD}'")
    for database in suite.databases:
        if database != "postgres":
            admin.query(f"CREATE DATABASE {database} OWNER {suite.user}")
    admin.close()


def _fill(server, suite):
    """The background clients' table, and what each of them should find in its session."""
    admin = server.admin(suite.databases[0])
    admin.query(background.TABLES)
    admin.query(f"GRANT USAGE ON SCHEMA background TO {suite.user}; GRANT ALL ON background.account TO {suite.user}")
    admin.close()
    startup = {"application_name": background.APPLICATION, **suite.startup}
    client = wire.Connection("127.0.0.1", server.port, suite.user, suite.databases[0], PASSWORD, **startup)
    try:
        return client.query(background.LOOK)[0]
    finally:
        client.close()


def _servers(suite, column):
    return SESSION_SERVERS if column == "session" else suite.servers


def _pooler(suite, column, binary, server):
    spec = {
        # As many may be bound as there are: the table says how many were.
        "pool": {"mode": column.capitalize(), "size": _servers(suite, column), "maxOverflow": 0, "maxPinned": "100%"},
        "timeouts": {"acquire": "60s", "statement": "0s"},
    }
    folder = process.folder(f"driver-{suite.name}-{column}")
    return poolkeeper.Poolkeeper(binary, folder, server, suite.databases[0], suite.user, PASSWORD, spec, also=suite.databases[1:])


def _measure(suite, place, column, expected, pooler, logs):
    plan = {
        "host": place.host,
        "port": place.port,
        "user": place.user,
        "password": place.password,
        "database": place.database,
        "startup": suite.startup,
        "expected": expected,
        # In Session mode a client that stays keeps a server, so each transaction is a visit of its own, and dear.
        "relogin": column == "session",
        "pause": 1.0 if column == "session" else 0.2,
    }
    others = subprocess.Popen(
        process.command([sys.executable, background.__file__, json.dumps(plan)]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    sampler = Sampler(pooler) if pooler else None
    began = time.monotonic()
    try:
        with suite.alone(), open(f"{logs}/{suite.name}-{column}.log", "w") as log:
            tests = suite.run(place, log)
        seconds = time.monotonic() - began
    finally:
        said, _ = others.communicate()
        seen = sampler.stop() if sampler else {}
    figures = {"background": json.loads(said)}
    if sampler:
        others = figures["background"]
        figures.update(seen, servers=_servers(suite, column), own_transactions=seen["transactions"] - others["transactions"])
        # In Session mode a background client's visit is one checkout, else each of its transactions.
        figures["own_checkouts"] = seen["checkouts"] - others["logins" if column == "session" else "transactions"]
    return Run(tests, seconds, figures)


class Sampler:
    """Looks at /status ten times a second."""

    def __init__(self, pooler):
        self.pooler = pooler
        self.held = self.pinned = self.looks = self.quiet = 0
        self.background_pinned = set()
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.end.wait(0.1):
            try:
                self._look(self.pooler.status())
            except OSError:
                continue  # the machine is busy; the next look will do

    def _look(self, status):
        self.looks += 1
        self.quiet += all(pool.get("catalog", {}).get("quiet") for pool in status["pools"])
        held = pinned = 0
        for client in status["clients"]:
            if client["application"] == background.APPLICATION:
                if client["pinned"]:
                    self.background_pinned.add(client["pinned"])
                continue
            held += client["activity"] in ("active", "holding")
            pinned += client["pinned"] is not None
        # The clients are looked at one after the other, so that a server may be seen with two of them.
        held = min(held, sum(pool["connections"]["in_use"] for pool in status["pools"]))
        self.held, self.pinned = max(self.held, held), max(self.pinned, pinned)

    def stop(self):
        """Everything counted since the start, over all databases."""
        self.end.set()
        self.thread.join()
        status = self.pooler.status()
        pools = status["pools"]
        total = {"commit": status["commit"], "pins": {}, "closed": {}}
        for pool in pools:
            traffic, connections = pool["traffic"], pool["connections"]
            for name, count in (("transactions", traffic["transactions"]), ("checkouts", connections["granted"]), ("opened", connections["opened"]),
                                ("timeouts", connections["timeouts"]), ("own_errors", traffic["own_errors"])):
                total[name] = total.get(name, 0) + count
            for name, counts in (("pins", traffic["pins"]), ("closed", connections["closed"])):
                for reason, count in counts.items():
                    if count:
                        total[name][reason] = total[name].get(reason, 0) + count
        total["quiet_percent"] = round(100 * self.quiet / max(self.looks, 1))
        return {**total, "most_held": self.held, "most_pinned": self.pinned, "background_pinned": sorted(self.background_pinned)}
