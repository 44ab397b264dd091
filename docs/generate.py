"""Writes the tables of the guides from the code: settings, metrics, commands, exit codes, fields, reasons, log events;
and those and the pictures of docs/performance.md from the benchmarks' results.

    python docs/generate.py            write them (`make docs`)
    python docs/generate.py --check    write nothing; exit 1 and name the files whose tables differ

A table stands between two comments, and the words behind the colon say which one it is:

    <!-- generated: metrics -->
    <!-- end -->

What is written here is in the code once: a setting's and an exit code's purpose is the docstring below it, a metric's
is its help text, a field's is its `doc` in the Avro schema, a command's is the first line of its docstring.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

ROOT = Path(__file__).resolve().parents[1]
_MARKED = re.compile(r"(<!-- generated: (?P<what>[^>]+?) -->\n)(?P<table>.*?)(<!-- end -->\n)", re.DOTALL)

Table = Iterable[str]


def attribute_docs(cls: type) -> dict[str, str]:
    """The docstring below each attribute of a class, on one line."""
    (definition,) = ast.parse(
        inspect.cleandoc("if True:\n" + inspect.getsource(cls)).removeprefix("if True:\n")
    ).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, after in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            target = statement.target if isinstance(statement, ast.AnnAssign) else None
            if isinstance(statement, ast.Assign):
                target = statement.targets[0]  # type: ignore[assignment]
            if isinstance(target, ast.Name):
                found[target.id] = _one_line(str(after.value.value))
    return found


def metrics() -> Iterator[str]:
    """Every metric: name, type, labels, help text."""
    from consumer.ops.metrics import Metrics

    yield "| metric | type | labels | meaning |"
    yield "| --- | --- | --- | --- |"
    registry = Metrics().registry
    for collector in _collectors(registry):
        (metric,) = collector.describe()
        suffix = "_total" if metric.type == "counter" else ""
        labels = ", ".join(collector._labelnames) or "-"
        yield f"| `{metric.name}{suffix}` | {metric.type} | {labels} | {metric.documentation} |"


def commands() -> Iterator[str]:
    """Every command and the first line of its help."""
    import typer.main

    from consumer.cli.app import app

    yield "| command | what it does |"
    yield "| --- | --- |"
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        nested = getattr(command, "commands", None)
        for full, each in (
            [(f"{name} {sub}", one) for sub, one in nested.items()] if nested else [(name, command)]
        ):
            yield f"| `virnucpro {full}` | {_one_line((each.help or '').split(chr(10) * 2)[0])} |"


def exit_codes() -> Iterator[str]:
    """Every exit code of the commands."""
    from consumer.errors import ExitCode

    yield "| exit code | name | meaning |"
    yield "| --- | --- | --- |"
    docs = attribute_docs(ExitCode)
    for code in ExitCode:
        yield f"| {code.value} | `{code.name}` | {docs[code.name]} |"


def fields(record_name: str) -> Iterator[str]:
    """The fields of one record of the schemas."""
    from schemas import SCHEMA_NAMES, schema_json

    yield "| field | type | meaning |"
    yield "| --- | --- | --- |"
    for name in SCHEMA_NAMES:
        for record in _records(json.loads(schema_json(name))):
            if record["name"] == record_name:
                for member in record["fields"]:
                    yield f"| `{member['name']}` | {_type_name(member['type'])} | {member['doc']} |"


def reasons() -> Iterator[str]:
    """The closed list of dead-letter reasons, as the schema documents them."""
    from schemas import Reason, schema_json

    letter = json.loads(schema_json("dead_letter"))
    (reason,) = [member["type"] for member in letter["fields"] if member["name"] == "reason"]
    documented: dict[str, str] = {}
    for names, meaning in re.findall(r"((?:[a-z_]+, )*[a-z_]+): (.*?)\.(?= |$)", reason["doc"]):
        documented |= dict.fromkeys(names.split(", "), meaning)
    yield "| reason | meaning |"
    yield "| --- | --- |"
    for each in Reason:
        yield f"| `{each.value}` | {documented[each.value]} |"


def settings(*names: str) -> Iterator[str]:
    """Settings, by the names of their fields: variable, default, what it takes, what for."""
    from consumer.config.settings import ServiceSettings, load_settings

    shown = load_settings({}).masked()
    purposes: dict[str, str] = {}
    for cls in reversed(ServiceSettings.__mro__):
        if cls.__module__ == ServiceSettings.__module__:
            purposes |= attribute_docs(cls)
    yield "| variable | default | takes | what for |"
    yield "| --- | --- | --- | --- |"
    for name in names:
        variable = f"VIRNUCPRO_{name.upper()}"
        default = _DEFAULTS.get(name) or _WORDS.get(str(shown[variable]), shown[variable])
        takes = ServiceSettings.model_fields[name].description
        yield f"| `{variable}` | {default} | {takes} | {purposes[name]} |"


def priorities() -> Iterator[str]:
    """The settings that VIRNUCPRO_PRIORITY gives a default, for each priority."""
    from consumer.config.priority import BUDGET_SHARES, PRIORITIES
    from consumer.config.settings import ServiceSettings

    yield f"| | {' | '.join(f'`{priority}`' for priority in PRIORITIES)} |"
    yield "| --- " * (1 + len(PRIORITIES)) + "|"
    budget = {1: "by device", 4: "a quarter of that"}
    for name in dict.fromkeys(["token_budget", *(name for given in PRIORITIES.values() for name in given)]):
        usual = ServiceSettings.model_fields[name].default
        values = [
            given.get(name, budget[BUDGET_SHARES[priority]] if name == "token_budget" else usual)
            for priority, given in PRIORITIES.items()
        ]
        yield f"| `VIRNUCPRO_{name.upper()}` | {' | '.join(map(str, values))} |"


def log_events() -> Iterator[str]:
    """Every log event of the service: level, fields, meaning."""
    from consumer.ops.log_events import EVENTS

    yield "| event | level | fields | meaning |"
    yield "| --- | --- | --- | --- |"
    calls = log_calls()
    for event in sorted(EVENTS):
        levels = ", ".join(sorted({level for level, _ in calls.get(event, ())}))
        names = sorted({name for _, keywords in calls.get(event, ()) for name in keywords})
        yield f"| `{event}` | {levels} | {', '.join(names) or '-'} | {EVENTS[event]} |"


def log_calls() -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """Every call in the product that logs an event of constant name: by event, the (level, fields) of each call."""
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for path in sorted((ROOT / "consumer").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            names = tuple(name for keyword in node.keywords for name in _field_names(keyword))
            if ast.unparse(node.func) == "rejection.log":
                names = ("topic", "error", "alone")
            for level in _levels(node.func):
                found.setdefault(str(node.args[0].value), []).append((level, names))
    return found


def _field_names(keyword: ast.keyword) -> tuple[str, ...]:
    """The fields that one argument of a logging call adds."""
    from consumer.types import InFlight

    if keyword.arg is None:
        return InFlight._fields if ast.unparse(keyword.value) == "in_flight._asdict()" else ()
    return (keyword.arg,)


def _levels(function: ast.expr) -> list[str]:
    """At which levels a call of this function logs; none if it does not log."""
    if isinstance(function, ast.IfExp):
        return _levels(function.body) + _levels(function.orelse)
    match ast.unparse(function).split("."):
        case ["log", level] if level in _LEVELS:
            return [level]
        case ["self", "_warn"] | ["rejection", "log"]:
            return ["warning"]
    return []


def chaos_faults() -> Iterator[str]:
    """Every kind of fault of the chaos runs, and what must come of it."""
    from tests.chaos.faults import ROWS

    yield "| fault | what it does | what the checker expects, beside one answer for each record |"
    yield "| --- | --- | --- |"
    for kind, row in ROWS.items():
        yield f"| `{kind}` | {row.does} | {row.expects} |"


def load_test() -> Iterator[str]:
    """What the last run of `benchmarks.load` found."""
    report = json.loads((ROOT / "benchmarks/results/load.json").read_text(encoding="utf-8"))
    yield "| page | asked | failed | p50 | p99 | longest | p99 without load |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row, quiet in zip(report["loaded"], report["quiet"], strict=True):
        times = (row["p50_s"], row["p99_s"], row["longest_s"], quiet["p99_s"])
        shown = " | ".join(f"{seconds * 1000:.0f} ms" for seconds in times)
        yield f"| `{row['page']}` | {row['asked']} | {row['failed']} | {shown} |"
    memory, machine = report["memory"], report["machine"]
    yield ""
    yield (
        f"{report['seconds']:.0f} s at commit {report['commit']} on {machine['cores']} cores (load average"
        f" {machine['load_average']:.1f} at the end): {report['offered_records_per_s']:,.0f} records a second offered,"
        f" {report['capacity_records_per_s']:,.0f} is what it answers; {report['connections']} connections held,"
        f" opened {report['connections_opened']:,} times; memory {memory['rss_mib'][0]:,.0f} to"
        f" {memory['rss_mib'][1]:,.0f} MiB, files {memory['fds'][0]} to {memory['fds'][1]} after the first third;"
        f" of {report['published']:,} records {report['behind_at_the_end']:,} were left to a next process,"
        f" {report['lost']} lost, {report['twice']} answered twice."
    )


def performance(name: str) -> Iterator[str]:
    """A table of the benchmarks' results."""
    from benchmarks import tables

    yield from tables.table(name)


def measured_on(name: str) -> Iterator[str]:
    """The machine and the versions of a benchmark's result, and what it could not run."""
    from benchmarks import tables

    yield from tables.measured_on(name)


TABLES: dict[str, Callable[..., Table]] = {
    "chaos faults": chaos_faults,
    "commands": commands,
    "exit codes": exit_codes,
    "fields": fields,
    "load test": load_test,
    "log events": log_events,
    "measured on": measured_on,
    "metrics": metrics,
    "performance": performance,
    "reasons": reasons,
    "settings": settings,
    "priorities": priorities,
}
_LEVELS = ("debug", "info", "warning", "error", "critical")
_WORDS = {"True": "on", "False": "off", "None": "unset"}
_DEFAULTS = {
    "instance_id": "see below",
    "delivery": "see below",
    "token_budget": "by device",
    "state_dir": "see below",
}
"""Defaults that depend on the machine or on other settings."""


def generated(text: str) -> str:
    """A guide with its tables as the code has them now."""

    def table(match: re.Match[str]) -> str:
        words = match["what"]
        name = next(name for name in TABLES if words == name or words.startswith(name + " "))
        lines = TABLES[name](*words.removeprefix(name).split())
        return match[1] + "\n" + "".join(f"{line}\n" for line in lines) + "\n" + match[4]

    return _MARKED.sub(table, text)


def files() -> Iterator[tuple[Path, str]]:
    """Everything that is written here, with the content that it should have."""
    from benchmarks.pictures import pictures

    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        yield path, generated(path.read_text(encoding="utf-8"))
    for name, picture in pictures():
        yield ROOT / "docs" / "performance" / name, picture


def main(check: bool) -> int:
    """Write the tables and pictures, or name the files that differ; the exit code."""
    differ = []
    for path, after in files():
        if not path.exists() or path.read_text(encoding="utf-8") != after:
            differ.append(str(path.relative_to(ROOT)))
            if not check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(after, encoding="utf-8")
    if differ and check:
        print(f"tables differ from the code: {', '.join(differ)}; run `make docs`", file=sys.stderr)
    return int(bool(differ) and check)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _collectors(registry: CollectorRegistry) -> list[Any]:
    """The metrics of a registry that are our own, in the order in which they were made."""
    return [each for each in dict.fromkeys(registry._collector_to_names) if _is_ours(each)]


def _is_ours(collector: Any) -> bool:
    described: Iterable[Metric] = getattr(collector, "describe", list)()
    return any(metric.name.startswith("vnp_") for metric in described)


def _records(schema: Any) -> Iterator[dict[str, Any]]:
    """A record schema and those inside it."""
    if isinstance(schema, list):
        for branch in schema:
            yield from _records(branch)
    elif isinstance(schema, dict):
        if schema["type"] == "record":
            yield schema
        yield from _records(schema.get("items"))
        for member in schema.get("fields", []):
            yield from _records(member["type"])


def _type_name(schema: Any) -> str:
    if isinstance(schema, str):
        return schema
    if isinstance(schema, list):
        return " or ".join(_type_name(branch) for branch in schema)
    if schema["type"] == "array":
        return f"array of {_type_name(schema['items'])}"
    if schema["type"] == "map":
        return f"map of {_type_name(schema['values'])}"
    return str(schema["name"])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(check="--check" in sys.argv[1:]))
