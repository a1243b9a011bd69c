"""SQLAlchemy's own tests, with three drivers."""

import os
import xml.etree.ElementTree as ElementTree

from . import base

TESTS = ["test/dialect/postgresql", "test/dialect/test_suite.py"]


class Sqlalchemy(base.Suite):
    """The dialect suite and the PostgreSQL tests of SQLAlchemy's source archive."""

    databases = ["test"]
    user = "scott"
    # For its two-phase transactions.
    settings = {"max_prepared_transactions": "10", "default_text_search_config": "pg_catalog.english"}
    dialect = ""

    def prepare(self, server):
        admin = server.admin("test")
        admin.query("CREATE EXTENSION hstore; CREATE EXTENSION citext")
        admin.query(f"CREATE SCHEMA test_schema AUTHORIZATION {self.user}; CREATE SCHEMA test_schema_2 AUTHORIZATION {self.user}")
        admin.close()

    def run(self, place, log):
        report = f"{log.name}.xml"
        if os.path.exists(report):
            os.remove(report)
        url = f"postgresql+{self.dialect}://{place.user}:{place.password}@{place.host}:{place.port}/{place.database}"
        argv = [f"{self.folder}/env/bin/python", "-s", "-m", "pytest", "-p", "no:cacheprovider", "-q", "--maxfail=100000", f"--junitxml={report}",
                "--dburi", url, *TESTS]
        self.command(argv, log, {"PYTHONDONTWRITEBYTECODE": "1"}, f"{self.folder}/sqlalchemy")
        return outcomes(report)


def outcomes(report):
    """The outcome of each test in a JUnit report."""
    tests = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        kinds = {child.tag for child in case}
        tests[name] = "fail" if kinds & {"failure", "error"} else "skip" if "skipped" in kinds else "pass"
    return tests


class Psycopg2(Sqlalchemy):
    name = "sqlalchemy-psycopg2"
    dialect = "psycopg2"


class Psycopg(Sqlalchemy):
    name = "sqlalchemy-psycopg"
    dialect = "psycopg"
    startup = {"client_encoding": "UTF8"}


class Asyncpg(Sqlalchemy):
    name = "sqlalchemy-asyncpg"
    dialect = "asyncpg"
    startup = {"client_encoding": "utf-8"}
