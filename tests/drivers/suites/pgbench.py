"""pgbench in all its modes. What it wrote must add up, whatever was shared."""

import re

from . import base

# A thread for each: a thread of pgbench that waits for one client's PREPARE would leave its other clients' transactions open, and they hold the servers.
CLIENTS = 16
SECONDS = 1
PIPELINE = r"""\set aid random(1, 100000)
\startpipeline
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :aid, 1, CURRENT_TIMESTAMP);
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
\endpipeline
"""
# What a program does that keeps to its session: its setting must be there in the next transaction.
SESSION = r"""\set mem 4097 + :client_id
SELECT set_config('work_mem', (:mem)::text, false);
SELECT 1 / (current_setting('work_mem') = (:mem)::text || 'kB')::int;
SELECT set_config('app.tenant', (:client_id)::text, false);
BEGIN;
SELECT 1 / (current_setting('app.tenant') = (:client_id)::text)::int;
END;
"""


class Pgbench(base.Suite):
    """Each run is a test: no error, and the sums agree."""

    name = "pgbench"
    databases = ["bench"]

    def install(self):
        super().install()
        self.limit = 120

    def run(self, place, log):
        self.log, self.env = log, place.libpq()
        tests = {"initialise": self.initialise()}
        for mode in ("simple", "extended", "prepared"):
            for script in ("tpcb-like", "simple-update", "select-only"):
                tests[f"{mode}, {script}"] = self.bench("-M", mode, "-b", script)
            tests[f"{mode}, a login for each transaction"] = self.bench("-M", mode, "-b", "select-only", "-C")
            tests[f"{mode}, settings of the session"] = self.bench("-M", mode, "-f", self.script("session", SESSION))
            if mode != "simple":
                tests[f"{mode}, pipelined"] = self.bench("-M", mode, "-f", self.script("pipeline", PIPELINE))
        tests["sums agree"] = self.sums()
        return tests

    def initialise(self):
        text = self.pg("pgbench", "-q", "-i", "-I", "dtgvpf", "-s", "1")
        return "pass" if "done in" in text else "fail"

    def bench(self, *arguments):
        text = self.pg("pgbench", "-n", "-c", CLIENTS, "-j", CLIENTS, "-T", SECONDS, *arguments)
        done = re.search(r"number of transactions actually processed: (\d+)", text)
        failed = re.search(r"number of failed transactions: (\d+)", text)
        bad = "aborted" in text or "error" in text.lower() or (failed and int(failed[1]))
        return "pass" if done and int(done[1]) and not bad else "fail"

    def sums(self):
        text = self.pg(
            "psql", "-X", "-t", "-A", "-c",
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts) - (SELECT sum(delta) FROM pgbench_history),"
            " (SELECT sum(delta) FROM pgbench_history) <> 0",
        )
        return "pass" if text.strip() == "0|t" else "fail"

    def script(self, name, text):
        path = f"{self.log.name}.{name}.sql"
        with open(path, "w") as out:
            out.write(text)
        return path

    def pg(self, program, *arguments):
        """Runs one of PostgreSQL's programs; what it alone has said."""
        self.log.flush()
        before = self.log.tell()
        text = self.command([f"{self.folder}/{program}", *map(str, arguments)], self.log, self.env)
        return text[before:]
