"""The version is written down in one place; what repeats it for readers agrees."""

from __future__ import annotations

from pathlib import Path

import yaml

from virnucpro_core import __version__

ROOT = Path(__file__).parents[3]


def test_the_citation_names_the_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


def test_the_changelog_begins_with_what_is_new_and_then_the_version():
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert headings[:2] == ["## Unreleased", f"## {__version__}"]
