"""System calls per transaction, counted by strace."""

import os
import subprocess
import tempfile
import time

from cells import environment, pgbench

LOADS = (("simple", 16), ("simple", 64), ("extended", 64), ("prepared", 64))
TITLE = "system calls per transaction (strace)"


def section(bench):
    """The report's section."""
    lines = ["## System calls per transaction", "", "By `strace -c` around a whole load, so logging in has its small share in it.", ""]
    lines += ["| load | pooler | in all | of which |", "|---|---|---|---|"]
    for mode, clients in (("simple", 16), ("extended", 64)) if bench.options.quick else LOADS:
        for kind in bench.each_kind():
            with bench.running(kind) as pooler:
                counts = count(bench.postgres, pooler, mode, clients)
            text = ", ".join(f"{name} {each:.2f}" for name, each in counts.items() if each >= 0.01)
            bench.note(f"{kind.name}, {mode}, {clients} clients: {text}")
            lines.append(f"| {mode}, {clients} clients | {kind.name} | {sum(counts.values()):.2f} | {text} |")
    return lines


def count(postgres, pooler, mode, clients, each=2000):
    """System calls per transaction by name, most frequent first."""
    counts = tempfile.mkstemp(prefix="poolkeeper-strace-")[1]
    trace = subprocess.Popen(["strace", "-c", "-f", "-q", "-p", str(pooler.pid), "-o", counts], stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)  # attaching takes a moment
        load = pgbench(postgres, pooler, mode, clients, options=["-S", "-t", str(each)])
        subprocess.run(load, check=True, capture_output=True, env=environment())
        trace.terminate()
        trace.wait()
        calls = {}
        with open(counts) as text:
            for line in text:
                fields = line.split()
                if len(fields) >= 5 and fields[3].isdigit() and fields[-1] != "total":
                    calls[fields[-1]] = int(fields[3]) / (clients * each)
    finally:
        if trace.poll() is None:
            trace.kill()
        os.unlink(counts)
    return dict(sorted(calls.items(), key=lambda item: -item[1]))
