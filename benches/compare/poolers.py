"""The two poolers under one interface: started with the same pool, resized in their own way, asked for their version."""

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass

from lab import process
from lab.poolkeeper import Poolkeeper as Sidecar
from lab.poolkeeper import replace_file

DATABASE, USER, PASSWORD = "bench", "bench", "benchmark"
POOL = 20
MAX_CLIENTS = 12000


@dataclass(frozen=True)
class Setup:
    """What both are told. `tls`: offered to clients. `trust`: clients are believed. `wait`: until it serves.
    Of Poolkeeper alone: `workers`, further `databases` with a pool each, `pool` settings beyond the size. `buffer`: PgBouncer's pkt_buf."""

    size: int = POOL
    tls: bool = False
    trust: bool = False
    wait: bool = True
    workers: int = 1
    databases: tuple = ()
    pool: tuple = ()
    acquire: str = "30s"
    buffer: int = 4096


def certificate(folder):
    """A self-signed one for the poolers' clients: (certificate, key), PEM."""
    files = f"{folder}/tls.crt", f"{folder}/tls.key"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run([*request, "-subj", "/CN=localhost", "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return tuple(open(name).read() for name in files)


class Pooler:
    """`pid`, `port` (TCP on 127.0.0.1), `socket` (folder of the unix socket), `socket_port` (the number in its name), `name`."""

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
    settings = "one worker, Transaction, size 20, maxOverflow 0, prePing on, sessionState Preserve, preparedStatements 200, SCRAM, no TLS"

    def __init__(self, postgres, folder, setup=Setup()):
        listen = {"maxClients": MAX_CLIENTS, "auth": "Trust" if setup.trust else "ScramSha256"}
        files = None
        if setup.tls:
            listen["tls"] = {"secretName": DATABASE}
            files = dict(zip(("tls.crt", "tls.key"), certificate(folder)))
        spec = {
            "pool": {"mode": "Transaction", "size": setup.size, "maxOverflow": 0, "preparedStatements": 200, **dict(setup.pool)},
            "timeouts": {"statement": "0s", "acquire": setup.acquire},
            "listen": listen,
        }
        self.sidecar = Sidecar(
            self.binary, folder, postgres, DATABASE, USER, PASSWORD, spec, setup.workers, setup.databases, certificate=files, ready=setup.wait
        )
        self.process = self.sidecar.process
        self.pid, self.port, self.socket, self.socket_port = self.sidecar.pid, self.sidecar.port, folder, 6432

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
        "pool_mode transaction, default_pool_size 20, max_prepared_statements 200, pkt_buf 4096 (its default) but where 64k is said, "
        "auth_type scram-sha-256, no TLS"
    )

    def __init__(self, postgres, folder, setup=Setup()):
        self.postgres, self.folder, self.setup = postgres, folder, setup
        self.port, self.socket = process.free_port(), folder
        self.socket_port = self.port
        self.config = f"{folder}/pgbouncer.ini"
        # Where the service user may read it: a cache below /root is closed to it.
        program = f"{folder}/pgbouncer"
        shutil.copytree(os.environ["PGBOUNCER"], program)
        replace_file(f"{folder}/userlist.txt", f'"{USER}" "{PASSWORD}"\n')
        if setup.tls:
            certificate(folder)
            os.chmod(f"{folder}/tls.key", 0o644)
        self._save(setup.size)
        self.process = process.Process(
            "PgBouncer", [f"{program}/run", self.config], f"{folder}/pgbouncer.log", process.service_user(), death="INT"
        )
        self.pid = self.process.pid
        if setup.wait:
            process.wait_for(lambda: os.path.exists(f"{folder}/.s.PGSQL.{self.port}"), "PgBouncer's socket", process=self.process)

    def _save(self, size):
        tls = f"client_tls_sslmode = allow\nclient_tls_cert_file = {self.folder}/tls.crt\nclient_tls_key_file = {self.folder}/tls.key\n"
        text = f"""[databases]
{DATABASE} = host=127.0.0.1 port={self.postgres.port} dbname={DATABASE} user={USER} password={PASSWORD}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir = {self.folder}
auth_type = {"trust" if self.setup.trust else "scram-sha-256"}
auth_file = {self.folder}/userlist.txt
pool_mode = transaction
default_pool_size = {size}
max_client_conn = {MAX_CLIENTS}
max_prepared_statements = 200
pkt_buf = {self.setup.buffer}
query_wait_timeout = {self.setup.acquire.removesuffix("s")}
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
{tls if self.setup.tls else ""}"""
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


class Nothing(Pooler):
    """PostgreSQL itself: what the hop is held against."""

    name = "no pooler"

    def __init__(self, postgres, _folder=None, _setup=None):
        self.pid, self.port, self.socket, self.socket_port = postgres.process.pid, postgres.port, postgres.folder, postgres.port

    def stop(self):
        pass
