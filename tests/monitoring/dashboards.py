"""The dashboards: well formed, and every query of every panel returns data."""

import glob
import json
import os
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "1m", "$__range": "1m", "$namespace": ".*", "$policy": ".*", "$pod": ".*"}
# Prometheus needs some scrapes, and some metrics an event.
PATIENCE = 45


def read():
    """All dashboards by name."""
    boards = {}
    for path in sorted(glob.glob(f"{ROOT}/charts/poolkeeper/files/dashboards/*.json")):
        with open(path) as text:
            boards[os.path.basename(path)] = json.load(text)
    return boards


def queries(board):
    """(panel's title, query) of each."""
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            yield panel["title"], query


def check_form(boards):
    """What Grafana expects of a dashboard that is brought in by provisioning."""
    problems = []
    for name, board in boards.items():
        ids = [panel["id"] for panel in board["panels"]]
        if len(ids) != len(set(ids)):
            problems.append(f"{name}: two panels have one id")
        if board.get("id") is not None or not board["uid"] or not board["title"]:
            problems.append(f"{name}: it needs a uid and a title, and no id")
        places = set()
        for panel in board["panels"]:
            where = f"{name}: {panel['title']}"
            grid = panel["gridPos"]
            cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
            if grid["x"] + grid["w"] > 24 or places & cells:
                problems.append(f"{where}: it overlaps another panel or the edge")
            places |= cells
            if panel["type"] == "row":
                continue
            if not panel["targets"] or panel["datasource"]["uid"] != "${datasource}":
                problems.append(f"{where}: no query, or of a data source that is not the variable's")
            refs = [target["refId"] for target in panel["targets"]]
            if len(refs) != len(set(refs)):
                problems.append(f"{where}: two queries have one refId")
        for _, query in queries(board):
            if "$" in query:
                problems.append(f"{name}: an unknown variable in {query}")
    return problems


def check(prometheus, boards):
    """Every query of every panel returns data, and every variable has values."""
    left = {(name, title, query) for name, board in boards.items() for title, query in queries(board)}
    total, deadline = len(left), time.monotonic() + PATIENCE
    while left and time.monotonic() < deadline:
        left = {item for item in left if not prometheus.has_data(item[2])}
        if left:
            time.sleep(1)
    problems = [f"{name}: {title}: no data from {query}" for name, title, query in sorted(left)]
    for name, board in boards.items():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query" and not label_values(prometheus, variable["definition"]):
                problems.append(f"{name}: variable {variable['name']} has no values")
    print(f"    {total - len(left)} of {total} queries return data", flush=True)
    return problems


def label_values(prometheus, definition):
    """What Grafana does with label_values(SERIES, LABEL)."""
    series, label = definition.removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
    for name, value in VARIABLES.items():
        series = series.replace(name, value)
    return {found.get(label) for found in prometheus.get("series", **{"match[]": series})} - {None}
