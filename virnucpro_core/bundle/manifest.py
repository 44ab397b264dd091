"""What a model bundle says about itself: manifest.json, parsed strictly. Needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any, TypeVar

FORMAT = 1
ROLES = ("esm2", "dnabert_s", "head", "tokenizer")
"""What the files of a bundle are for."""


class BundleError(ValueError):
    """A bundle cannot be used; the one-line message names the bundle or its file and says why."""


@dataclass(frozen=True, slots=True)
class Esm2Config:
    """Layers, dimension and attention heads of ESM-2."""

    layers: int
    dim: int
    heads: int


@dataclass(frozen=True, slots=True)
class DnabertSConfig:
    """Layers, dimension, attention heads, feed-forward width and vocabulary of DNABERT-S.

    The published model is 12, 768, 12, 3072 and 4096.
    """

    layers: int
    dim: int
    heads: int
    intermediate: int
    vocab: int


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Hidden width of the classifier."""

    hidden: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the bundle: its plain name, the sha256 of its content in hex, its size in bytes."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of manifest.json.

    Attributes:
        id: the model's id, stamped on every prediction.
        description: what the model is, in a sentence.
        expected_length: bases in a chunk that the classifier was trained on (500 or 300).
        esm2, dnabert_s, head: the architecture.
        licence: of the weights.
        temperature: the head's logits are divided by it, so that its scores are probabilities; 1 for a published head.
        files: by role, see `ROLES`; empty in a draft, until `write_bundle` fills them in.
        training, validation: how it was made and how good it is; free form.
    """

    id: str
    description: str
    expected_length: int
    esm2: Esm2Config
    dnabert_s: DnabertSConfig
    head: HeadConfig
    licence: str
    files: dict[str, FileEntry] = field(default_factory=dict)
    temperature: float = 1.0
    training: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)

    @property
    def feature_dim(self) -> int:
        """Length of a frame's feature vector."""
        return self.dnabert_s.dim + self.esm2.dim

    def to_json(self) -> str:
        """The text of manifest.json."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse manifest.json.

        Raises:
            BundleError: it is not the manifest of a bundle of this format; the message names the entry.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise BundleError(f"not JSON ({error})") from error
        if not isinstance(content, dict):
            raise BundleError("not a JSON object")
        if content.get("format") != FORMAT:
            raise BundleError(f"format is {content.get('format')!r}, this version reads {FORMAT}")
        files = _entry(content, "files", dict)
        if set(files) != set(ROLES):
            raise BundleError(f"'files' must have exactly {', '.join(ROLES)}, not {', '.join(files)}")
        return cls(
            id=_text(content, "id"),
            description=_text(content, "description"),
            expected_length=_positive(content, "expected_length"),
            esm2=_sizes(Esm2Config, content, "esm2"),
            dnabert_s=_sizes(DnabertSConfig, content, "dnabert_s"),
            head=_sizes(HeadConfig, content, "head"),
            licence=_text(content, "licence"),
            files={role: _file(_entry(files, role, dict)) for role in ROLES},
            temperature=_temperature(content),
            training=_entry(content, "training", dict),
            validation=_entry(content, "validation", dict),
        )


_Kind = TypeVar("_Kind")
_Sizes = TypeVar("_Sizes", Esm2Config, DnabertSConfig, HeadConfig)


def _entry(content: Mapping[str, Any], name: str, kind: type[_Kind]) -> _Kind:
    value = content.get(name)
    if not isinstance(value, kind) or value is True:
        raise BundleError(f"{name!r} is {'missing' if value is None else f'not {kind.__name__}'}")
    return value


def _text(content: Mapping[str, Any], name: str) -> str:
    value = _entry(content, name, str)
    if not value:
        raise BundleError(f"{name!r} is empty")
    return value


def _positive(content: Mapping[str, Any], name: str) -> int:
    value = _entry(content, name, int)
    if value < 1:
        raise BundleError(f"{name!r} must be positive, not {value}")
    return value


def _temperature(content: Mapping[str, Any]) -> float:
    """A manifest without one is of an uncalibrated head."""
    value = content.get("temperature", 1.0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise BundleError(f"'temperature' must be a positive number, not {value!r}")
    return float(value)


def _sizes(kind: type[_Sizes], content: Mapping[str, Any], name: str) -> _Sizes:
    given = _entry(content, name, dict)
    try:
        sizes = {size.name: _positive(given, size.name) for size in fields(kind)}
    except BundleError as error:
        raise BundleError(f"{name}: {error}") from error
    if "heads" in sizes and sizes["dim"] % sizes["heads"]:
        raise BundleError(f"{name}: {sizes['heads']} heads do not divide the dimension {sizes['dim']}")
    return kind(**sizes)


def _file(entry: Mapping[str, Any]) -> FileEntry:
    name = _text(entry, "name")
    if PurePath(name).name != name:
        raise BundleError(f"file name {name!r} is not a plain name")
    return FileEntry(name, _text(entry, "sha256"), _positive(entry, "bytes"))
