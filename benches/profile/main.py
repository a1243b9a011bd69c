"""Where the time of a transaction goes. Started by benches/profile/run."""

import argparse
import glob
import os
import re
import subprocess
import sys
import time
from collections import Counter

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, f"{ROOT}/benches/compare", f"{ROOT}/scripts"]

import beside  # noqa: E402
import calls  # noqa: E402
import flames  # noqa: E402
from cells import environment, pgbench  # noqa: E402
from lab import postgres, process  # noqa: E402
from poolers import Poolkeeper  # noqa: E402
from world import fill  # noqa: E402

LOADS = ("simple", "extended", "prepared")
CLIENTS = 16
# User-space instructions per transaction of the end-to-end build (no link-time optimisation), 16 clients. A count, not a time: it moves by
# a few per cent with the versions of the compiler and the dependencies. Above it something has been added to the path of a query.
BOUNDS = {"simple": 10_500, "extended": 12_000}


def arguments():
    parser = argparse.ArgumentParser(prog="benches/profile/run", description="Where the time of a transaction goes.")
    parser.add_argument("--poolkeeper", required=True, help="the binary (default: builds the release binary; with --check that of the end-to-end tests)")
    parser.add_argument("--check", action="store_true", help="only: are the instructions per transaction within their bound?")
    parser.add_argument("--inferno", help="the folder of inferno's programs, which draw flame graphs")
    parser.add_argument("--out", default="target/profile", help="folder for flame graphs and callgrind's own files (default target/profile)")
    return parser.parse_args()


def wrapped(binary, folder):
    """A program that runs the binary under callgrind, which counts nothing yet."""
    path = f"{folder}/counted"
    with open(path, "w") as out:
        out.write(f'#!/bin/sh\nexec valgrind -q --tool=callgrind --instr-atstart=no --callgrind-out-file={folder}/callgrind.%p {binary} "$@"\n')
    os.chmod(path, 0o755)
    return path


def counted(server, folder, mode):
    """(instructions per transaction, by function) of a steady load: two runs of which one is longer, so that logging in cancels out."""
    pooler = Poolkeeper(server, process.folder("counted"))
    try:
        _load(server, pooler, mode, 30)  # statements are parsed, servers open, the catalog is read
        short, long = (_instructions(server, pooler, folder, mode, each) for each in (50, 250))
    finally:
        pooler.stop()
    return (long[0] - short[0]) / (200 * CLIENTS), long[1]


def _load(server, pooler, mode, each):
    argv = pgbench(server, pooler, mode, CLIENTS, options=["-S", "-t", str(each)])
    subprocess.run(argv, check=True, capture_output=True, env=environment())


def _instructions(server, pooler, folder, mode, each):
    control = lambda *words: subprocess.run(["callgrind_control", *words, str(pooler.pid)], check=True, capture_output=True)  # noqa: E731
    control("-i", "on")
    control("-z")
    _load(server, pooler, mode, each)
    time.sleep(0.2)
    control("-i", "off")
    before = set(glob.glob(f"{folder}/callgrind.*"))
    control("-d")
    process.wait_for(lambda: set(glob.glob(f"{folder}/callgrind.*")) - before, "callgrind's figures", 20)
    time.sleep(0.5)
    (path,) = set(glob.glob(f"{folder}/callgrind.*")) - before
    with open(path) as text:
        total = sum(int(line.split()[1]) for line in text if line.startswith("totals:"))
    return total, path


def by_function(path, transactions, most=25):
    """Lines of callgrind_annotate, per transaction."""
    out = subprocess.run(["callgrind_annotate", "--auto=no", path], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^ *([\d,]+) \([ \d.]+%\) +(?:\S*?:)?(\S.*?)(?: \[.*)?$", out, flags=re.MULTILINE)
    counts = Counter()  # a function with others in it has a line for each of their files
    for count, name in found:
        counts[name] += int(count.replace(",", "")) / transactions
    del counts["PROGRAM TOTALS"]
    return [f"{count:8.0f}  {name[:110]}" for name, count in counts.most_common(most)]


def main():
    options = arguments()
    binary = os.path.abspath(options.poolkeeper)
    process.interrupted_as_exception()
    failed = False
    try:
        folder = process.folder("profile")
        server = postgres.Postgres(folder, shared_buffers="256MB", autovacuum="off")
        fill(server, folder)
        if not options.check:
            os.makedirs(options.out, exist_ok=True)
            Poolkeeper.binary = binary
            for mode in LOADS:
                pooler = Poolkeeper(server, process.folder("calls"))
                print(f"==> system calls per transaction, {mode}, {CLIENTS} clients", flush=True)
                for name, each in calls.count(server, pooler, mode, CLIENTS).items():
                    if each >= 0.01:
                        print(f"    {each:6.2f}  {name}")
                flames.graph(server, pooler, mode, CLIENTS, options.inferno, f"{options.out}/{mode}.svg")
                pooler.stop()
            beside.show(server)
        Poolkeeper.binary = wrapped(binary, folder)
        for mode in BOUNDS if options.check else LOADS:
            count, path = counted(server, folder, mode)
            bound = BOUNDS.get(mode)
            print(f"==> {mode}, {CLIENTS} clients: {count:.0f} instructions per transaction" + (f" (bound {bound})" if options.check else ""), flush=True)
            if options.check and count > bound:
                failed = True
                print(f"error: {mode}: {count:.0f} instructions per transaction are more than {bound}; make profile shows where", file=sys.stderr)
            if not options.check:
                print("\n".join(by_function(path, 250 * CLIENTS)))
                os.replace(path, f"{options.out}/callgrind.{mode}")
    finally:
        process.end_all()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
