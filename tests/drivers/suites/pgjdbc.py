"""pgjdbc's own tests, which its source archive on Maven Central carries."""

import glob
import shutil

from . import base
from .sqlalchemy import outcomes

# The packages whose tests talk to a database, but for those that ask for a server with TLS, GSS or a replica.
PACKAGES = [f"**/test/{name}/*Test" for name in ("core", "extensions", "jdbc2", "jdbc2/optional", "jdbc3", "jdbc4", "jdbc4/jdbc41", "jdbc42", "xa")] + ["**/postgresql/jdbc/*Test"]
# Tests of logging in to PostgreSQL by its methods, as roles of their own.
PACKAGES += ["!**/RequireAuthTest", "!**/ScramTest", "!**/DatabaseMetaDataHideUnprivilegedObjectsTest"]
# It sends COPY data until the backend whose process id the driver was given has ended: through a pooler, for ever.
ENDLESS = "!CopyTest#lockReleaseOnCancelFailure"
PACKAGES.append(ENDLESS)


class Pgjdbc(base.Suite):
    """All that talk to a database."""

    name = "pgjdbc"
    databases = ["test"]
    # XADataSourceTest leaves more than four transactions open at once.
    servers = 8
    user = "test"
    settings = {"max_prepared_transactions": "64", "wal_level": "logical", "max_wal_senders": "10"}
    startup = {"client_encoding": "UTF8", "DateStyle": "ISO", "TimeZone": "Etc/UTC", "extra_float_digits": "2"}

    def prepare(self, server):
        admin = server.admin("test")
        for extension in ("hstore", "citext", "sslinfo"):
            admin.query(f"CREATE EXTENSION IF NOT EXISTS {extension}")
        admin.close()

    def run(self, place, log):
        reports = f"{self.folder}/target/surefire-reports"
        shutil.rmtree(reports, ignore_errors=True)
        properties = {
            "test.url.PGHOST": place.host,
            "test.url.PGPORT": place.port,
            "test.url.PGDBNAME": place.database,
            "user": place.user,
            "password": place.password,
            "privilegedUser": place.user,
            "privilegedPassword": place.password,
            "user.timezone": "Etc/UTC",
            "test": ",".join(self.classes()),
        }
        argv = ["mvn", "-o", "-B", "-Dmaven.test.failure.ignore=true", *(f"-D{name}={value}" for name, value in properties.items()), "surefire:test"]
        self.command(argv, log)
        tests = {}
        for report in glob.glob(f"{reports}/TEST-*.xml"):
            for name, outcome in outcomes(report).items():
                if tests.get(name) != "fail":
                    tests[name] = outcome
        return tests

    def classes(self):
        return PACKAGES


class PgjdbcCore(Pgjdbc):
    """The part that `make test` runs: what a pooler is most likely to break."""

    name = "pgjdbc-core"

    def classes(self):
        names = (
            "BatchExecuteTest ServerPreparedStmtTest ServerCursorTest CursorFetchTest CopyTest CopyLargeFileTest NotifyTest GeneratedKeysTest"
            " PreparedStatementTest SearchPathLookupTest SchemaTest"
        )
        return [*names.split(), ENDLESS]
