"""The two poolers under one interface: started with the same pool, resized in their own way, asked for their version."""

import os
import shutil
import signal
import subprocess

from lab import process
from lab.poolkeeper import Poolkeeper as Sidecar
from lab.poolkeeper import replace_file

DATABASE, USER, PASSWORD = "bench", "bench", "benchmark"
POOL = 20
MAX_CLIENTS = 4000


class Pooler:
    """`pid`, `port` (TCP on 127.0.0.1), `socket` (folder of the unix socket with the same port), `name`."""

    def resize(self, size):
        """Sets the pool's size by the pooler's own configuration file; the time just before it was saved."""
        raise NotImplementedError

    def applied(self):
        """When the configuration in force was applied (seconds since 1970), where the pooler says so."""
        return None

    def stop(self):
        raise NotImplementedError


class Poolkeeper(Pooler):
    name = "Poolkeeper"
    binary = None  # set by main
    settings = "one worker, Transaction, size 20, maxOverflow 0, prePing on, preparedStatements 200, SCRAM, no TLS"

    def __init__(self, postgres, folder, size=POOL):
        spec = {
            "pool": {"mode": "Transaction", "size": size, "maxOverflow": 0, "preparedStatements": 200},
            "timeouts": {"statement": "0s"},
        }
        # The socket's name carries the policy's port, as PgBouncer's does.
        self.sidecar = Sidecar(self.binary, folder, postgres, DATABASE, USER, PASSWORD, spec)
        self.pid, self.port, self.socket = self.sidecar.pid, self.sidecar.port, folder
        self.raise_limits()

    def raise_limits(self):
        listen = {**self.sidecar.spec["listen"], "maxClients": MAX_CLIENTS}
        self.sidecar.change(listen=listen)

    def resize(self, size):
        return self.sidecar.change(pool={"size": size})

    def applied(self):
        return self.sidecar.status()["pools"][0]["applied_seconds"]

    def stop(self):
        self.sidecar.stop()

    @classmethod
    def version(cls):
        return subprocess.run([cls.binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()


class PgBouncer(Pooler):
    name = "PgBouncer"
    settings = (
        "pool_mode transaction, default_pool_size 20, max_prepared_statements 200, pkt_buf 4096 (default), auth_type scram-sha-256, no TLS"
    )

    def __init__(self, postgres, folder, size=POOL):
        self.postgres, self.folder = postgres, folder
        self.port, self.socket = process.free_port(), folder
        self.config = f"{folder}/pgbouncer.ini"
        # Where the service user may read it: a cache below /root is closed to it.
        program = f"{folder}/pgbouncer"
        shutil.copytree(os.environ["PGBOUNCER"], program)
        replace_file(f"{folder}/userlist.txt", f'"{USER}" "{PASSWORD}"\n')
        self._save(size)
        self.process = process.Process(
            "PgBouncer", [f"{program}/run", self.config], f"{folder}/pgbouncer.log", process.service_user(), death="INT"
        )
        self.pid = self.process.pid
        process.wait_for(lambda: os.path.exists(f"{folder}/.s.PGSQL.{self.port}"), "PgBouncer's socket", process=self.process)

    def _save(self, size):
        text = f"""[databases]
{DATABASE} = host=127.0.0.1 port={self.postgres.port} dbname={DATABASE} user={USER} password={PASSWORD}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir = {self.folder}
auth_type = scram-sha-256
auth_file = {self.folder}/userlist.txt
pool_mode = transaction
default_pool_size = {size}
max_client_conn = {MAX_CLIENTS}
max_prepared_statements = 200
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
"""
        return replace_file(self.config, text)

    def resize(self, size):
        saved = self._save(size)
        self.process.popen.send_signal(signal.SIGHUP)
        return saved

    def stop(self):
        self.process.stop()

    @classmethod
    def version(cls):
        run = [os.environ["PGBOUNCER"] + "/run", "--version"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()[0]
