"""What a tokenizer.json may ask for: nothing that makes more tokens of a sequence than it has letters.

The `tokenizers` library does whatever the file says: a normaliser that replaces each letter by a thousand, a template
that repeats the sequence, a regular expression that never ends. DNABERT-S needs none of that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from virnucpro_core.wording import one_line, shown

MOST_BYTES = 16 * 2**20
"""Of a file; DNABERT-S's has 0.2 MB."""
_NORMALIZERS = {"Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Strip", "StripAccents", "BertNormalizer"}
_PRE_TOKENIZERS = {"Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Split", "FixedLength"}
_MODELS = {"BPE", "WordPiece", "WordLevel", "Unigram"}
_PAIRS = {"BertProcessing", "RobertaProcessing"}
_SAFE_PATTERN = re.compile(r"\.(\{\d{1,3}\})?")
"""Any letter, or so many of them."""
_MOST_ADDED = 16
"""Special tokens around a sequence."""


def check_tokenizer(text: str) -> None:
    """Refuse a tokenizer.json that could multiply what it is given.

    Args:
        text: its content.

    Raises:
        ValueError: it is not JSON, or asks for something else than the parts above; the message names it.
    """
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        _check_model(content.get("model"))
        for part in _parts(content.get("normalizer"), "normalizers"):
            _check_type("normalizer", part, _NORMALIZERS)
        for part in _parts(content.get("pre_tokenizer"), "pretokenizers"):
            _check_type("pre_tokenizer", part, _PRE_TOKENIZERS)
            _check_pattern(part.get("pattern"))
        _check_template(content.get("post_processor"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({one_line(error)})") from error


def _check_model(model: Any) -> None:
    if not isinstance(model, dict):
        raise ValueError("it has no model")
    if model.get("type") is not None:  # old files have none
        _check_type("model", model, _MODELS)
    if model.get("dropout"):
        raise ValueError("its model drops merges at random, so that no answer could be repeated")


def _parts(value: Any, name: str) -> Iterator[dict[str, Any]]:
    """The parts of a normalizer or pre-tokenizer, which may be a sequence of them; none if it is null."""
    if value is None:
        return
    if isinstance(value, dict) and value.get("type") == "Sequence":
        inner = value.get(name)
        for part in inner if isinstance(inner, list) else [None]:
            yield from _parts(part if part is not None else {}, name)
    else:
        yield value if isinstance(value, dict) else {}


def _check_type(what: str, part: dict[str, Any], allowed: set[str]) -> None:
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in allowed:
        raise ValueError(f"its {what} is {shown(kind)}, and only {', '.join(sorted(allowed))} are read")


def _check_pattern(pattern: Any) -> None:
    if not isinstance(pattern, dict) or "Regex" not in pattern:
        return
    if not isinstance(pattern["Regex"], str) or not _SAFE_PATTERN.fullmatch(pattern["Regex"]):
        raise ValueError(
            f"its pre_tokenizer splits by {shown(pattern['Regex'])}, and only '.' and '.{{N}}' are read"
        )


def _check_template(template: Any) -> None:
    """The sequence once, and a few special tokens around it."""
    if template is None:
        return
    _check_type(
        "post_processor", template if isinstance(template, dict) else {}, {"TemplateProcessing", *_PAIRS}
    )
    if template["type"] in _PAIRS:
        return
    pieces, special = template.get("single"), template.get("special_tokens")
    if not isinstance(pieces, list) or not isinstance(special, dict):
        raise ValueError("its post_processor has no template")
    if sum(isinstance(piece, dict) and "Sequence" in piece for piece in pieces) != 1:
        raise ValueError("its post_processor must take the sequence once")
    added = 0
    for piece in pieces:
        name = piece.get("SpecialToken", {}).get("id") if isinstance(piece, dict) else None
        ids = (
            special[name].get("ids") if isinstance(name, str) and isinstance(special.get(name), dict) else []
        )
        added += len(ids) if isinstance(ids, list) else 1
    if added > _MOST_ADDED or len(pieces) > _MOST_ADDED:
        raise ValueError(f"its post_processor adds over {_MOST_ADDED} tokens to a sequence")
