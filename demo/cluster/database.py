"""A PostgreSQL that is outside of the cluster: it listens at the node's own address, and ends with the node."""

import os
import shutil
import subprocess
import tempfile
import threading

from lab import postgres, process, wire

PASSWORD = "a-demo-password"
TABLES = (
    "CREATE TABLE IF NOT EXISTS ledger (account text PRIMARY KEY, n bigint NOT NULL); "
    "CREATE TABLE IF NOT EXISTS runs (name text, done bigint, failed bigint, report text); GRANT ALL ON ledger, runs TO orders"
)


class Database:
    """The one from the last time, if it runs still. `node` is the node's folder."""

    def __init__(self, node):
        link = f"{node}/database"
        self.folder = os.readlink(link) if os.path.islink(link) else None
        if not self.folder or not self._answers("postgres"):
            self.folder = tempfile.mkdtemp(prefix="poolkeeper-demo-")
            if os.path.islink(link):
                os.remove(link)
            os.symlink(self.folder, link)
            self._start(node)
        self.admin, self.lock = wire.Connection(self.folder, 5432, "postgres", "orders"), threading.Lock()
        self._ask(TABLES)

    def _start(self, node):
        os.chmod(self.folder, 0o755)
        user = process.service_user()
        shutil.chown(self.folder, user, user)
        program, data = postgres.bin_folder(), f"{self.folder}/data"
        as_user = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--"]
        make = [*as_user, f"{program}/initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=self.folder)
        with open(f"{data}/pg_hba.conf", "w") as hba:
            hba.write("local all postgres trust\nhost all all all scram-sha-256\n")
        options = {**postgres.SETTINGS, "listen_addresses": "198.18.0.1", "port": "5432", "unix_socket_directories": self.folder}
        with open(f"{node}/inside") as text:
            inside = text.read().split()[0]
        # Among the node's processes, so that it ends with them.
        argv = ["nsenter", "--pid", "--target", inside, "--", *as_user, f"{program}/postgres", "-D", data]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        with open(f"{self.folder}/log", "ab") as log:
            subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)
        process.wait_for(lambda: self._answers("postgres"), f"PostgreSQL (its log: {self.folder}/log)")
        with_admin = wire.Connection(self.folder, 5432, "postgres", "postgres")
        with_admin.query(f"CREATE ROLE orders LOGIN PASSWORD '{PASSWORD}'")
        with_admin.query("CREATE DATABASE orders OWNER orders")
        with_admin.close()

    def _answers(self, database):
        try:
            wire.Connection(self.folder, 5432, "postgres", database).close()
            return True
        except (OSError, wire.ServerError):
            return False

    def _ask(self, sql):
        # The table asks, and the changes.
        with self.lock:
            rows = self.admin.query(sql)
        return rows[0][0] if rows else None

    def version(self):
        return self._ask("SHOW server_version").split()[0]

    def servers(self):
        """Connections of the app's role, as PostgreSQL counts them."""
        return int(self._ask("SELECT count(*) FROM pg_stat_activity WHERE usename = 'orders'"))

    def now(self):
        return float(self._ask("SELECT extract(epoch FROM clock_timestamp())"))

    def oldest(self):
        """When the oldest of them began."""
        return float(self._ask("SELECT coalesce(min(extract(epoch FROM backend_start)), 0) FROM pg_stat_activity WHERE usename = 'orders'"))
