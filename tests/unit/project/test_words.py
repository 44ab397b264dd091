"""Plain technical English: phrases that cost a reader a second look stay out of the guides, the code and the tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = (
    "benchmarks",
    "consumer",
    "deploy",
    "docs",
    "examples",
    "schemas",
    "tests",
    "training",
    "virnucpro_client",
    "virnucpro_core",
)

INSTEAD = {
    "anew": "again; retrain, rebuild, recompute, resample",
    "beyond repair": "cannot be recovered, can no longer be used",
    "can't be had": "cannot be bound, is not available",
    "for good": "permanently; is not restarted",
    "is no error": "is not an error",
    "is no json": "is not JSON",
    "is no member": "is not a member, does not join the group",
    "is no nucleotide": "is not a nucleotide",
    "is no setting": "unknown setting",
    "nobody": "who it is: no process, no reader, no other user; or the passive",
    "of one's own": "your own, a separate",
    "of yours": "your, your own",
    "somebody": "who it is: the inference thread, the operator, another process",
}
"""Each phrase, and what says the same in plain terms."""

# The list itself, and the examples of what to avoid.
EXEMPT = {
    "CONTRIBUTING.md",
    "tests/unit/project/test_words.py",
}

_PHRASE = re.compile(
    r"\b(" + "|".join(re.sub(r"\\? ", r"\\s+", re.escape(phrase)) for phrase in INSTEAD) + r")\b",
    re.IGNORECASE,
)


def complaints(name: str, text: str) -> list[str]:
    """A line for each phrase in a text, also where it runs over the end of a line."""
    found = []
    for match in _PHRASE.finditer(text):
        phrase = " ".join(match.group().lower().split())
        line = text.count("\n", 0, match.start()) + 1
        found.append(f"{name}:{line}: {phrase!r}; better: {INSTEAD[phrase]}")
    return found


def texts() -> list[Path]:
    inside = (
        path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in {".md", ".py"}
    )
    return sorted([*ROOT.glob("*.md"), *inside])


def test_guides_code_and_tests_avoid_the_phrases():
    found = [
        complaint
        for path in texts()
        if (name := path.relative_to(ROOT).as_posix()) not in EXEMPT
        for complaint in complaints(name, path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize("phrase", INSTEAD)
def test_each_phrase_is_found_with_its_line_and_the_plain_term(phrase):
    text = f"A first line.\nThis one, {phrase.capitalize()}, ends here.\n"
    assert complaints("x.md", text) == [f"x.md:2: {phrase!r}; better: {INSTEAD[phrase]}"]


def test_a_phrase_is_found_across_the_end_of_a_line():
    assert complaints("x.md", "The client is beyond\nrepair.") == [
        f"x.md:1: 'beyond repair'; better: {INSTEAD['beyond repair']}"
    ]


def test_a_part_of_a_word_is_not_a_phrase():
    assert complaints("x.md", "forgoodness, renewal, nobodyish") == []
