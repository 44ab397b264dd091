"""Feature files: the feature vector of every frame of a sequence file, and its provenance.

A feature file is a safetensors file with the tensors of `TENSORS` and a JSON text in its metadata.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.sequence.frames import FRAME_LABELS

FORMAT = 1
METADATA = "virnucpro_features"
TENSORS = {
    "features": "F32",
    "record_ids": "U8",
    "frame_chunk": "I64",
    "chunk_record": "I64",
    "chunk_start": "I64",
    "record_id_ends": "I64",
    "frame_label": "U8",
}
"""The tensors of a file and their types, in the order of the file.

features [frames, dim]: DNABERT-S's, then ESM-2's. frame_chunk [frames]: from 0, ascending, without gaps; chunks
without an open frame are left out. frame_label [frames]: index into `FRAME_LABELS`. chunk_record [chunks]: index of
the record, ascending. chunk_start [chunks]: first base in the record, from 0. record_ids: the ids in UTF-8, joined,
then zeros as padding; record_id_ends [records]: the end of each.
"""
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8"), "U8": np.dtype("u1")}
REMAKE = "make it again with virnucpro embed"


class FeatureFileError(ValueError):
    """A feature file that cannot be used; the message is one line with the cause and the cure."""


@dataclass(frozen=True, slots=True)
class FeatureInfo:
    """Provenance of features.

    Attributes:
        model_id, model_sha256: the bundle's id, and the sha256 of its manifest.
        expected_length: bases in a full chunk.
        attention, attention_backend, dna_attention_backend, precision, device: as in
            `virnucpro_core.scoring.model.EngineInfo`.
        software_version: of this package.
        dnabert_s_dim, esm2_dim: the two parts of a row.
        source: name of the sequence file.
        records_without_open_frame: of those in the file.
        records_left_out: those that could not be scored; they are not in the file.
    """

    model_id: str
    model_sha256: str
    expected_length: int
    attention: str
    attention_backend: str
    dna_attention_backend: str
    precision: str
    device: str
    software_version: str
    dnabert_s_dim: int
    esm2_dim: int
    source: str
    records_without_open_frame: int = 0
    records_left_out: int = 0

    @property
    def dim(self) -> int:
        """Columns of a row."""
        return self.dnabert_s_dim + self.esm2_dim

    def to_json(self) -> str:
        """The text in a file's metadata."""
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> FeatureInfo:
        """Read what `to_json` wrote.

        Raises:
            FeatureFileError: `text` is not that, or of another format; the message continues the file's name.
        """
        try:
            content: Any = json.loads(text)
            form = content["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise FeatureFileError(f"has damaged metadata: {REMAKE}") from error
        if form != FORMAT:
            raise FeatureFileError(
                f"is of format {form!r}, this version reads {FORMAT}: use the version of virnucpro that wrote it, or "
                f"{REMAKE}"
            )
        for field in fields(cls):
            if type(content.get(field.name)) is not (int if field.type == "int" else str):
                raise FeatureFileError(f"has no valid {field.name} in its metadata: {REMAKE}")
        return cls(**{field.name: content[field.name] for field in fields(cls)})


@dataclass(frozen=True, slots=True, eq=False)
class FeatureFile:
    """The content of a feature file; `features` float32 [frames, dim] stays on the disk until it is read.

    The arrays are those of `TENSORS`; `record_ids` are texts.
    """

    path: Path
    info: FeatureInfo
    features: NDArray[np.float32]
    frame_chunk: NDArray[np.int64]
    frame_label: NDArray[np.uint8]
    chunk_record: NDArray[np.int64]
    chunk_start: NDArray[np.int64]
    record_ids: tuple[str, ...]

    @property
    def frame_record(self) -> NDArray[np.int64]:
        """The record of each frame, int64 [frames]."""
        return self.chunk_record[self.frame_chunk]

    def describe_frame(self, frame: int) -> str:
        """Label, position and record of a frame, for an error message."""
        chunk = self.frame_chunk[frame]
        label = FRAME_LABELS[self.frame_label[frame]]
        return (
            f"{label} at base {self.chunk_start[chunk] + 1} of {self.record_ids[self.chunk_record[chunk]]!r}"
        )


def check_same_frames(first: FeatureFile, second: FeatureFile) -> None:
    """Check that two files are of the same model, records and frames, so that their rows correspond.

    Raises:
        FeatureFileError: they are not; the message names the first difference.
    """
    problem = _difference(first, second)
    if problem:
        raise FeatureFileError(
            f"{first.path} and {second.path} cannot be compared: {problem}; make both with virnucpro embed, of the "
            "same sequences with the same model"
        )


def _difference(first: FeatureFile, second: FeatureFile) -> str | None:
    a, b = first.info, second.info
    if a.model_sha256 != b.model_sha256:
        return f"they are of different models ({a.model_id} {a.model_sha256[:12]}, {b.model_id} {b.model_sha256[:12]})"
    for number, (one, other) in enumerate(zip(first.record_ids, second.record_ids, strict=False), start=1):
        if one != other:
            return f"record {number} is {one!r} in the first and {other!r} in the second"
    if len(first.record_ids) != len(second.record_ids):
        return f"the first has {len(first.record_ids):,} records, the second {len(second.record_ids):,}"
    positions, others = _positions(first), _positions(second)
    common = min(len(positions), len(others))
    different = np.flatnonzero((positions[:common] != others[:common]).any(axis=1))
    if len(different):
        frame = int(different[0])
        return (
            f"frame {frame + 1} is {first.describe_frame(frame)} in the first "
            f"and {second.describe_frame(frame)} in the second"
        )
    if len(positions) != len(others):
        return f"the first has {len(positions):,} frames, the second {len(others):,}"
    return None


def _positions(file: FeatureFile) -> NDArray[np.int64]:
    """Record, first base of the chunk, and label of each frame, int64 [frames, 3]."""
    starts = file.chunk_start[file.frame_chunk]
    return np.stack([file.frame_record, starts, file.frame_label.astype(np.int64)], axis=1)
