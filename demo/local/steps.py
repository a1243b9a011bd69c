"""The changes that the demo makes, each with the moment at which its effect was seen, at the server wherever there is one."""

import time

from lab.process import wait_for

SECOND_PASSWORD = "the second password"


def numbers(status):
    """What the table shows of /status."""
    pool = status["pools"][0]
    connections, settings = pool["connections"], pool["settings"]["pool"]
    return {
        "size": settings["size"],
        "max_overflow": settings["maxOverflow"],
        "limit": connections["limit"],
        "in_use": connections["in_use"] + connections["connecting"],
        "idle": connections["idle"],
        "waiting": connections["waiting"],
        "clients": pool["traffic"]["clients"],
    }


def play(stage):
    """All steps in turn; a list of (change, seconds from save to effect, seen as)."""
    effects = []
    wait_for(lambda: stage.load.tps, "the first second of load", seconds=60)
    stage.watch(4)
    for step in (shrink, grow, recycle, bad_value, mend, rotate):
        effects.append(step(stage))
        stage.watch(6)
    return effects


def shrink(stage):
    change = "20/10 → 5/0"
    stage.view.say(f"\n==> {change}: five connections at most. Clients wait, in order; none fails.")
    saved = stage.sidecar.change(pool={"size": 5, "maxOverflow": 0})
    wait_for(lambda: len(stage.servers()) <= 5, "the servers to be 5 at most", pause=0)
    return change, time.time() - saved, "PostgreSQL counts 5 connections"


def grow(stage):
    change = "5/0 → 50/20"
    stage.view.say(f"\n==> {change}: whoever waits gets a new connection at once.")
    saved = stage.sidecar.change(pool={"size": 50, "maxOverflow": 20})
    began = wait_for(lambda: [at for at in stage.servers() if at > saved], "a new server connection", pause=0)
    return change, min(began) - saved, "the first new connection at PostgreSQL"


def recycle(stage):
    change = "recycle: 1h → 2s"
    stage.view.say(f"\n==> {change}: every connection older than that is replaced when it is next asked for.")
    saved = stage.sidecar.change(pool={"recycle": "2s"})
    wait_for(lambda: min(stage.servers(), default=0) > saved, "all servers to be new")
    return change, time.time() - saved, "every connection at PostgreSQL is new"


def bad_value(stage):
    change = "size: -3, minIdle: 500 (a mistake)"
    stage.view.say(f"\n==> {change}: refused as a whole, said where, and the pool goes on with the last good settings.")
    before = stage.sidecar.status()["pools"][0]["revision"]
    stage.good = stage.sidecar.spec
    saved = stage.sidecar.change(pool={"size": -3, "minIdle": 500})
    rejection = wait_for(lambda: stage.sidecar.status()["rejection"], "the refusal in /status", pause=0)
    took = time.time() - saved
    for problem in rejection["problems"]:
        stage.view.say(f"    {problem['path']}: {problem['message']}")
    if stage.sidecar.status()["pools"][0]["revision"] != before:
        raise RuntimeError("a refused policy changed the pool")
    return change, took, f"/status says why ({len(rejection['problems'])} problems), settings stay"


def mend(stage):
    change = "mended, back to 20/10"
    stage.view.say(f"\n==> {change}")
    stage.sidecar.spec = stage.good
    saved = stage.sidecar.change(pool={"size": 20, "maxOverflow": 10})
    wait_for(lambda: len(stage.servers()) <= 30, "the servers to be 30 at most", pause=0)
    took = time.time() - saved
    wait_for(lambda: not stage.sidecar.status()["rejection"], "the refusal to be gone from /status")
    return change, took, "PostgreSQL counts 30 connections"


def rotate(stage):
    change = "another password for the database's role"
    stage.view.say(f"\n==> {change}: the secret first, then the role. Servers that are open stay, new ones log in with it.")
    before = stage.sidecar.status()["reloads"]["applied"]
    saved = stage.sidecar.write_secret("password", SECOND_PASSWORD)
    wait_for(lambda: stage.sidecar.status()["reloads"]["applied"] > before, "the sidecar to have read the secret")
    stage.view.say(f"    the sidecar has read it after {(time.time() - saved) * 1000:.0f} ms; now ALTER ROLE app PASSWORD …")
    stage.admin.query(f"ALTER ROLE app PASSWORD '{SECOND_PASSWORD}'")
    stage.newcomers.password = SECOND_PASSWORD
    altered = time.time()
    # With recycle at 2 s every connection is soon one that logged in with the new password.
    wait_for(lambda: min(stage.servers(), default=0) > altered, "all servers to have logged in anew")
    return change, time.time() - saved, "every connection logged in with it"
