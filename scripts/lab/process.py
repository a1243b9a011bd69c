"""Starting programs so that none outlives us, and reading what the kernel knows of them."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time


def service_user():
    """Whom PostgreSQL and PgBouncer run as: they refuse root, so `postgres` then; None = ourselves."""
    return "postgres" if os.getuid() == 0 else None


def command(argv, user=None, death="TERM"):
    """`argv` as `user`, ended by the kernel when we die."""
    prefix = ["setpriv", "--pdeathsig", death]
    if user:
        prefix += ["--reuid", user, "--regid", str(pwd.getpwnam(user).pw_gid), "--init-groups"]
    return prefix + [str(word) for word in argv]


def folder(name):
    """A temporary folder that the service user owns; end_all() removes it."""
    path = tempfile.mkdtemp(prefix=f"poolkeeper-{name}-")
    _folders.append(path)
    os.chmod(path, 0o755)
    user = service_user()
    if user:
        shutil.chown(path, user, pwd.getpwnam(user).pw_gid)
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, what, seconds=30.0, process=None, pause=0.01):
    """Waits until `condition()` is true; gives up with a sentence, at once if `process` has ended."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if process is not None and process.gone():
            raise RuntimeError(f"{process.name} ended while waiting for {what}; its last words:\n{process.tail()}")
        if time.monotonic() > deadline:
            tail = f"; {process.name}'s last words:\n{process.tail()}" if process else ""
            raise RuntimeError(f"gave up after {seconds:g} s waiting for {what}{tail}")
        time.sleep(pause)


_started = []
_folders = []


def end_all():
    """Ends every Process still running, latest first, and removes every folder() made."""
    while _started:
        _started.pop().stop()
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)


class Process:
    """A program in the background with its output in a file; `death` is the signal that ends it in order. It has a session of
    its own: Ctrl-C reaches us, and we end it. `began`: when it was started (time.monotonic())."""

    def __init__(self, name, argv, log, user=None, death="TERM", env=None, pass_fds=()):
        self.name = name
        self.log = log
        self.began = time.monotonic()
        with open(log, "ab") as out:
            self.popen = subprocess.Popen(
                command(argv, user, death),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=env,
                pass_fds=pass_fds,
            )
        self.pid = self.popen.pid
        self.death = getattr(signal, f"SIG{death}")
        _started.append(self)

    def gone(self):
        return self.popen.poll() is not None

    def tail(self, lines=15):
        with open(self.log, errors="replace") as text:
            return "".join(text.readlines()[-lines:])

    def stop(self, seconds=10.0):
        """Asks it to end, then insists; the exit status."""
        if not self.gone():
            self.popen.send_signal(self.death)
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        return self.popen.wait()


def cpu_seconds(pid):
    """User and system time of all its threads, alive or ended, to the nanosecond (its CPU clock, clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def descriptors(pid):
    """How many files and sockets it has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def rss_kb(pid):
    """Resident memory, exact (smaps_rollup; /proc/PID/statm may lag by some pages per thread)."""
    with open(f"/proc/{pid}/smaps_rollup") as text:
        for line in text:
            if line.startswith("Rss:"):
                return int(line.split()[1])
    raise RuntimeError(f"no Rss of {pid}")


def interrupted_as_exception():
    """TERM and HUP end us as Ctrl-C does: through `finally`."""

    def stop(number, _frame):
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stop)
