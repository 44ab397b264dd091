"""Writes feature files in a stream: the features never have to fit in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.atomic_files import atomic_write
from virnucpro_core.bundle.safetensors_header import Entry, header_of
from virnucpro_core.heads.feature_file import DTYPES, METADATA, TENSORS, FeatureInfo
from virnucpro_core.sequence.frames import FRAME_LABELS
from virnucpro_core.sequence.prepare import PreparedRecord

_ALIGNMENT = 8
_LARGEST_COUNT = 2**53
"""The header is given the room that it needs with counts as large as this."""


class FeatureWriter:
    """Writes the records of one file in order. Make it with `feature_writer`.

    Attributes:
        records, frames, left_out: counts so far; the caller increments `left_out`.
    """

    def __init__(self, file: IO[bytes], info: FeatureInfo) -> None:
        self._file, self._info = file, info
        self._frame_chunk, self._frame_label = array("q"), array("B")
        self._chunk_record, self._chunk_start, self._id_ends = array("q"), array("q"), array("q")
        self._ids = bytearray()
        self.left_out = self._without_open_frame = 0
        largest = replace(info, records_without_open_frame=_LARGEST_COUNT, records_left_out=_LARGEST_COUNT)
        self._header_bytes = len(self._header(largest, dict.fromkeys(TENSORS, _LARGEST_COUNT)))
        file.seek(self._header_bytes)

    @property
    def records(self) -> int:
        """Records, those without an open frame included."""
        return len(self._id_ends)

    @property
    def frames(self) -> int:
        """Rows of features."""
        return len(self._frame_chunk)

    def add(self, record: PreparedRecord, rows: Sequence[NDArray[np.float32]]) -> None:
        """Append a record, with the features, float32 [dim], of each of its frames.

        Raises:
            ValueError: the rows are not those of its frames.
            OSError: they cannot be written.
        """
        if len(rows) != len(record.frames) or any(row.shape != (self._info.dim,) for row in rows):
            raise ValueError(
                f"{len(rows)} rows do not belong to {len(record.frames)} frames of {self._info.dim}"
            )
        chunk = None
        for frame, row in zip(record.frames, rows, strict=True):
            if frame.chunk != chunk:
                chunk = frame.chunk
                self._chunk_record.append(len(self._id_ends))
                self._chunk_start.append(record.spans[chunk][0])
            self._frame_chunk.append(len(self._chunk_record) - 1)
            self._frame_label.append(FRAME_LABELS.index(frame.label))
            self._file.write(row.astype(DTYPES["F32"]).tobytes())
        self._without_open_frame += not rows
        self._ids += record.record_id.encode()
        self._id_ends.append(len(self._ids))

    def finish(self) -> None:
        """Write the tensors after the features, then the header before them."""
        rows_end = self.frames * self._info.dim * DTYPES["F32"].itemsize
        self._ids += bytes(-(rows_end + len(self._ids)) % _ALIGNMENT)  # what follows is aligned
        after: dict[str, array[int] | NDArray[np.uint8]] = {
            "record_ids": np.frombuffer(self._ids, np.uint8),
            "frame_chunk": self._frame_chunk,
            "chunk_record": self._chunk_record,
            "chunk_start": self._chunk_start,
            "record_id_ends": self._id_ends,
            "frame_label": self._frame_label,
        }
        for name, values in after.items():
            self._file.write(np.asarray(values, DTYPES[TENSORS[name]]).tobytes())
        info = replace(
            self._info,
            records_without_open_frame=self._without_open_frame,
            records_left_out=self.left_out,
        )
        lengths = {"features": self.frames} | {name: len(values) for name, values in after.items()}
        self._file.seek(0)
        self._file.write(self._header(info, lengths, self._header_bytes))

    def _header(self, info: FeatureInfo, lengths: dict[str, int], size: int = 0) -> bytes:
        entries = {}
        for name, dtype in TENSORS.items():
            shape = (lengths[name], info.dim) if name == "features" else (lengths[name],)
            nbytes = int(np.prod(shape, dtype=object)) * DTYPES[dtype].itemsize
            entries[name] = Entry(dtype, shape, nbytes)
        return header_of(entries, {METADATA: info.to_json()}, size)


@contextmanager
def feature_writer(path: Path, info: FeatureInfo) -> Iterator[FeatureWriter]:
    """Open a feature file; it appears when the block ends. If the block raises, nothing is left.

    Rows are written at once; of each frame 9 bytes, and of each record its id, are held until the end.

    Args:
        path: a file to be (re)written; its folder exists.
        info: where the features come from; its two counts of records are filled in.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_write(path) as (draft,), draft.open("wb") as file:
        writer = FeatureWriter(file, info)
        yield writer
        writer.finish()
