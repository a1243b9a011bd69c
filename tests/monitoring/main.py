"""Checks rules, dashboards and pages. Started by tests/monitoring/run."""

import argparse
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "scripts")]

import dashboards  # noqa: E402
import pages  # noqa: E402
import rules  # noqa: E402
from chromium import Browser  # noqa: E402
from lab import process  # noqa: E402
from world import Prometheus, World  # noqa: E402


def live(args, boards):
    """Everything that needs something to look at."""
    world = World(args.poolkeeper)
    prometheus = Prometheus(args.prometheus, world)
    browser = Browser(args.browser)
    try:
        print("==> the pages, in a browser, light and dark", flush=True)
        problems = pages.check(world, browser, args.screenshots)
        print("==> the dashboards' queries, in Prometheus", flush=True)
        # An operator at rest reconciles nothing, and its quantiles are of what it did a moment ago.
        world.change(8)
        problems += dashboards.check(prometheus, boards)
        problems += rules.check_loaded(prometheus)
        # At last, since it ends what all others look at.
        problems += pages.check_end(world, browser)
    finally:
        browser.stop()
    return problems


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--poolkeeper", required=True)
    parser.add_argument("--prometheus", required=True, help="the folder of prometheus and promtool")
    parser.add_argument("--browser", required=True)
    parser.add_argument("--screenshots", help="a folder for pictures of the pages")
    parser.add_argument("--only", choices=["rules", "live"])
    args = parser.parse_args()
    began = time.monotonic()
    process.interrupted_as_exception()
    problems = []
    try:
        boards = dashboards.read()
        if args.only != "live":
            print("==> the rules, with promtool", flush=True)
            problems += rules.check(args.prometheus) + dashboards.check_form(boards)
        if args.only != "rules":
            problems += live(args, boards)
    finally:
        process.end_all()
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"==> {'all of it holds' if not problems else f'{len(problems)} problems'}, after {time.monotonic() - began:.0f} s")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
