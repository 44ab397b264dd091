"""The tables of the guides are those that `make docs` writes from the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from consumer.config.settings import ServiceSettings
from consumer.errors import ExitCode
from consumer.ops.log_events import EVENTS
from schemas import SCHEMA_NAMES, Reason
from schemas.contracts import contract
from virnucpro_core.bundle.bundle import find_bundle, read_manifest

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
GUIDES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_the_tables_of_a_guide_are_up_to_date(generate, guide):
    text = guide.read_text(encoding="utf-8")
    assert generate.generated(text) == text, "run `make docs`"


def test_the_pictures_are_those_of_the_results(generate):
    pictures = [path for path, text in generate.files() if path.suffix == ".svg" and path.read_text() != text]
    assert pictures == [], "run `make docs`"


def test_a_table_that_differs_from_the_code_is_written_again(generate):
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert generate.generated(text.replace("| gauge |", "| counter |")) == text


def test_every_kind_of_table_is_in_a_guide(generate):
    texts = "".join(guide.read_text(encoding="utf-8") for guide in GUIDES)
    assert [name for name in generate.TABLES if f"<!-- generated: {name}" not in texts] == []


def test_the_readmes_accuracy_is_that_of_the_scores_that_people_get():
    """Chunks, and records by VirNucPro's rule: what `predict` and the service print."""
    found = read_manifest(find_bundle("nano"))[0].validation
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [
        ("{:,} chunks of 500 bp with an open frame", found["chunk"]),
        ("{:,} whole records, of any length", found["records_by_verdict_rule"]),
    ]
    table = [
        f"| {title.format(m['pieces'])} | {m['auroc']:.3f} | {m['accuracy']:.0%} | {m['sensitivity']:.0%} | "
        f"{m['specificity']:.0%} |"
        for title, m in rows
    ]
    printed = [line for line in readme.splitlines() if re.match(r"\| [\d,]+ (chunks|whole)", line)]
    assert printed == table


def test_the_accuracy_by_length_in_the_readme_is_that_of_nano_md() -> None:
    found = {}
    for name in ("README.md", "docs/nano.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        (table,) = re.findall(
            r"^\| bases \|.*\| probability from 0\.5 on \|.*\n(?:\|.*\n)+", text, re.MULTILINE
        )
        header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
        found[name] = [dict(zip(header, row, strict=True)) for row in rows]
    readme, nano = found.values()
    assert readme[-1]["bases"] == "all"
    assert readme == [{column: row[column] for column in readme[0]} for row in nano[: len(readme)]]


def test_every_setting_is_in_the_guide():
    guide = (DOCS / "settings.md").read_text(encoding="utf-8")
    own = ServiceSettings.model_fields.keys() - {"kafka", "schema_registry"}
    fields = [f"| `VIRNUCPRO_{name.upper()}` |" for name in sorted(own)]
    assert [row for row in fields if row not in guide] == []


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_the_fingerprint_of_every_schema_is_in_the_guide(name):
    assert contract(name).fingerprint.hex(" ") in (DOCS / "schemas.md").read_text(encoding="utf-8")


def test_the_contract_says_what_to_do_about_every_reason():
    rows = re.findall(r"^\| (`.+`) \|", (DOCS / "contract.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = {word for row in rows for word in re.findall(r"`([a-z_]+)`", row)}
    assert set(Reason) - named == set()


def test_the_contract_shows_the_header_of_the_current_record_schema():
    header = "\\x".join(["", "c3", "01", *contract("sequence_record").fingerprint.hex(" ").split()])
    assert header in (DOCS / "contract.md").read_text(encoding="utf-8")


def test_every_log_event_is_in_the_catalogue_and_in_the_code(generate):
    calls = set(generate.log_calls()) | {"librdkafka"}
    assert calls == set(EVENTS)
    assert [event for event in EVENTS if not re.fullmatch(r"[a-z]+(_[a-z]+)*", event)] == []


def test_every_exit_code_setting_and_event_says_what_it_means(generate):
    assert all(EVENTS.values())
    assert set(generate.attribute_docs(ExitCode)) == {code.name for code in ExitCode}
