"""Dashboard, rules and runbook name what exists: metrics, labels, their values, alerts, settings, log events."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from consumer.config.settings import ServiceSettings
from consumer.ops import log_events
from consumer.ops.metrics import Metrics
from deploy.monitoring import dashboard
from tests.deploy.pictures import file_name

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "deploy/monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
OF_THE_TARGET = {"namespace", "job", "instance"}
OF_PROMETHEUS = {"up", "process_start_time_seconds"}
EVERY_RULE = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in EVERY_RULE if "alert" in rule}
RECORDED = {rule["record"] for rule in EVERY_RULE if "record" in rule}


SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def catalogue() -> dict[str, MetricWrapperBase]:
    """Each name of a series that /metrics may show, with its metric."""
    metrics = [each for each in Metrics().registry._collector_to_names if isinstance(each, MetricWrapperBase)]
    return {f"{metric._name}{suffix}": metric for metric in metrics for suffix in SUFFIXES[metric._type]}


def panels() -> dict[str, str]:
    """Title and legend -> query."""
    return {
        f"{panel['title']}: {target['legendFormat']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    }


def queries() -> dict[str, str]:
    """Name -> PromQL of every rule and every panel, Grafana's interval replaced."""
    of_rules = {rule.get("alert") or rule["record"]: rule["expr"] for rule in EVERY_RULE}
    return of_rules | {name: query.replace("$__rate_interval", "5m") for name, query in panels().items()}


def children(expression: Any) -> Iterator[Any]:
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if (child := getattr(expression, name, None)) is not None:
            yield child
    yield from getattr(expression, "args", ())


def parts(expression: Any) -> Iterator[Any]:
    """An expression and all that is in it."""
    yield expression
    for child in children(expression):
        yield from parts(child)


def selectors(query: str) -> list[Any]:
    found = parts(promql_parser.parse(query))
    return [part for part in found if isinstance(part, promql_parser.VectorSelector)]


def problems(query: str) -> list[str]:
    """What a query names that does not exist."""
    found, metrics = [], catalogue()
    available = set(OF_THE_TARGET)
    for selector in selectors(query):
        if selector.name in OF_PROMETHEUS | RECORDED:
            continue
        if selector.name not in metrics:
            found.append(f"unknown metric {selector.name}")
            continue
        metric = metrics[selector.name]
        labels = {*metric._labelnames, *(["le"] if selector.name.endswith("_bucket") else [])}
        available |= labels
        for matcher in selector.matchers.matchers:
            if matcher.name not in labels | OF_THE_TARGET:
                found.append(f"{selector.name} has no label {matcher.name}")
            elif matcher.name in metric._labelnames and metric._metrics:
                at = metric._labelnames.index(matcher.name)
                values = {child[at] for child in metric._metrics}
                found += [
                    f"{selector.name} never has {matcher.name}={value}"
                    for value in matcher.value.split("|")
                    if value not in values and matcher.value != ".+"
                ]
    for part in parts(promql_parser.parse(query)):
        modifier = getattr(part, "modifier", None)
        grouped = modifier.labels if isinstance(part, promql_parser.AggregateExpr) and modifier else ()
        found += [f"grouped by {label}, which nothing has" for label in grouped if label not in available]
    return found


@pytest.mark.parametrize("name", queries())
def test_every_query_names_what_exists(name):
    assert problems(queries()[name]) == []


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("rate(vnp_nothing_total[5m])", "unknown metric vnp_nothing_total"),
        ("vnp_records", "unknown metric vnp_records"),
        ('vnp_commits_total{kind="ok"}', "vnp_commits_total has no label kind"),
        ('vnp_commits_total{outcome=~"ok|fine"}', "vnp_commits_total never has outcome=fine"),
        ("sum by (reason) (vnp_commits_total)", "grouped by reason, which nothing has"),
        ('vnp_broker_up{le="1"}', "vnp_broker_up has no label le"),
    ],
)
def test_a_query_that_names_something_else_would_be_seen(query, problem):
    assert problems(query) == [problem]


# ---- rules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_selector_has_the_part_that_the_chart_replaces(rule):
    texts = re.findall(r"[{]([^}]*)[}]", rule["expr"])
    assert len(selectors(rule["expr"])) == len(texts)
    assert [text for text in texts if 'job=~".*virnucpro.*"' not in text] == []


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_its_texts_and_its_section_in_the_runbook(alert):
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"
    section = sections()[alert]
    for part in ("**Means.**", "**Look at.**", "**Do.**"):
        assert section.count(part) == 1
    assert f"({rule['labels']['severity']})" in " ".join(section.split())


def sections() -> dict[str, str]:
    _, *found = re.split(r"^## ", RUNBOOK, flags=re.M)
    return dict(text.split("\n", 1) for text in found)


def test_every_section_of_the_runbook_has_its_alert():
    assert list(sections()) == list(ALERTS)


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not():
    fires: dict[str, set[bool]] = {}
    for case in yaml.safe_load((MONITORING / "rules-test.yaml").read_text())["tests"]:
        alert = case["name"].split(":")[0]
        (check,) = case["promql_expr_test"]
        fired = [f'alertname="{alert}"' in sample["labels"] for sample in check["exp_samples"]]
        fires.setdefault(alert, set()).add(any(fired))
    assert fires == {alert: {True, False} for alert in ALERTS}


# ---- dashboard -------------------------------------------------------------------------------------------------


def test_the_dashboard_is_what_the_program_writes():
    assert dashboard.FILE.read_text() == dashboard.text(), "run `make docs`"


def test_its_rows_are_questions():
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Is it up?", "Is it behind?", "Is it slow?", "Why?", "What does it refuse?"]


@pytest.mark.parametrize("name", panels())
def test_every_panel_is_of_what_is_selected_over_grafanas_interval(name):
    query = panels()[name]
    for selector in selectors(query.replace("$__rate_interval", "5m")):
        chosen = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
        assert {label: chosen[label] for label in OF_THE_TARGET} == {
            label: f"${label}" for label in OF_THE_TARGET
        }
    assert set(re.findall(r"\[([^\]]*)\]", query)) <= {"$__rate_interval"}


def test_panels_do_not_overlap_and_explain_themselves():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or panel["description"].endswith(".")


def test_its_variables_are_declared():
    declared = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert declared == ["datasource", "namespace", "job", "instance"]
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))
    assert used - {"__rate_interval", "__all"} == set(declared)


# ---- words of the runbook --------------------------------------------------------------------------------------


def test_the_runbook_names_what_exists():
    named = set(re.findall(r"`([^`]+)`", RUNBOOK))
    metrics = {word for text in named for word in re.findall(r"vnp_\w+", text)}
    assert metrics <= {*catalogue(), *(metric._name for metric in catalogue().values())}
    settings = {word for text in named for word in re.findall(r"VIRNUCPRO_([A-Z0-9_]+)", text)}
    known = {name.upper() for name in ServiceSettings.model_fields}
    assert {name for name in settings if name not in known and not name.startswith("KAFKA_")} == set()
    links = re.findall(r"\]\(#([\w-]+)\)", RUNBOOK)
    assert set(links) <= {title.lower() for title in sections()}


@pytest.mark.parametrize("alert", ALERTS)
def test_log_events_that_are_named_exist(alert):
    text = sections()[alert] + ALERTS[alert]["annotations"]["description"]
    events = re.findall(r"events? `?(\w+_\w+)", text)
    assert {event for event in events if event not in log_events.EVENTS} == set()


# ---- the guides -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["sizing.md", "upgrade.md", "disasters.md", "mirroring.md"])
def test_queries_of_a_guide_name_what_exists(page):
    text = (ROOT / "docs" / page).read_text()
    assert set(re.findall(r"vnp_\w+", text)) <= {*catalogue(), *(m._name for m in catalogue().values())}
    for query in re.findall(r"(?:^    |`)((?:sum|count)\b[^`\n]+)", text, re.MULTILINE):
        promql_parser.parse(query)
    assert set(re.findall(r"Virnucpro\w+", text)) <= set(ALERTS)


@pytest.mark.parametrize("page", ["http.md", "dashboard.md"])
def test_pictures_are_of_the_bundled_model(page):
    """They show its sha256: with another model take them again, by the command that the page names."""
    manifest = ROOT / "virnucpro_core/data/bundles/nano-500/manifest.json"
    sha256 = hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert f"`nano-500` ({sha256[:16]})" in (ROOT / "docs" / page).read_text()


def test_every_row_of_the_dashboard_has_its_picture():
    page = (ROOT / "docs/dashboard.md").read_text()
    names = [file_name(row) for row in dashboard.ROWS]
    assert re.findall(r"\(dashboard/(.+)\)", page) == names
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == [row.question for row in dashboard.ROWS]
    assert sorted(path.name for path in (ROOT / "docs/dashboard").iterdir()) == sorted(names)
