"""Suites of Go modules, by `go test -json`."""

import json
import re

from . import base


class Go(base.Suite):
    """A module's tests, its packages one after the other: they share one database."""

    arguments = []

    def environment(self, place):
        raise NotImplementedError

    def run(self, place, log):
        argv = ["go", "test", "-json", "-count=1", "-p=1", "-vet=off", f"-timeout={self.limit}s", *self.arguments, "./..."]
        out = self.command(argv, log, {**self.environment(place), "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"})
        tests = {}
        for line in out.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("Test") and event.get("Action") in ("pass", "fail", "skip"):
                name = f"{event['Package'].split('/v5', 1)[-1].lstrip('/') or '.'}: {event['Test']}"
                tests[re.sub(r"(/tmp/\D+)\d+", r"\1…", name)] = event["Action"]
        return tests


class Pgx(Go):
    """jackc/pgx v5 with the set-up that its CONTRIBUTING asks for; the tests of TLS and of ways to log in are skipped by themselves."""

    name = "pgx"
    databases = ["pgx_test"]
    # TestRowsColumnTypeLength leaves five sessions behind, each with a temporary table.
    servers = 8

    def prepare(self, server):
        admin = server.admin(self.databases[0])
        admin.query("CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE DOMAIN uint64 AS numeric(20,0)")
        admin.query("""CREATE ROLE " tricky, ' } "" \\ test user " SUPERUSER PASSWORD 'secret'""")
        admin.close()

    def environment(self, place):
        return {
            "PGX_TEST_DATABASE": f"host={place.host} port={place.port} user={place.user} password={place.password} dbname={place.database} sslmode=disable"
        }


class Pq(Go):
    """lib/pq."""

    name = "pq"
    databases = ["pqgo"]
    user = "pqgo"
    startup = {"client_encoding": "UTF8", "datestyle": "ISO, MDY", "extra_float_digits": "2"}
    # How one logs in to PostgreSQL itself (its roles, its certificates) is not the pooler's.
    arguments = ["-skip=^(TestAuth|TestSSL.*)$"]

    def environment(self, place):
        return {**place.libpq(), "PGCONNECT_TIMEOUT": "70"}
