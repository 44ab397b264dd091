"""A tokenizer.json that makes more of a sequence than it has letters is refused before it is given one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.small_tokenizer import write_tokenizer
from virnucpro_core.bundle.bundle import bundled, find_bundle
from virnucpro_core.sequence.tokens import DnaTokenizer

DOUBLED = {"type": "Replace", "pattern": {"String": "A"}, "content": "AA"}
SEQUENCE = {"Sequence": {"id": "A", "type_id": 0}}
CLS = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}


def template(single: Any, ids: Any = (1,)) -> dict[str, Any]:
    special = {"[CLS]": {"id": "[CLS]", "ids": list(ids), "tokens": ["[CLS]"] * len(ids)}}
    return {"type": "TemplateProcessing", "single": single, "pair": [SEQUENCE], "special_tokens": special}


MULTIPLYING = {
    "a letter becomes two": {"normalizer": DOUBLED},
    "forty times over": {"normalizer": {"type": "Sequence", "normalizers": [DOUBLED] * 40}},
    "within another sequence": {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [DOUBLED]}]}
    },
    "something in front": {"normalizer": {"type": "Prepend", "prepend": "A" * 10**6}},
    "a text in front of each piece": {"pre_tokenizer": {"type": "Metaspace", "replacement": "A"}},
    "the sequence twice": {"post_processor": template([SEQUENCE, SEQUENCE])},
    "no sequence": {"post_processor": template([CLS])},
    "many special tokens": {"post_processor": template([SEQUENCE, *[CLS] * 100])},
    "a special token of many ids": {"post_processor": template([CLS, SEQUENCE], [1] * 100)},
    "a special token of an id beyond the vocabulary": {"post_processor": template([CLS, SEQUENCE], [10**9])},
    "a pattern that takes for ever": {
        "pre_tokenizer": {
            "type": "Split", "pattern": {"Regex": "(A+)+$"}, "behavior": "Isolated", "invert": False,
        }
    },
    "no model": {"model": None},
    "an unknown model": {"model": {"type": "Magic"}},
    "parts that are no objects": {"normalizer": ["Lowercase"]},
    "a sequence of nothing": {"normalizer": {"type": "Sequence", "normalizers": None}},
    "a processor without a template": {"post_processor": {"type": "TemplateProcessing"}},
}  # fmt: skip


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=r"tokenizer\.json") as caught:
        DnaTokenizer(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400
    return message


@pytest.mark.parametrize("change", MULTIPLYING)
def test_what_multiplies_letters_is_refused(change: str, tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | MULTIPLYING[change]))
    refusal(path)


def test_an_id_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json")
    content = json.loads(path.read_text())
    content["model"]["vocab"]["AC"] = 10**6
    path.write_text(json.dumps(content))
    assert "one of the id 1,000,000" in refusal(path)


def test_what_fails_only_in_use_is_refused(tmp_path: Path) -> None:
    """Found by fuzzing: an unknown token that is in no vocabulary, and a special token that makes the library panic."""
    path = write_tokenizer(tmp_path / "tokenizer.json")
    content = json.loads(path.read_text())
    unknown = content | {"model": content["model"] | {"unk_token": "[NONE]"}}
    path.write_text(json.dumps(unknown))
    assert "[NONE]" in refusal(path)
    path.write_text(
        json.dumps(
            content | {"post_processor": template([{"SpecialToken": {"id": "[X]", "type_id": 0}}, SEQUENCE])}
        )
    )
    refusal(path)


def test_merges_at_random_are_refused(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json")
    content = json.loads(path.read_text())
    content["model"]["dropout"] = 0.5
    path.write_text(json.dumps(content))
    assert "drops merges at random" in refusal(path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10**6,
        '{"normalizer":' + '{"type":"Sequence","normalizers":[' * 900 + "]}" * 900 + "}",
        "",
        "[]",
        "9" * 5000,
    ],
)
def test_what_is_not_a_tokenizer(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    assert "is not a tokenizer file" in refusal(tmp_path / "tokenizer.json")


def test_a_file_of_any_size(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(2**40)
    assert "has over 16,777,216 bytes" in refusal(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("name", bundled())
def test_no_sequence_gets_more_tokens_than_letters_and_the_special_ones(name: str) -> None:
    tokenizer = DnaTokenizer(find_bundle(name) / "tokenizer.json")
    for sequence in ("A", "ACGT" * 100, "N" * 77):
        assert len(tokenizer.encode([sequence])[0]) <= len(sequence) + 2


@pytest.mark.parametrize(
    "pre_tokenizer",
    [None, {"type": "Whitespace"}, {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}]}],
)
def test_what_the_published_tokenizer_needs_is_read(pre_tokenizer: Any, tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pre_tokenizer": pre_tokenizer}))
    assert len(DnaTokenizer(path).encode(["ACGT"])[0]) == 3
