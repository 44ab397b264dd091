"""What a model bundle says about itself: manifest.json, parsed strictly. Needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any, TypeVar

from virnucpro_core.scoring.calibration import Calibration
from virnucpro_core.sequence import tokenizer_file
from virnucpro_core.wording import shown, some_of

FORMAT = 1
ROLES = ("esm2", "dnabert_s", "head", "tokenizer")
"""What the files of a bundle are for."""

_MOST = {
    "layers": 200,
    "dim": 16_384,
    "heads": 256,
    "intermediate": 65_536,
    "vocab": 1_000_000,
    "hidden": 65_536,
    "expected_length": 4_000,
    "bytes": 2**50,
}
"""Three times the largest published ESM-2 (48 layers, 5,120 dimensions, 40 heads) and more; a chunk's tokens fit into a
batch."""
_MOST_LEVELS = 100
_MOST_LETTERS = 10_000
_NUMBER_BYTES, _HEADER_BYTES = 8, 16 * 2**20


class BundleError(ValueError):
    """A bundle cannot be used; the one-line message names the bundle or its file and says why."""


@dataclass(frozen=True, slots=True)
class Esm2Config:
    """Layers, dimension and attention heads of ESM-2; raises BundleError for a shape that no model has."""

    layers: int
    dim: int
    heads: int

    def __post_init__(self) -> None:
        _check_sizes(self)
        if self.dim // self.heads % 2:
            raise BundleError(
                f"{self.heads} heads of {self.dim // self.heads} dimensions: rotary positions need an even number"
            )

    @property
    def numbers(self) -> int:
        """An upper bound of the numbers that its weights have."""
        return self.layers * (12 * self.dim + 20) * self.dim + 100 * self.dim

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations of its layers' matrix products for one token; attention itself is not counted."""
        return 2 * self.layers * 12 * self.dim**2


@dataclass(frozen=True, slots=True)
class DnabertSConfig:
    """Layers, dimension, attention heads, feed-forward width and vocabulary of DNABERT-S.

    The published model is 12, 768, 12, 3072 and 4096. Raises BundleError for a shape that no model has.
    """

    layers: int
    dim: int
    heads: int
    intermediate: int
    vocab: int

    def __post_init__(self) -> None:
        _check_sizes(self)

    @property
    def numbers(self) -> int:
        """An upper bound of the numbers that its weights have."""
        of_layer = (4 * self.dim + 3 * self.intermediate + 20) * self.dim
        return self.layers * of_layer + (self.vocab + 10) * self.dim

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations of its layers' matrix products for one token; attention itself is not counted."""
        return 2 * self.layers * (4 * self.dim + 3 * self.intermediate) * self.dim


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Hidden width of the classifier; raises BundleError for one that no classifier has."""

    hidden: int

    def __post_init__(self) -> None:
        _check_sizes(self)


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
        calibration: of the probability of a record; None if none was fitted.
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
    calibration: Calibration | None = None

    @property
    def feature_dim(self) -> int:
        """Length of a frame's feature vector."""
        return self.dnabert_s.dim + self.esm2.dim

    def most_bytes(self, role: str) -> int:
        """Bytes that the file of a role can have: every weight in float64, and a header."""
        if role == "tokenizer":
            return tokenizer_file.MOST_BYTES
        numbers = {
            "esm2": self.esm2.numbers,
            "dnabert_s": self.dnabert_s.numbers,
            "head": (self.feature_dim + 10) * (self.head.hidden + 10),
        }
        return _NUMBER_BYTES * numbers[role] + _HEADER_BYTES

    def to_json(self) -> str:
        """The text of manifest.json."""
        content = asdict(self)
        if self.calibration is None:
            del content["calibration"]
        return json.dumps({"format": FORMAT, **content}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse manifest.json.

        Raises:
            BundleError: it is not the manifest of a bundle of this format; the message names the entry.
        """
        try:
            content = json.loads(text)
            _check_depth(content, _MOST_LEVELS)
        except BundleError:
            raise
        except RecursionError as error:
            raise BundleError(_TOO_DEEP) from error
        except ValueError as error:  # also for a number of thousands of digits
            raise BundleError(f"not JSON ({error})") from error
        if not isinstance(content, dict):
            raise BundleError("not a JSON object")
        if content.get("format") != FORMAT:
            raise BundleError(f"format is {shown(content.get('format'))}, this version reads {FORMAT}")
        files = _entry(content, "files", dict)
        if set(files) != set(ROLES):
            raise BundleError(f"'files' must have exactly {', '.join(ROLES)}, not {some_of(list(files))}")
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
            calibration=_calibration(content),
        )


_TOO_DEEP = f"not a manifest: it is nested over {_MOST_LEVELS} levels deep"
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
    if len(value) > _MOST_LETTERS:
        raise BundleError(f"{name!r} has {len(value):,} letters, over the limit of {_MOST_LETTERS:,}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a pair, as JSON's escapes can give
        raise BundleError(f"{name!r} holds what is not a character") from error
    return value


def _positive(content: Mapping[str, Any], name: str) -> int:
    value = _entry(content, name, int)
    _check_size(name, value)
    return value


def _check_size(name: str, value: int) -> None:
    if value < 1:
        raise BundleError(f"{name!r} must be positive, not {shown(value)}")
    if value > _MOST[name]:
        raise BundleError(f"{name!r} is {shown(value)}, over the limit of {_MOST[name]:,}")


def _check_sizes(config: Esm2Config | DnabertSConfig | HeadConfig) -> None:
    for size in fields(config):
        _check_size(size.name, getattr(config, size.name))
    if not isinstance(config, HeadConfig) and config.dim % config.heads:
        raise BundleError(f"{config.heads} heads do not divide the dimension {config.dim}")


def _check_depth(value: object, left: int) -> None:
    if left < 0:
        raise BundleError(_TOO_DEEP)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in inner:
        if isinstance(part, dict | list):
            _check_depth(part, left - 1)


def _temperature(content: Mapping[str, Any]) -> float:
    """A manifest without one is of an uncalibrated head."""
    value = content.get("temperature", 1.0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise BundleError(f"'temperature' must be a positive number, not {shown(value)}")
    return float(value)


def _calibration(content: Mapping[str, Any]) -> Calibration | None:
    if content.get("calibration") is None:
        return None
    given = _entry(content, "calibration", dict)
    numbers = {}
    for name in ("intercept", "margin", "log_chunks", "interaction"):
        value = given.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise BundleError(f"calibration: {name!r} must be a number, not {shown(value)}")
        numbers[name] = float(value)
    most_chunks = _entry(given, "most_chunks", int)
    try:
        return Calibration(**numbers, most_chunks=most_chunks, about=_entry(given, "about", dict))
    except ValueError as error:
        raise BundleError(f"calibration: {error}") from error


def _sizes(kind: type[_Sizes], content: Mapping[str, Any], name: str) -> _Sizes:
    given = _entry(content, name, dict)
    try:
        return kind(**{size.name: _positive(given, size.name) for size in fields(kind)})
    except BundleError as error:
        raise BundleError(f"{name}: {error}") from error


def _file(entry: Mapping[str, Any]) -> FileEntry:
    name = _text(entry, "name")
    if PurePath(name).name != name or not name.isprintable():
        raise BundleError(f"file name {shown(name)} is not a plain name")
    return FileEntry(name, _text(entry, "sha256"), _positive(entry, "bytes"))
