"""The alerts: valid, tested both ways, documented, and loaded by a real Prometheus."""

import os
import re
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RULES = f"{ROOT}/charts/poolkeeper/files/alerts/poolkeeper.yaml"
TESTS = f"{ROOT}/tests/monitoring/rules.yaml"
DOCS = f"{ROOT}/docs/monitoring.md"


def read(path):
    with open(path) as text:
        return text.read()


def check(prometheus):
    """promtool's checks, and that every alert has its tests and its lines in the docs."""
    problems = []
    for command in (["check", "rules", RULES], ["test", "rules", TESTS]):
        done = subprocess.run([f"{prometheus}/promtool", *command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            problems.append(f"promtool {' '.join(command[:2])}: {done.stdout}{done.stderr}")
    rules, tests, docs = read(RULES), read(TESTS), read(DOCS)
    for piece in re.split(r"^ +- (?=alert:|record:|name:)", rules, flags=re.MULTILINE):
        if not piece.startswith("alert:"):
            continue
        alert, body = piece.removeprefix("alert:").strip().split("\n", 1)
        fires = re.findall(rf"labels: 'ALERTS{{alertname=\"{alert}\", (.*?)}}'", tests)
        if not fires:
            problems.append(f"{alert}: no test in which it fires")
        if not re.search(rf"{alert} is silent", tests):
            problems.append(f"{alert}: no test in which it is silent")
        if f"### {alert}" not in docs:
            problems.append(f"{alert}: docs/monitoring.md says nothing of it")
        # A label that the alert does not carry would be an empty place in the text.
        carried = set(re.findall(r"(\w+)=", fires[0])) if fires else set()
        for label in set(re.findall(r"\$labels\.(\w+)", body)) - carried:
            problems.append(f"{alert}: its text names the label {label}, which it has not")
        for part in ("severity:", "summary:", "description:"):
            if part not in body:
                problems.append(f"{alert}: no {part[:-1]}")
    return problems


def check_loaded(prometheus):
    """Every rule was evaluated without an error, and the recording rules have results."""
    problems = []
    for group in prometheus.get("rules")["groups"]:
        for rule in group["rules"]:
            if rule["health"] != "ok":
                problems.append(f"rule {rule['name']}: {rule['health']}: {rule.get('lastError', '')}")
            if rule["type"] == "recording" and not prometheus.has_data(rule["name"]):
                problems.append(f"rule {rule['name']} has no result")
    return problems
