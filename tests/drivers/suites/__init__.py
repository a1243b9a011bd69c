"""The suites: each module has classes of its own, see base.Suite."""

from . import django, golang, pgbench, pgjdbc, rust, sqlalchemy

_ALL = (
    pgbench.Pgbench,
    rust.TokioPostgres,
    rust.Sqlx,
    golang.Pgx,
    golang.Pq,
    sqlalchemy.Psycopg2,
    sqlalchemy.Psycopg,
    sqlalchemy.Asyncpg,
    django.Django,
    pgjdbc.Pgjdbc,
    pgjdbc.PgjdbcCore,
)
SUITES = {suite.name: suite for suite in _ALL}
