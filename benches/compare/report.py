"""The report: medians, spreads, ratios, and all it takes to judge them."""

import os
import platform
import time
from dataclasses import dataclass, field
from statistics import median

from figures import Series, middle

CALL_CELLS = (("simple", 16), ("simple", 64), ("extended", 64), ("prepared", 64))


@dataclass
class Results:
    pgbench: dict = field(default_factory=dict)  # Cell → [(ours, theirs)]
    memory: dict = field(default_factory=dict)  # name → [(RSS kB, bytes per client, the same after a query)]
    calls: dict = field(default_factory=dict)  # (mode, clients, name) → {call: per transaction}
    reload: dict = field(default_factory=dict)  # (name, load) → (grown, shrunk), lists of Effects


@dataclass
class Facts:
    versions: list
    names: list
    settings: dict
    postgres: dict
    load_before: float
    seconds: float
    pairs: int
    each: int


def render(results, facts):
    parts = [_head(facts)]
    if results.pgbench:
        parts.append(_pgbench(results.pgbench, facts))
    if results.memory:
        parts.append(_memory(results.memory))
    if results.calls:
        parts.append(_calls(results.calls))
    if results.reload:
        parts.append(_reload(results.reload))
    return "\n\n".join(parts) + "\n"


def _head(facts):
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    postgres = ", ".join(f"{name} {value}" for name, value in facts.postgres.items())
    lines = [
        "# Poolkeeper and PgBouncer, side by side",
        "",
        "Written by `make bench`; do not edit. Ratios are Poolkeeper's figure over PgBouncer's of the same run: below 1 is better.",
        "",
        f"- {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, {os.cpu_count()} cores ({cpu}), Linux {platform.release()}; "
        f"load average before the start {facts.load_before:.1f}; {facts.seconds / 60:.0f} minutes",
        f"- {'; '.join(facts.versions)}",
    ]
    lines += [f"- {name}: {text}" for name, text in facts.settings.items()]
    lines.append(f"- PostgreSQL: {postgres}; it, pgbench (-S, scale 5) and the poolers share the cores, over loopback")
    return "\n".join(lines)


def _pgbench(pgbench, facts):
    lines = [
        "## CPU per transaction",
        "",
        f"Median of {facts.pairs} interleaved pairs of {facts.each} s; in brackets {_bracket(facts.pairs)} of the pairs' ratios. "
        "CPU is user and system time of the pooler's process. Latency as pgbench saw it, a tenth of the transactions.",
        "",
        f"| cell | {facts.names[0]} | {facts.names[1]} | ratio of CPU | goal | tps ratio | p50 ratio | p99 ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell, pairs in pgbench.items():
        figure = {name: Series([getattr(a, name) for a, _ in pairs], [getattr(b, name) for _, b in pairs]) for name in ("cpu", "tps", "p50", "p99")}
        cpu = figure["cpu"]
        goal = f"≤ {cell.goal:.2f}" if cell.goal else ""
        others = " | ".join(_ratio(figure[name]) for name in ("tps", "p50", "p99"))
        lines.append(f"| {cell.name()} | {median(cpu.ours):.1f} µs | {median(cpu.theirs):.1f} µs | **{cpu.ratio():.2f}** {_spread(cpu)} | {goal} | {others} |")
    return "\n".join(lines)


def _bracket(pairs):
    return "smallest and largest" if pairs < 5 else "the middle half"


def _spread(series):
    low, high = series.spread()
    return f"({low:.2f}–{high:.2f})"


def _ratio(series):
    return f"{series.ratio():.2f} {_spread(series)}"


def _memory(memory):
    lines = ["## Memory", "", "A fresh process, 1 server open; then 1000 clients that logged in (SCRAM), then the same after a query each.", ""]
    lines += ["| | RSS | per idle client | per idle client that has queried |", "|---|---|---|---|"]
    for name, rounds in memory.items():
        start, idle, queried = (median(values) for values in zip(*rounds))
        lines.append(f"| {name} | {start / 1024:.1f} MB | {idle:.0f} bytes | {queried:.0f} bytes |")
    lines.append("| goal | ≤ 8 MB | ≤ 2500 bytes | ≤ 2500 bytes |")
    return "\n".join(lines)


def _calls(calls):
    lines = ["## System calls per transaction", "", "By `strace -c` around a whole load, so logging in has its small share in it.", ""]
    lines += ["| load | pooler | in all | of which |", "|---|---|---|---|"]
    for (mode, clients, name), counts in calls.items():
        lines.append(f"| {mode}, {clients} clients | {name} | {sum(counts.values()):.2f} | {calls_text(counts)} |")
    return "\n".join(lines)


def calls_text(counts):
    return ", ".join(f"{name} {count:.2f}" for name, count in counts.items() if count >= 0.01)


def _reload(reload):
    lines = [
        "## Reload under saturation",
        "",
        "64 clients without pause on a pool of 5, all of them waiting or served; with processors free a transaction sleeps 4 ms at the server "
        "(a shrink has to wait for those that run), else it is pgbench's select and PostgreSQL's processes begin and end on cores that the load has filled. The configuration file is renamed into place with 20, later with 5 (PgBouncer: and SIGHUP). "
        "Grow: until the first query ran on a new server; shrink: until PostgreSQL counts no more than 5. In PostgreSQL's own view, from the rename and, "
        "where the pooler says when it applied the file, from then. PostgreSQL itself: a login until its first answer, and fifteen sessions that end at once; "
        "no pooler can be faster than that.",
        "",
        "| | load | grow, median (max) | of which after applying | shrink, median (max) | of which after applying |",
        "|---|---|---|---|---|---|",
    ]
    for (name, load), effects in reload.items():
        cells = " | ".join(times_text([getattr(e, since) for e in kind]) for kind in effects for since in ("saved", "applied"))
        lines.append(f"| {name} | {load} | {cells} |")
    lines.append("| goal | | | < 5 ms | | < 10 ms |")
    return "\n".join(lines)


def times_text(times):
    """Median and maximum in milliseconds; times that never came are said."""
    came = [value for value in times if value is not None]
    missed = len(times) - len(came)
    if not came:
        return "–"
    text = f"{median(came):.1f} ms ({max(came):.1f})"
    return text + (f", {missed} of {len(times)} not within 2 s" if missed else "")
