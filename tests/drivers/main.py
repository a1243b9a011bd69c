"""Other people's test suites, directly and through Poolkeeper. Started by tests/drivers/run, which installs what is missing."""

import argparse
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../../scripts")]

import bench  # noqa: E402
import report  # noqa: E402
from lab import process  # noqa: E402
from suites import SUITES  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(prog="tests/drivers/run", description="Other people's test suites, directly and through Poolkeeper.")
    parser.add_argument("--suites", default="all", help=f"some of {', '.join(SUITES)} (comma separated; default all)")
    parser.add_argument("--columns", default=",".join(bench.COLUMNS), help="some of direct, session, transaction; the others stay as they were")
    parser.add_argument("--poolkeeper", required=True, help="the binary (default: builds one)")
    parser.add_argument("--logs", help="where the suites' output goes (default: a folder in the cache)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a difference turns up that the table does not know")
    options = parser.parse_args()
    options.suites = list(SUITES) if options.suites == "all" else options.suites.split(",")
    options.columns = [column for column in bench.COLUMNS if column in options.columns.split(",")]
    unknown = [name for name in options.suites if name not in SUITES]
    if unknown:
        parser.error(f"no suite {', '.join(unknown)}; there are {', '.join(SUITES)}")
    return options


def outcomes(logs, name):
    """The direct run's, of this or an earlier time."""
    path = f"{logs}/{name}-direct.json"
    if not os.path.exists(path):
        return {}
    with open(path) as text:
        return json.load(text)["tests"]


def main():
    options = arguments()
    process.interrupted_as_exception()
    logs = options.logs or os.path.join(os.environ["POOLKEEPER_CACHE"], "drivers/logs")
    os.makedirs(logs, exist_ok=True)
    unexplained = []
    try:
        for name in options.suites:
            suite = SUITES[name]()
            suite.install()
            known = report.load(name)
            for column in options.columns:
                report.say(f"{suite.title}: {column}")
                run = bench.run(suite, column, options.poolkeeper, logs)
                report.note(report.line(run))
                with open(f"{logs}/{name}-{column}.json", "w") as out:
                    json.dump({"tests": run.tests, "figures": run.figures}, out, indent=1)
                report.enter(known, suite, column, run, outcomes(logs, name))
                for test, outcome in known["columns"][column].get("differences", {}).items():
                    if not report.explanation(name, column, test):
                        unexplained.append(f"{name}, {column}: {test} ({outcome})")
                if not options.check:
                    report.save(known, name)
    finally:
        process.end_all()
    if not options.check:
        report.write(SUITES)
    for text in unexplained:
        report.note(f"not explained: {text}")
    return 1 if unexplained and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
