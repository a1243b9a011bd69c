"""A throw-away PostgreSQL: its own data folder, port and socket; nothing of the system's is touched."""

import os
import subprocess

from . import process, wire

# Stated in the benchmark's report. Nothing here outlives a run, so nothing waits for a disk.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "jit": "off",
    "password_encryption": "scram-sha-256",
}


def bin_folder():
    """As scripts/lib.sh's postgres_bin."""
    script = '. scripts/lib.sh; postgres_bin'
    out = subprocess.run(["bash", "-c", script], cwd=root(), capture_output=True, text=True, check=False).stdout.strip()
    if not out:
        raise RuntimeError("no PostgreSQL found; `scripts/setup postgres` installs it")
    return out


def root():
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Postgres:
    """Started by the constructor, ended by stop(). The superuser `postgres` comes in by the unix socket without a password,
    everybody else by SCRAM."""

    def __init__(self, folder, **settings):
        self.folder = folder
        self.bin = bin_folder()
        self.port = process.free_port()
        self.data = os.path.join(folder, "data")
        user = process.service_user()
        run = process.command(
            [f"{self.bin}/initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"], user
        )
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        with open(f"{self.data}/pg_hba.conf", "w") as hba:
            hba.write("local all postgres trust\nlocal all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n")
        # None: PostgreSQL's own default, which can be changed while it runs.
        self.settings = {name: value for name, value in {**SETTINGS, **settings}.items() if value is not None}
        options = {
            **self.settings,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": folder,
        }
        argv = [f"{self.bin}/postgres", "-D", self.data]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        # INT is PostgreSQL's fast shutdown: clients are disconnected.
        self.process = process.Process("PostgreSQL", argv, f"{folder}/postgres.log", user, death="INT")
        process.wait_for(self._answers, "PostgreSQL", process=self.process)

    def _answers(self):
        try:
            self.admin().close()
            return True
        except (OSError, wire.ServerError):
            return False

    def admin(self, database="postgres"):
        """A superuser's connection over the unix socket."""
        return wire.Connection(self.folder, self.port, "postgres", database, application_name="lab")

    def version(self):
        with_admin = self.admin()
        try:
            return with_admin.query("SHOW server_version")[0][0].split()[0]
        finally:
            with_admin.close()

    def program(self, name):
        return f"{self.bin}/{name}"

    def stop(self):
        self.process.stop()
