"""Feature files of made-up records, in memory and on the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.heads.feature_file import FeatureFile, FeatureInfo
from virnucpro_core.heads.feature_reader import read_features
from virnucpro_core.heads.feature_writer import feature_writer
from virnucpro_core.sequence.prepare import PreparedFrame, PreparedRecord

Chunks = Sequence[Sequence[str]]
"""The labels of the frames of each chunk of a record."""
_IDS = np.array([0, 5, 2], dtype=np.int32)


def info(dim: int = 4, **changes: object) -> FeatureInfo:
    """Where made-up features come from."""
    given: dict[str, object] = {
        "model_id": "tiny",
        "model_sha256": "ab" * 32,
        "expected_length": 500,
        "attention": "packed",
        "attention_backend": "sdpa",
        "dna_attention_backend": "sdpa",
        "precision": "fp32",
        "device": "cpu",
        "software_version": "0",
        "dnabert_s_dim": dim // 2,
        "esm2_dim": dim - dim // 2,
        "source": "reads.fasta",
    }
    return FeatureInfo(**given | changes)  # type: ignore[arg-type]


def record(record_id: str, chunks: Chunks) -> PreparedRecord:
    """A record with such frames, its chunks 450 bases apart."""
    frames = [PreparedFrame(c, label, _IDS, _IDS) for c, labels in enumerate(chunks) for label in labels]
    spans = tuple((450 * c, 450 * c + 500) for c in range(len(chunks)))
    return PreparedRecord(record_id, 500, spans, tuple(frames))


def write(
    path: Path, records: Mapping[str, Chunks], features: NDArray[np.float32], **changes: object
) -> Path:
    """Write records, with a row of `features` for each frame."""
    rows = iter(features)
    with feature_writer(path, info(features.shape[1], **changes)) as writer:
        for record_id, chunks in records.items():
            prepared = record(record_id, chunks)
            writer.add(prepared, [next(rows) for _ in prepared.frames])
    assert next(rows, None) is None
    return path


def written(
    path: Path, records: Mapping[str, Chunks], features: NDArray[np.float32], **changes: object
) -> FeatureFile:
    """The same, read again."""
    return read_features(write(path, records, features, **changes))


def count_frames(records: Mapping[str, Chunks]) -> int:
    """Rows that the records need."""
    return sum(len(labels) for chunks in records.values() for labels in chunks)
