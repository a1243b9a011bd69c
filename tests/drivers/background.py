"""Forty plain clients that share the servers with a suite: short transactions, every value read is checked, nothing of the session is touched.

Started by bench.py with one JSON argument; runs until its standard input ends, then prints what it saw as JSON."""

import json
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts"))

from lab import wire  # noqa: E402

CLIENTS = 40
APPLICATION = "background"
TABLES = """
CREATE SCHEMA background;
CREATE TABLE background.account (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0);
INSERT INTO background.account SELECT g FROM generate_series(1, %d) g
""" % CLIENTS
# What another client's session could have changed. A background client sets none of it, so it must find what PostgreSQL gave it at login.
SETTINGS = (
    "search_path TimeZone DateStyle IntervalStyle role client_encoding bytea_output extra_float_digits standard_conforming_strings work_mem"
    " default_transaction_isolation default_transaction_read_only default_transaction_deferrable lock_timeout statement_timeout"
).split()
LOOK = "SELECT current_user, session_user, " + ", ".join(f"current_setting('{name}')" for name in SETTINGS)


class Seen:
    """What all of them saw."""

    def __init__(self):
        self.lock = threading.Lock()
        self.transactions = self.logins = 0
        self.wrong = []
        self.errors = {}

    def done(self, login=False):
        with self.lock:
            self.transactions += 1
            self.logins += login

    def says_wrong(self, text):
        with self.lock:
            self.wrong.append(text)

    def error(self, error):
        text = f"{type(error).__name__}: {error}"[:200]
        with self.lock:
            self.errors[text] = self.errors.get(text, 0) + 1


class Client:
    """One of them: row `number` is its own, and nobody else writes it."""

    def __init__(self, number, plan, seen, end):
        self.number, self.plan, self.seen, self.end = number, plan, seen, end
        self.dice = random.Random(number)
        self.known = None
        self.connection = None

    def run(self):
        while not self.end.wait(self.dice.uniform(0, 2 * self.plan["pause"])):
            try:
                if self.connection is None:
                    self.connection = self._connect()
                self.dice.choice((self._write, self._write, self._read, self._look))()
                if self.plan["relogin"]:
                    self._leave()
            except (OSError, wire.ServerError) as error:
                if not self.end.is_set():
                    self.seen.error(error)
                self.known = None  # the write may have happened or not
                self._leave()
        self._leave()

    def _connect(self):
        plan = self.plan
        connection = wire.Connection(
            plan["host"], plan["port"], plan["user"], plan["database"], plan["password"], 120.0, application_name=APPLICATION, **plan["startup"]
        )
        connection.prepare("own", "SELECT n FROM background.account WHERE id = $1")
        self.seen.done(login=True)
        return connection

    def _leave(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _write(self):
        self.connection.query("BEGIN")
        rows = self.connection.query(f"UPDATE background.account SET n = n + 1 WHERE id = {self.number} RETURNING n")
        self.connection.query("COMMIT")
        now = int(rows[0][0])
        if self.known is not None:
            self._expect("its row after a write", now, self.known + 1)
        self.known = now
        self.seen.done()

    def _read(self):
        rows = self.connection.execute("own", [str(self.number)])
        if self.known is not None:
            self._expect("its row", rows, [[str(self.known)]])
        self.seen.done()

    def _look(self):
        rows = self.connection.query(LOOK)
        for name, found, wanted in zip(["current_user", "session_user", *SETTINGS], rows[0], self.plan["expected"]):
            self._expect(name, found, wanted)
        self.seen.done()

    def _expect(self, what, found, wanted):
        if found != wanted:
            self.seen.says_wrong(f"client {self.number}: {what} is {found!r}, should be {wanted!r}")


def main():
    plan = json.loads(sys.argv[1])
    seen, end = Seen(), threading.Event()
    threads = [threading.Thread(target=Client(number, plan, seen, end).run) for number in range(1, CLIENTS + 1)]
    for thread in threads:
        thread.start()
        time.sleep(0.01)
    sys.stdin.read()
    end.set()
    for thread in threads:
        thread.join()
    errors = dict(sorted(seen.errors.items(), key=lambda item: -item[1])[:10])
    told = {"transactions": seen.transactions, "logins": seen.logins}
    print(json.dumps({**told, "wrong": len(seen.wrong), "wrong_examples": seen.wrong[:10], "errors": errors}))


if __name__ == "__main__":
    main()
