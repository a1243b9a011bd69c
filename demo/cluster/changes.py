"""The changes that the demo makes: each with the time until every pod had said that it runs it, and until its effect was seen."""

import time

from lab.process import wait_for
from shop import patch


def play(shop, database, table, pace):
    """All of them in turn; a list of (change, seconds until programmed, seconds until seen, seen as)."""
    stage = Stage(shop, database, table, pace)
    stage.watch(5)
    effects = []
    for step in (stage.shrink, stage.grow, stage.recycle, stage.mistake, stage.without_operator, stage.after):
        effects.append(step())
        stage.watch(5)
    return effects


def command(pool):
    """What a user would type."""
    return "kubectl " + " ".join(word if word.startswith("-") or word.isalnum() else f"'{word}'" for word in patch(pool))


class Stage:
    def __init__(self, shop, database, table, pace):
        self.shop, self.database, self.table, self.pace = shop, database, table, pace

    def watch(self, seconds):
        time.sleep(seconds * self.pace)

    def change(self, text, pool, seen):
        """Changes the policy; seconds until programmed, and until `seen()` is true."""
        self.table.say(f"\n==> {text}\n$ {command(pool)}")
        began = time.monotonic()
        generation = self.shop.change(pool)
        times = {}
        def both():
            for name, done in (("programmed", lambda: self.shop.programmed(generation)), ("seen", seen)):
                if name not in times and done():
                    times[name] = time.monotonic() - began
            return len(times) == 2
        wait_for(both, f"the change {pool} to be everywhere", seconds=60)
        return times["programmed"], times["seen"]

    def shrink(self):
        times = self.change("three connections a pod: clients wait, in order, and none fails", {"size": 3, "maxOverflow": 0}, lambda: self.database.servers() <= 9)
        return ("20/10 → 3/0 a pod", *times, "PostgreSQL counts 9 connections")

    def grow(self):
        times = self.change("whoever waits gets a connection at once", {"size": 10, "maxOverflow": 5}, lambda: self.database.servers() > 9)
        return ("3/0 → 10/5", *times, "the first new connection at PostgreSQL")

    def recycle(self):
        since = self.database.now()
        times = self.change("every connection older than that is replaced", {"recycle": "2s"}, lambda: self.database.oldest() > since)
        return ("recycle: 1h → 2s", *times, "every connection at PostgreSQL is new")

    def mistake(self):
        self.table.say(f"\n==> a mistake\n$ {command({'size': -3})}")
        began = time.monotonic()
        try:
            self.shop.change({"size": -3})
        except RuntimeError as error:
            took = time.monotonic() - began
            self.table.say("    " + str(error).splitlines()[-1].strip())
            return "size: -3 (a mistake)", None, took, "kubectl says why; nothing changes"
        raise RuntimeError("a size of -3 was taken")

    def without_operator(self):
        self.table.say("\n==> the operator is killed, both replicas\n$ kubectl delete pods -n poolkeeper --all --force --grace-period=0")
        before = self.shop.counters()["done"]
        began = time.monotonic()
        self.shop.kubectl("delete", "pods", "-n", "poolkeeper", "--all", "--force", "--grace-period=0")
        wait_for(lambda: self.shop.counters()["done"] > before + 500, "transactions while the operator is away", seconds=60)
        took = time.monotonic() - began
        return "the operator is killed", None, took, "500 transactions go on meanwhile"

    def after(self):
        times = self.change("another leads by now, or soon", {"size": 20, "maxOverflow": 10, "recycle": "1h"}, lambda: True)
        return ("back to 20/10", times[0], None, "a new leader has told every pod")
