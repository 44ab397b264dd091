"""The Avro body of a `Prediction`, written field by field.

A service writes one for each record. fastavro finds its way through the schema for each of some forty fields, and tries
the branches of fifteen unions, which takes four times as long. The body is the same to the byte, which a test checks
for any prediction; it fails as well when the schema changes and this does not.

Format: Avro 1.12 specification, "Binary Encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from operator import index
from typing import TypeVar

from schemas.types import ChunkPrediction, FrameScore, Prediction, Provenance, Verdict

T = TypeVar("T")

_NULL, _PRESENT, _END = b"\x00", b"\x02", b"\x00"
_VERDICTS = {verdict.value: bytes([2 * number]) for number, verdict in enumerate(Verdict)}
_FRAMES = {label: bytes([2 * number]) for number, label in enumerate(("F1", "F2", "F3", "R1", "R2", "R3"))}
_float, _double, _scores = struct.Struct("<f").pack, struct.Struct("<d").pack, struct.Struct("<ff").pack
_LONGS = range(-(2**63), 2**63)


def prediction_body(prediction: Prediction) -> bytes:
    """The body of one prediction.

    Raises:
        ValueError, TypeError: a field holds what its type in the schema cannot carry.
    """
    try:
        return _body(prediction)
    except (struct.error, OverflowError, LookupError) as error:
        raise ValueError(f"a value does not fit the schema prediction: {error}") from error
    except AttributeError as error:
        raise TypeError(f"a value does not fit the schema prediction: {error}") from error


def _body(prediction: Prediction) -> bytes:
    made = prediction.provenance
    return b"".join(
        (
            _text(prediction.id),
            _long(prediction.length),
            _VERDICTS[prediction.verdict],
            _or_null(_float, prediction.virus_score),
            _or_null(_float, prediction.others_score),
            _array(_chunk, prediction.chunks),
            _made_by(
                made.model_id,
                made.model_sha256,
                made.expected_length,
                made.attention,
                made.attention_backend,
                made.precision,
                made.software_version,
            ),
            _source(made),
            _or_null(_text, prediction.call),
            _or_null(_text, prediction.tier),
            _or_null(_double, prediction.weighted_delta),
            _or_null(_long, prediction.n_chunks),
            _or_null(_long, prediction.n_confident_viral),
            _or_null(_long, prediction.n_confident_nonviral),
            _or_null(_long, prediction.n_ambiguous),
            _or_null(_double, prediction.viral_proportion),
            _or_null(_double, prediction.nonviral_proportion),
        )
    )


def _chunk(chunk: ChunkPrediction) -> bytes:
    frames = _array(_frame, chunk.frames)
    return _text(chunk.name) + _long(chunk.start) + _long(chunk.end) + _VERDICTS[chunk.verdict] + frames


def _frame(score: FrameScore) -> bytes:
    return _FRAMES[score.frame] + _scores(score.others, score.virus)


@lru_cache(maxsize=16)
def _made_by(
    model_id: str,
    model_sha256: str,
    expected_length: int,
    attention: str,
    attention_backend: str,
    precision: str,
    software_version: str,
) -> bytes:
    """What is the same in all predictions of a process."""
    texts = (attention, attention_backend, precision, software_version)
    return (
        _text(model_id)
        + _text(model_sha256)
        + _long(expected_length)
        + b"".join(_text(text) for text in texts)
    )


def _source(made: Provenance) -> bytes:
    return (
        _or_null(_text, made.source_topic)
        + _or_null(_long, made.source_partition)
        + _or_null(_long, made.source_offset)
    )


def _or_null(write: Callable[[T], bytes], value: T | None) -> bytes:
    return _NULL if value is None else _PRESENT + write(value)


def _array(write: Callable[[T], bytes], items: tuple[T, ...]) -> bytes:
    return _long(len(items)) + b"".join([write(item) for item in items]) + _END if items else _END


def _text(text: str) -> bytes:
    data = text.encode()
    return _long(len(data)) + data


def _long(number: int) -> bytes:
    """A variable-length zig-zag integer."""
    if 0 <= number < 64:
        return bytes((2 * number,))
    if index(number) not in _LONGS:
        raise OverflowError(f"{number} takes more than 64 bits")
    left = (number << 1) ^ (number >> 63)
    out = bytearray()
    while left > 127:
        out.append(left & 127 | 128)
        left >>= 7
    out.append(left)
    return bytes(out)
