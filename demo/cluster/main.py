"""What `make demo` shows once Poolkeeper is installed on a node. Started by demo/cluster/run, in the node's network."""

import os
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../local"), os.path.join(HERE, "../../scripts")]

import changes  # noqa: E402
from database import Database  # noqa: E402
from lab.process import wait_for  # noqa: E402
from shop import Kubectl, Shop  # noqa: E402
from table import Table  # noqa: E402

END = """
    Everything keeps running. To look around:
      tests/cluster/kubectl --cluster demo get dbpool -A -w
      tests/cluster/kubectl --cluster demo -n shop edit dbpool orders            # and watch the line above
      tests/cluster/kubectl --cluster demo -n shop describe pods | grep -A 9 Conditions:
      tests/cluster/kubectl --cluster demo -n shop logs -f deployment/orders    # the app's own counters
      tests/cluster/inside --cluster demo curl -s http://{pod}:9432/status
    To remove it all:
      make demo-down
"""


def say(text):
    print(f"\n==> {text}")


def show(kubectl, *arguments):
    """Runs kubectl as a user would, and prints both."""
    print(f"$ kubectl {' '.join(arguments)}")
    print("".join(f"{line}\n" for line in kubectl(*arguments).splitlines()), end="")


def main():
    program, folder, *options = sys.argv[1:]
    pace = 0.4 if "--short" in options else 1.0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    kubectl = Kubectl(program, folder)
    say("a PostgreSQL outside of the cluster, at 198.18.0.1")
    database = Database(folder)
    print(f"    PostgreSQL {database.version()}, with the database orders")
    say("the app, its Secret and its policy")
    shop = Shop(kubectl)
    manifest = os.path.relpath(f"{HERE}/shop.yaml")
    kubectl("delete", "namespace", "shop", "--ignore-not-found", "--timeout=90s")
    show(kubectl, "apply", "-f", manifest)
    began = time.monotonic()
    kubectl("rollout", "status", "-n", "shop", "deployment/orders", "--timeout=120s")
    kubectl("wait", "-n", "shop", "--for=condition=Ready", "dbpool/orders", "--timeout=60s")
    print(f"    three pods are ready, and say that they run the policy, after {time.monotonic() - began:.1f} s")
    show(kubectl, "get", "dbpool,pods", "-n", "shop")
    columns = "NAME:.metadata.name,CONFIGURED:.status.conditions[?(@.type=='poolkeeper.dev/PoolConfigured')].reason"
    columns += ",POOL:.status.conditions[?(@.type=='poolkeeper.dev/PoolHealthy')].message"
    show(kubectl, "get", "pods", "-n", "shop", "-o", f"custom-columns={columns}")
    shop.find()
    wait_for(lambda: shop.policy["generation"] and shop.counters()["tps"] > 0, "the app's first second of work", seconds=60)
    say("changes under load: 36 clients in three pods, which check every value that they read")
    table = Table(lambda: {**shop.sample(), "servers": database.servers()})
    try:
        effects = changes.play(shop, database, table, pace)
    finally:
        table.stop()
    counted = shop.counters()
    print(f"\n    {'change':<46} {'by kubectl until all pods said so':>33} {'seen':>8}  as")
    for change, programmed, seen, what in effects:
        print(f"    {change:<46} {span(programmed):>33} {span(seen):>8}  {what}")
    print(f"\n    {counted['done']} transactions, every answer checked; {counted['failed']} failed. Restarts of any container: {shop.restarts()}")
    for error in counted["errors"][:5]:
        print(f"    FAILED: {error}")
    good = counted["failed"] == 0 and shop.restarts() == 0
    print(END.format(pod=shop.addresses[0]) if good else "\n    Something failed: see above. `make demo-down` removes it all.")
    return 0 if good else 1


def span(seconds):
    if seconds is None:
        return ""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninterrupted; `make demo-down` removes what runs", file=sys.stderr)
        sys.exit(130)
    except RuntimeError as error:
        print(f"\nerror: {error}\n`make demo-down` removes what runs", file=sys.stderr)
        sys.exit(1)
