"""The load of the demo: pgbench with scripts that check what they read, and newcomers that log in all the time.

What is checked: every value that comes back (a client that gets another's answer fails at once); at the end that every transfer
that was reported is in the books, once, and that the books balance; that no client was cut off and no login refused.
"""

import glob
import os
import re
import signal
import subprocess
import threading

from lab import wire

DATABASE, USER = "shop", "app"

# One transaction holds a server for about as long as its client then thinks: so about half of the clients want one at a time.
CHECK = r"""
\set n random(1, 1000000000)
\set aid random(1, 100000)
BEGIN;
SELECT :n::bigint AS got, pg_sleep(0.008) \gset
SELECT aid AS found FROM pgbench_accounts WHERE aid = :aid \gset
END;
\if :got <> :n or :found <> :aid
\set wrong_answer 1 / 0
\endif
\sleep 8 ms
"""

TRANSFER = r"""
\set delta random(-5000, 5000)
\set aid random(1, 100000)
\set tid random(1, 10)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = 1;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, 1, :aid, :delta, CURRENT_TIMESTAMP);
END;
\sleep 8 ms
"""

_PROGRESS = re.compile(r"progress: [\d.]+ s, ([\d.]+) tps, lat ([\d.]+) ms")


class Load:
    """pgbench through the sidecar until stop(); `tps` and `latency` are those of its last second."""

    def __init__(self, postgres, sidecar, password, clients, folder):
        self.tps = self.latency = 0.0
        self.words = []
        scripts = []
        for name, text, weight in (("check", CHECK, 19), ("transfer", TRANSFER, 1)):
            with open(f"{folder}/{name}.sql", "w") as file:
                file.write(text)
            scripts += ["-f", f"{folder}/{name}.sql@{weight}"]
        # A thread for each client: pgbench waits for a Parse without serving the other clients of its thread, and one of those may
        # be in a transaction, holding the very server that is waited for.
        argv = [postgres.program("pgbench"), "-n", "-M", "prepared", *scripts, "-c", str(clients), "-j", str(clients), "-P", "1"]
        self.logs = f"{folder}/transactions"
        argv += ["-T", "3600", "-l", f"--log-prefix={self.logs}", "-h", "127.0.0.1", "-p", str(sidecar.port), "-U", USER, DATABASE]
        environment = {**os.environ, "PGPASSWORD": password, "PGSSLMODE": "disable"}
        # Its own session: Ctrl-C is ours to handle.
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            found = _PROGRESS.match(line)
            if found:
                self.tps, self.latency = float(found[1]), float(found[2])
            else:
                self.words.append(line)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self):
        """Ends it in order; what it reports. ALRM is pgbench's own end of -T: transactions under way are finished."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGALRM)
        out = self.process.stdout.read()
        self.process.wait(30)
        self.reader.join(5)
        return Report(out, self.words, self.process.returncode, self.logs)


class Report:
    """What pgbench reports: transactions, transfers among them, and every failure, in its own words."""

    def __init__(self, out, words, status, logs):
        self.transactions = self._number(r"number of transactions actually processed: (\d+)", out)
        self.failed = self._number(r"number of failed transactions: (\d+)", out)
        # From the log, a line a transaction (the fourth field is the script): the threads count per script without a lock.
        self.transfers = 0
        for name in glob.glob(f"{logs}.*"):
            with open(name) as text:
                self.transfers += sum(line.split()[3] == "1" for line in text)
        # A client that meets an error, a wrong answer or a lost connection ends with one of these lines, and pgbench with status 2.
        self.aborted = [line.strip() for line in words if "aborted" in line or "error" in line.lower()]
        if status != 0 and not self.aborted:
            self.aborted = [f"pgbench ended with status {status}"] + [line.strip() for line in words[-5:]]

    @staticmethod
    def _number(pattern, text):
        found = re.search(pattern, text)
        return int(found[1]) if found else -1


class Newcomers:
    """Logs in, asks, checks the answer and leaves, ten times a second, with the password of the day."""

    def __init__(self, port, password):
        self.port, self.password = port, password
        self.served, self.failures = 0, []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(0.1):
            want = str(self.served * 7 + 1)
            try:
                client = wire.Connection("127.0.0.1", self.port, USER, DATABASE, self.password)
                got = client.query(f"SELECT {want}")[0][0]
                client.close()
            except (OSError, wire.ServerError) as error:
                self.failures.append(str(error))
                continue
            if got == want:
                self.served += 1
            else:
                self.failures.append(f"asked for {want}, got {got}")

    def stop(self):
        self._stop.set()
        self._thread.join(30)


def fill(postgres, password):
    """The application's role, its database with pgbench's tables, all of them owned by it."""
    admin = postgres.admin()
    admin.query(f"CREATE ROLE {USER} LOGIN PASSWORD '{password}'")
    admin.query(f"CREATE DATABASE {DATABASE} OWNER {USER}")
    admin.close()
    argv = [postgres.program("pgbench"), "-q", "-i", "-I", "dtGp", "-s", "1", "-h", "127.0.0.1", "-p", str(postgres.port), "-U", USER]
    environment = {**os.environ, "PGPASSWORD": password, "PGSSLMODE": "disable"}
    subprocess.run([*argv, DATABASE], check=True, capture_output=True, env=environment)


def books(postgres):
    """What must agree when the load is over: (transfers in the history, whether all four sums are the same)."""
    admin = postgres.admin(DATABASE)
    sql = (
        "SELECT (SELECT count(*) FROM pgbench_history), (SELECT sum(abalance) FROM pgbench_accounts), "
        "(SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches), "
        "(SELECT coalesce(sum(delta), 0) FROM pgbench_history)"
    )
    count, *sums = admin.query(sql)[0]
    admin.close()
    return int(count), len(set(sums)) == 1
