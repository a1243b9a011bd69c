"""What a suite has to say of itself."""

import contextlib
import fcntl
import os
import signal
import subprocess

from lab import process

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Suite:
    """One suite of tests, as somebody else wrote it."""

    name = ""
    # The databases that its clients ask for; the background clients share the first one's servers.
    databases = ["driver"]
    user = "driver"
    # What the suite's role may do, in words of CREATE ROLE.
    role = "SUPERUSER"
    # Settings of PostgreSQL that it asks for.
    settings = {}
    # What its driver sends at start-up: servers are shared among clients that agree on that, so the background clients send the same.
    startup = {}
    # Servers of the pool in Transaction mode. A suite that holds more sessions with temporary tables (or the like) open at once needs more:
    # each of them keeps its server, whoever pools.
    servers = 4
    # Longest time for all of it, in seconds.
    limit = 1800

    def install(self):
        """Fetches and builds what it needs, kept outside the tree; leaves `self.folder`, `self.title` and `self.tools` (a folder of programs, or nothing)."""
        out = subprocess.run([f"{HERE}/install", self.name], stdout=subprocess.PIPE, text=True, check=True).stdout.split("\n")
        self.folder, self.title, self.tools = out[:3]

    @contextlib.contextmanager
    def alone(self):
        """Two runs at once of one suite would meet in its folder."""
        with open(f"{os.environ['POOLKEEPER_CACHE']}/drivers/{os.path.basename(self.folder)}.run.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def prepare(self, server):
        """Fills the fresh databases (as a superuser, before anybody else connects)."""

    def run(self, place, log):
        """Runs against `place`, writes everything it says to `log`; the outcome of each test by name: pass, fail or skip."""
        raise NotImplementedError

    def command(self, argv, log, env=None, cwd=None):
        """Runs a program of the suite with its output in `log`, ended with all its children after `limit`; all it said."""
        full = {**os.environ, "PATH": f"{self.tools}:{os.environ['PATH']}" if self.tools else os.environ["PATH"], **(env or {})}
        for name in ("http_proxy", "HTTP_PROXY"):
            full.pop(name, None)
        child = subprocess.Popen(
            process.command(argv), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=full, cwd=cwd or self.folder, start_new_session=True
        )
        try:
            child.wait(self.limit)
        except subprocess.TimeoutExpired:
            log.write(f"\nended after {self.limit} s\n")
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        with open(log.name, errors="replace") as text:
            return text.read()
