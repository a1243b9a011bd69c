"""Django's own tests of what touches the database."""

import json

from . import base

TESTS = (
    "backends transactions transaction_hooks queries postgres_tests select_for_update bulk_create introspection inspectdb schema constraints"
    " timezones raw_query db_functions multiple_database migrations aggregation expressions expressions_window get_or_create lookup"
    " delete update prefetch_related async fixtures sessions_tests cache test_utils db_utils datatypes ordering"
).split()


class Django(base.Suite):
    """With psycopg 3, the test databases made beforehand."""

    name = "django"
    databases = ["test_django", "test_other", "postgres"]
    startup = {"client_encoding": "UTF8"}

    def prepare(self, server):
        for database in ("test_django", "test_other"):
            admin = server.admin(database)
            for extension in ("btree_gin", "btree_gist", "citext", "hstore", "pg_trgm", "unaccent"):
                admin.query(f"CREATE EXTENSION IF NOT EXISTS {extension}")
            admin.close()

    def run(self, place, log):
        path = f"{log.name}.outcomes"
        open(path, "w").close()
        argv = [f"{self.folder}/env/bin/python", "-s", "-W", "ignore", "runtests.py", "--settings=django_settings", "--keepdb", "--noinput", "--parallel=1", *TESTS]
        env = {**place.libpq(), "OUTCOMES": path, "PYTHONPATH": base.HERE, "PYTHONDONTWRITEBYTECODE": "1"}
        env.pop("PGDATABASE")
        self.command(argv, log, env, f"{self.folder}/django/tests")
        tests = {}
        with open(path) as lines:
            for line in lines:
                name, outcome = json.loads(line)
                if tests.get(name) != "fail":
                    tests[name] = outcome
        return tests
