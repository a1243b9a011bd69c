"""Suites of Rust crates, by cargo's test harness."""

import json
import re

from . import base


class Rust(base.Suite):
    """The tests that a crate carries, as binaries that `install` has built."""

    # Tests that are left out, by parts of their names.
    left_out = []

    def environment(self, place):
        raise NotImplementedError

    def run(self, place, log):
        with open(f"{self.folder}/binaries.json") as text:
            binaries = json.load(text)
        tests = {}
        for target, binary in sorted(binaries.items()):
            skipped = [word for name in self.left_out for word in ("--skip", name)]
            log.flush()
            before = log.tell()
            text = self.command([binary, "--test-threads=2", *skipped], log, self.environment(place))[before:]
            for name, outcome in re.findall(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)", text, re.MULTILINE):
                tests[f"{target}: {name}"] = {"ok": "pass", "FAILED": "fail", "ignored": "skip"}[outcome]
        return tests


class TokioPostgres(Rust):
    """tokio-postgres. Left out: logging in by PostgreSQL's other methods, and finding hosts."""

    name = "tokio-postgres"
    databases = ["postgres"]
    user = "driver"
    startup = {"client_encoding": "UTF8"}
    left_out = ["plain_password", "md5_password", "scram_password", "runtime::", "parse::"]

    def prepare(self, server):
        admin = server.admin("postgres")
        for extension in ("hstore", "citext", "ltree"):
            admin.query(f"CREATE EXTENSION {extension}")
        admin.close()

    def environment(self, place):
        return {
            "DRIVERS_ADDRESS": f"{place.host}:{place.port}",
            "DRIVERS_LOGIN": f"user={place.user} password={place.password} dbname={place.database}",
        }


class Sqlx(Rust):
    """sqlx. Left out are the tests that make databases of their own."""

    name = "sqlx"
    databases = ["sqlx"]
    startup = {"DateStyle": "ISO, MDY", "client_encoding": "UTF8", "TimeZone": "UTC", "extra_float_digits": "2"}

    def prepare(self, server):
        with open(f"{self.folder}/tests/postgres/setup.sql") as text:
            setup = text.read()
        admin = server.admin("sqlx")
        admin.query(setup)
        admin.close()

    def environment(self, place):
        return {"DATABASE_URL": f"postgres://{place.user}:{place.password}@{place.host}:{place.port}/{place.database}"}
