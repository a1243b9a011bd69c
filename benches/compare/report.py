"""The report: what was measured where, and each section as its module wrote it."""

import os
import platform
import time
from dataclasses import dataclass
from statistics import median

from figures import Series


@dataclass
class Facts:
    versions: list
    settings: dict
    postgres: dict
    load_before: float
    seconds: float


def render(sections, facts):
    return "\n\n".join(["\n".join(_head(facts)), *("\n".join(lines) for lines in sections)]) + "\n"


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
    lines.append(f"- PostgreSQL: {postgres}; it, pgbench (scale 5) and the poolers share the cores, over loopback")
    return lines


def cells(pgbench, names, pairs, each):
    """The section of pgbench's cells: Cell → [(ours, theirs)]."""
    bracket = "smallest and largest" if pairs < 5 else "the middle half"
    lines = [
        "## CPU per transaction",
        "",
        f"Median of {pairs} interleaved pairs of {each} s; in brackets {bracket} of the pairs' ratios. "
        "CPU is user and system time of the pooler's process. Latency as pgbench saw it, a tenth of the transactions.",
        "",
        f"| cell | {names[0]} | {names[1]} | ratio of CPU | goal | tps ratio | p50 ratio | p99 ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell, runs in pgbench.items():
        figure = {name: Series([getattr(a, name) for a, _ in runs], [getattr(b, name) for _, b in runs]) for name in ("cpu", "tps", "p50", "p99")}
        cpu = figure["cpu"]
        goal = f"≤ {cell.goal:.2f}" if cell.goal else ""
        others = " | ".join(_ratio(figure[name]) for name in ("tps", "p50", "p99"))
        lines.append(f"| {cell.name()} | {median(cpu.ours):.1f} µs | {median(cpu.theirs):.1f} µs | **{cpu.ratio():.2f}** {_spread(cpu)} | {goal} | {others} |")
    return lines


def added(pgbench, direct):
    """The section on what the hop adds for a client that is alone: Cell → [(ours, theirs)], Cell → [PostgreSQL itself]."""
    lines = ["## Latency added, one client", "", "Median of p50 as pgbench saw it, and what is more than without a pooler.", ""]
    lines += ["| | PostgreSQL itself | Poolkeeper adds | PgBouncer adds |", "|---|---|---|---|"]
    for cell, runs in direct.items():
        alone = median(run.p50 for run in runs)
        ours, theirs = (median(pair[side].p50 for pair in pgbench[cell]) - alone for side in (0, 1))
        lines.append(f"| {cell.mode} | {alone * 1000:.0f} µs | {ours * 1000:.0f} µs | {theirs * 1000:.0f} µs |")
    return lines


def _spread(series):
    low, high = series.spread()
    return f"({low:.2f}–{high:.2f})"


def _ratio(series):
    return f"{series.ratio():.2f} {_spread(series)}"
