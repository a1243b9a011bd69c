#!/usr/bin/env python3
"""Drives the real sqlalchemy.pool.QueuePool through random sequences and writes down all that it does.

    generate.py --out FILE [--sequences N] [--seed S] [--report]

The DBAPI is a fake whose connects, pings and resets end as the sequence says; the clock is patched and counts
whole seconds, so that "older than" and "as old as" are exact. One thread: waiting is a step of the clock.
SQLAlchemy comes from PyPI, pinned in requirements.txt, into a virtual environment of its own under
~/.cache/poolkeeper, named after that file's content. The same seed gives the same file, byte for byte.

A sequence begins with its settings, then a line a step:

    pool size=2 max_overflow=1 timeout=5 recycle=-1 pre_ping=1 lifo=0 reset=rollback
    out o1,f0 d,o > lent 4 ; ?3 -3 +4 ; 0 1 -1 ; reuse ping-dead

What is done: `out CONNECTS PINGS` (checkout; the next connects end o = well or f = not and take so many
seconds; the next pings end o = alive, d = disconnected, x = another error), `back N ok|failed` (check in
connection N, its reset ending so), `drop N` (invalidate it), `lost N` (invalidate it and with it the pool,
as SQLAlchemy does when a statement finds it disconnected), `wait S`. Then what came of it; then what was done to
the database: `+N` opened, `!` not opened, `-N` closed, `?N` pinged; then checkedin(), checkedout(), overflow();
then the branches taken.
"""

import argparse
import collections
import hashlib
import os
import pathlib
import random
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).resolve().parent
LEAST_PER_BRANCH = 50


def enter_environment():
    """Runs this script again inside its own environment, made if it isn't there yet."""
    requirements = HERE / "requirements.txt"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    key = hashlib.sha256(requirements.read_bytes() + version.encode()).hexdigest()[:16]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "poolkeeper"
    home = cache / f"oracle-{key}"
    if pathlib.Path(sys.prefix).resolve() == home.resolve():
        return
    ready = home / "ready"
    if not ready.exists():
        venv.EnvBuilder(with_pip=True, clear=True).create(home)
        pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", requirements], check=True)
        ready.touch()
    python = str(home / "bin" / "python")
    os.execv(python, [python, __file__, *sys.argv[1:]])


class Clock:
    """Whole seconds. Not from zero: SQLAlchemy takes zero for "never"."""

    def __init__(self):
        self.now = 1000

    def time(self):
        return self.now


class Refused(Exception):
    """A connect that failed."""


class Odd(Exception):
    """A ping that failed otherwise than by a disconnect, or a reset that failed."""


class Database:
    """The fake DBAPI: what it is to answer next, and what was done to it."""

    def __init__(self, clock):
        self.clock = clock
        self.opened = 0
        self.connects = []
        self.pings = []
        self.reset_fails = False
        self.did = []

    def connect(self):
        ends, takes = self.connects.pop(0) if self.connects else ("o", 0)
        self.clock.now += takes
        if ends == "f":
            self.did.append("!")
            raise Refused()
        self.opened += 1
        self.did.append(f"+{self.opened}")
        return Connection(self, self.opened)


class Connection:
    def __init__(self, database, number):
        self.database = database
        self.number = number

    def reset(self):
        if self.database.reset_fails:
            raise Odd()

    rollback = commit = reset

    def close(self):
        self.database.did.append(f"-{self.number}")


def dialect(database):
    """The pool's view of the database; the ping answers as DefaultDialect._do_ping_w_event does."""
    from sqlalchemy.pool.base import _ConnDialect

    class Fake(_ConnDialect):
        def _do_ping_w_event(self, connection):
            database.did.append(f"?{connection.number}")
            ends = database.pings.pop(0) if database.pings else "o"
            if ends == "x":
                raise Odd()
            return ends == "o"

    return Fake()


class Sequence:
    """One pool and its clients."""

    def __init__(self, chance, clock):
        from sqlalchemy.pool import QueuePool

        self.chance = chance
        self.clock = clock
        self.database = Database(clock)
        size = chance.choice([0, 1, 1, 1, 2, 2, 3, 4])
        self.settings = dict(
            size=size,
            max_overflow=chance.choice([-1, 0, 0, 1, 2]),
            timeout=chance.choice([0, 1, 5, 30]),
            recycle=chance.choice([-1, -1, 0, 3, 10, 10]),
            pre_ping=chance.choice([0, 1, 1]),
            lifo=chance.choice([0, 1]),
            reset=chance.choice(["rollback", "commit", "none"]),
        )
        s = self.settings
        self.pool = QueuePool(
            self.database.connect,
            pool_size=size,
            max_overflow=s["max_overflow"],
            timeout=s["timeout"],
            recycle=s["recycle"],
            pre_ping=bool(s["pre_ping"]),
            use_lifo=bool(s["lifo"]),
            reset_on_return=None if s["reset"] == "none" else s["reset"],
            dialect=dialect(self.database),
        )
        # Nobody else is there to give anything back: to wait is to let the time pass.
        self.pool._pool.not_empty.wait = self.wait_in_queue
        self.out = {}
        # The share of bad answers: some sequences have many, some none.
        self.bad = chance.choice([0.0, 0.1, 0.3, 0.6])
        self.pace = chance.choice([1, 1, 2, 4])

    def wait_in_queue(self, seconds):
        self.clock.now += seconds

    def head(self):
        return "pool " + " ".join(f"{name}={value}" for name, value in self.settings.items())

    def step(self):
        ways = [("out", 10), ("wait", 4)]
        if self.out:
            ways += [("back", 9), ("drop", 2), ("lost", 2)]
        way = self.chance.choices([w for w, _ in ways], [n for _, n in ways])[0]
        self.database.did = []
        asked, outcome, branches = getattr(self, f"do_{way}")()
        pool = self.pool
        counters = f"{pool.checkedin()} {pool.checkedout()} {pool.overflow()}"
        status = f"Pool size: {pool.size()}  Connections in pool: {pool.checkedin()} Current Overflow: {pool.overflow()} "
        assert pool.status() == f"{status}Current Checked out connections: {pool.checkedout()}"
        did = " ".join(self.database.did)
        return f"{asked} > {outcome} ; {did} ; {counters} ; {' '.join(branches)}", branches

    def do_wait(self):
        seconds = self.chance.choice([0, 1, 1, 2, 3, 4, 11]) * self.pace
        self.clock.now += seconds
        return f"wait {seconds}", "ok", ["wait"]

    def do_out(self):
        chance, database = self.chance, self.database
        slow = [0, 0, 0, 0, 0, 0, 0, 1] if self.settings["recycle"] == 0 else [0, 0, 0, 1, 2]
        connects = [("f" if chance.random() < self.bad else "o", chance.choice(slow)) for _ in range(2)]
        pings = ["o" if chance.random() >= self.bad else chance.choice("ddx") for _ in range(2)]
        asked = f"out {','.join(f'{ends}{takes}' for ends, takes in connects)} {','.join(pings)}"
        database.connects, database.pings = list(connects), list(pings)
        branches = self.foresee()
        moved_from = self.pool._invalidate_time
        try:
            fairy = self.pool.connect()
        except Refused:
            outcome = "refused"
        except Odd:
            outcome = "odd"
        except Exception as error:
            assert type(error).__name__ == "TimeoutError" and error.code == "3o7r", error
            outcome = f"timeout {error.args[0]}"
            branches = ["timeout"]
        else:
            number = fairy.dbapi_connection.number
            self.out[number] = fairy
            outcome = f"lent {number}"
        did = database.did
        if "?" in " ".join(did):
            # What the pings that were used up ended with.
            for ends in pings[: len(pings) - len(database.pings)]:
                branches.append({"o": "ping-alive", "d": "ping-dead", "x": "ping-odd"}[ends])
            if "ping-dead" in branches:
                moved = self.pool._invalidate_time != moved_from
                branches.append("ping-invalidates" if moved else "ping-invalidates-nothing-new")
        elif self.settings["pre_ping"] and outcome.startswith("lent"):
            branches.append("fresh-not-pinged")
        if outcome == "refused":
            branches.append("refused-after-ping" if "ping-dead" in branches else f"refused-{branches[0]}")
        return asked, outcome, branches

    def foresee(self):
        """Which way this checkout will go, from the record that is next in the pool's queue."""
        pool, now = self.pool, self.clock.now
        queue = pool._pool.queue
        if not queue:
            if self.settings["size"] == 0:
                return ["new-unlimited"]
            if pool._max_overflow == -1 and pool._overflow >= 0:
                return ["new-overflow-unlimited"]
            return ["new-overflow" if pool._overflow >= 0 else "new"]
        record = queue[-1] if self.settings["lifo"] else queue[0]
        branches = []
        if record.dbapi_connection is None:
            branches.append("empty-slot")
        elif pool._recycle > -1 and now - record.starttime > pool._recycle:
            branches.append("recycle")
        elif pool._invalidate_time > record.starttime:
            branches.append("invalidated")
        else:
            branches.append("reuse")
            if pool._recycle > -1 and now - record.starttime == pool._recycle:
                branches.append("recycle-just-not")
            if pool._invalidate_time == record.starttime:
                branches.append("invalidated-just-not")
        if len(queue) > 1:
            branches.append("lifo" if self.settings["lifo"] else "fifo")
        return branches

    def leave(self):
        """What becomes of a record that is given back now."""
        kept = self.pool._pool.maxsize <= 0 or self.pool._pool.qsize() < self.pool._pool.maxsize
        return "kept" if kept else "surplus"

    def take_out(self):
        number = self.chance.choice(sorted(self.out))
        return number, self.out.pop(number)

    def do_back(self):
        number, fairy = self.take_out()
        fails = self.settings["reset"] != "none" and self.chance.random() < self.bad
        self.database.reset_fails = fails
        branch = f"reset-failed-{self.leave()}" if fails else f"back-{self.leave()}"
        fairy.close()
        self.database.reset_fails = False
        return f"back {number} {'failed' if fails else 'ok'}", "ok", [branch]

    def do_drop(self):
        number, fairy = self.take_out()
        branch = f"drop-{self.leave()}"
        fairy.invalidate()
        return f"drop {number}", "ok", [branch]

    def do_lost(self):
        number, fairy = self.take_out()
        before = self.pool._invalidate_time
        self.pool._invalidate(fairy, None)
        moved = self.pool._invalidate_time != before
        return f"lost {number}", "ok", ["lost" if moved else "lost-nothing-new"]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", required=True, type=pathlib.Path, help="the file to write")
    arguments.add_argument("--sequences", type=int, default=8000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--steps", type=int, default=30, help="steps of the longest sequence")
    arguments.add_argument("--report", action="store_true", help="print how often each branch was taken")
    given = arguments.parse_args()
    enter_environment()

    import logging

    import sqlalchemy
    import sqlalchemy.pool.base
    import sqlalchemy.util.queue

    logging.disable(logging.CRITICAL)
    wanted = (HERE / "requirements.txt").read_text().strip().split("==")[1]
    assert sqlalchemy.__version__ == wanted, sqlalchemy.__version__
    clock = Clock()
    sqlalchemy.pool.base.time = clock
    sqlalchemy.util.queue._time = clock.time

    chance = random.Random(given.seed)
    taken = collections.Counter()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = given.out.with_suffix(".unfinished")
    with unfinished.open("w") as out:
        print(f"# sqlalchemy {sqlalchemy.__version__}, seed {given.seed}, {given.sequences} sequences", file=out)
        for _ in range(given.sequences):
            sequence = Sequence(chance, clock)
            print(sequence.head(), file=out)
            for _ in range(chance.randint(5, given.steps)):
                line, branches = sequence.step()
                taken.update(branches)
                print(line, file=out)
            for fairy in sequence.out.values():
                fairy.close()
    unfinished.replace(given.out)
    if given.report:
        for branch, times in sorted(taken.items()):
            print(f"{times:8} {branch}")
        rare = [branch for branch, times in taken.items() if times < LEAST_PER_BRANCH]
        if rare:
            sys.exit(f"taken fewer than {LEAST_PER_BRANCH} times: {', '.join(sorted(rare))}")


if __name__ == "__main__":
    main()
