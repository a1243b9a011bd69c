"""What the runs found, kept in results/SUITE.json, and README.md made of it."""

import fnmatch
import json
import os
import re
import tomllib

HERE = os.path.dirname(os.path.abspath(__file__))
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def say(text):
    print(f"==> {text}", flush=True)


def note(text):
    print(f"    {text}", flush=True)


def load(name):
    """What is known of a suite."""
    path = f"{HERE}/results/{name}.json"
    if not os.path.exists(path):
        return {"title": "", "columns": {}}
    with open(path) as text:
        return json.load(text)


def save(known, name):
    os.makedirs(f"{HERE}/results", exist_ok=True)
    with open(f"{HERE}/results/{name}.json", "w") as out:
        json.dump(known, out, indent=1, sort_keys=True)
        out.write("\n")


def line(run):
    """A run in a line."""
    text = f"{_count(run, 'pass')} passed, {_count(run, 'fail')} failed, {_count(run, 'skip')} skipped in {run.seconds:.0f} s"
    seen = run.figures
    if "pins" in seen:
        text += f"; {seen['own_transactions']} transactions of its own, pins {seen['pins']}, at most {seen['most_pinned']} pinned, {seen['most_held']} held"
    others = seen["background"]
    text += f"; background: {others['transactions']} transactions, {others['wrong']} wrong, errors {others['errors']}"
    if others["wrong"]:
        text += f" {others['wrong_examples']}"
    return text


def enter(known, suite, column, run, direct):
    """Puts a run in. `direct` holds the outcomes of the direct run by name, or nothing if it was run elsewhere: what is kept in the
    tree is the counts, the differences, and what fails directly."""
    known["title"] = suite.title
    entry = {outcome: _count(run, outcome) for outcome in ("pass", "fail", "skip")}
    entry.update(seconds=round(run.seconds), figures=run.figures)
    failed = {test: outcome for test, outcome in run.tests.items() if outcome not in ("pass", "skip")}
    if column == "direct":
        entry["failed"] = sorted(failed)
    elif not direct:
        known_to_fail = known["columns"]["direct"].get("failed", [])
        entry["differences"] = {test: outcome for test, outcome in sorted(failed.items()) if test not in known_to_fail}
    else:
        passed = {test for test, outcome in direct.items() if outcome == "pass"}
        entry["differences"] = {test: run.tests.get(test, "did not run") for test in sorted(passed) if run.tests.get(test) != "pass"}
    known["columns"][column] = entry


def _count(run, outcome):
    return sum(1 for found in run.tests.values() if found == outcome)


def explanation(suite, column, test):
    """Why a test differs, by explained.toml: the first entry that fits."""
    with open(f"{HERE}/explained.toml", "rb") as text:
        entries = tomllib.load(text)["difference"]
    for entry in entries:
        fits = fnmatch.fnmatchcase(suite, entry["suite"]) and fnmatch.fnmatchcase(column, entry.get("column", "*"))
        if fits and any(_names(pattern, test) for pattern in entry["tests"]):
            return entry["why"]
    return None


def _names(pattern, test):
    """The whole of a test's name, its last part, or what it belongs to: a JUnit test's parameters, a Go test's cases, a class's tests."""
    test = re.sub(r"(\{.*\})?(\[\d+\])?$", "", test)
    return f" {pattern}/" in f" {test}/" or f".{pattern}." in f".{test}."


def write(suites):
    """README.md's part between the marks."""
    known = [(name, load(name)) for name in suites]
    parts = [_table(known), _figures(known), _differences(known)]
    path = f"{HERE}/README.md"
    with open(path) as text:
        before, rest = text.read().split(BEGIN)
    after = rest.split(END)[1]
    with open(path, "w") as out:
        out.write(before + BEGIN + "\n\n" + "\n\n".join(parts) + "\n\n" + END + after)


def _table(known):
    rows = ["| suite | direct | session | transaction |", "|---|---|---|---|"]
    for _, suite in known:
        if suite["columns"]:
            rows.append(f"| {suite['title']} | " + " | ".join(_cell(suite["columns"].get(column)) for column in ("direct", "session", "transaction")) + " |")
    return "Passed / failed / skipped, and in how many tests that differs from the direct run:\n\n" + "\n".join(rows)


def _cell(entry):
    if entry is None:
        return "not run"
    text = f"{_number(entry['pass'])} / {entry['fail']} / {entry['skip']}"
    if "differences" in entry:
        text += f", **{len(entry['differences'])}** differ"
    return text


def _figures(known):
    rows = [
        "| suite | column | commit | servers | transactions | checkouts | pins | most pinned at once | most held at once | quiet | background transactions | of them wrong, failed |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for _, suite in known:
        for column in ("session", "transaction"):
            entry = suite["columns"].get(column)
            if entry:
                rows.append(f"| {suite['title']} | {column} | " + " | ".join(_row(entry["figures"])) + " |")
    return (
        "What went through. Transactions and checkouts are the suite's own; held and pinned are servers, looked at ten times a second; quiet is how often the database counted as [quiet](../../docs/session-state.md) then. No background client was ever pinned"
        + ("" if _never_pinned(known) else ", **but for those named**")
        + ".\n\n"
        + "\n".join(rows)
    )


def _never_pinned(known):
    return not any(entry["figures"].get("background_pinned") for _, suite in known for entry in suite["columns"].values())


def _row(seen):
    others = seen["background"]
    pins = ", ".join(f"{reason} {_number(count)}" for reason, count in sorted(seen["pins"].items(), key=lambda item: -item[1])) or "none"
    wrong = f"{others['wrong']}, {sum(others['errors'].values())}"
    if seen["background_pinned"]:
        wrong += f"; pinned: {', '.join(seen['background_pinned'])}"
    quiet = f"{seen['quiet_percent']} %" if "quiet_percent" in seen else ""
    cells = (seen["servers"], seen["own_transactions"], seen["own_checkouts"])
    return [seen["commit"], *map(_number, cells), pins, str(seen["most_pinned"]), str(seen["most_held"]), quiet, _number(others["transactions"]), wrong]


def _number(count):
    return f"{count:,}".replace(",", " ")


def _differences(known):
    """Each difference once, with its reason; those that two columns share are told together."""
    parts = []
    for name, suite in known:
        reasons = {}
        for column in ("session", "transaction"):
            for test, outcome in suite["columns"].get(column, {}).get("differences", {}).items():
                why = explanation(name, column, test) or f"**not explained** ({outcome})"
                reasons.setdefault(why, {}).setdefault(test, []).append(column)
        if reasons:
            lines = [f"**{suite['title']}**", ""]
            for why, tests in reasons.items():
                shown = ", ".join(f"`{test}` ({' and '.join(columns)})" for test, columns in _tops(tests).items())
                lines.append(f"- {why}: {shown}")
            parts.append("\n".join(lines))
    return "## The differences\n\n" + ("\n\n".join(parts) or "None.")


def _tops(tests):
    """Without the cases below a test that is named itself."""
    return {test: columns for test, columns in tests.items() if not any(test.startswith(f"{other}/") for other in tests)}
