"""Reads and checks feature files; the features themselves are memory-mapped."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.bundle.safetensors_header import Entry, read_header
from virnucpro_core.heads.feature_file import (
    DTYPES,
    METADATA,
    REMAKE,
    TENSORS,
    FeatureFile,
    FeatureFileError,
    FeatureInfo,
)
from virnucpro_core.sequence.frames import FRAME_LABELS

_CHECKED_TOGETHER = 8192
"""Frames of one check for values that are not finite."""
_MAKE = "make one with virnucpro embed"


def read_features(path: Path) -> FeatureFile:
    """Read a feature file and check all of it. Its features are mapped: they need no memory of the process.

    Raises:
        FeatureFileError: it is missing, not a feature file, truncated, damaged, of another format, or holds features
            that are not finite.
    """
    try:
        return _read(path)
    except OSError as error:
        raise FeatureFileError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except FeatureFileError as error:
        raise FeatureFileError(f"{path} {error}") from error


def _read(path: Path) -> FeatureFile:
    """Raises FeatureFileError; its message continues the file's name."""
    try:
        header = read_header(path)
    except ValueError as error:
        raise FeatureFileError(f"is not a feature file ({error}): {_MAKE}") from error
    if METADATA not in header.metadata:
        raise FeatureFileError(f"is a safetensors file, but not a feature file: {_MAKE}")
    info = FeatureInfo.from_json(header.metadata[METADATA])
    size = path.stat().st_size
    if size != header.file_bytes:
        raise FeatureFileError(
            f"has {size:,} bytes instead of {header.file_bytes:,}, it was truncated or damaged: copy it again, or "
            f"{REMAKE}"
        )
    mapped = {name: _map(path, name, header.tensors) for name in TENSORS}
    features = mapped.pop("features")
    small = {name: np.array(array) for name, array in mapped.items()}
    record_ids = _decode_ids(small.pop("record_ids"), small.pop("record_id_ends"))
    file = FeatureFile(path=path, info=info, features=features, record_ids=record_ids, **small)
    problem = _structure_problem(file) or _value_problem(file)
    if problem:
        raise FeatureFileError(f"is damaged, {problem}: {REMAKE}")
    return file


def _map(path: Path, name: str, tensors: dict[str, tuple[Entry, int]]) -> NDArray[Any]:
    if name not in tensors:
        raise FeatureFileError(f"is damaged, it has no {name}: {REMAKE}")
    entry, first = tensors[name]
    dtype = DTYPES[TENSORS[name]]
    valid = entry.dtype == TENSORS[name] and len(entry.shape) == (2 if name == "features" else 1)
    valid = valid and all(type(size) is int and size >= 0 for size in (first, *entry.shape))
    if not valid or int(np.prod(entry.shape)) * dtype.itemsize != entry.nbytes:
        raise FeatureFileError(f"is damaged, {name} is {entry.dtype} {list(entry.shape)}: {REMAKE}")
    if not entry.nbytes:  # an empty range cannot be mapped
        return np.empty(entry.shape, dtype)
    return np.memmap(path, dtype, "r", first, entry.shape)


def _decode_ids(letters: NDArray[np.uint8], ends: NDArray[np.int64]) -> tuple[str, ...]:
    edges = [0, *ends.tolist()]
    text = letters.tobytes()
    try:
        if edges != sorted(edges) or edges[-1] > len(text):
            raise ValueError("the ends are not ascending")
        return tuple(text[start:end].decode() for start, end in pairwise(edges))
    except ValueError as error:  # also: not UTF-8
        raise FeatureFileError(f"is damaged, its record ids cannot be read: {REMAKE}") from error


def _structure_problem(file: FeatureFile) -> str | None:
    frames, chunks = len(file.features), len(file.chunk_record)
    if file.features.shape[1] != file.info.dim:
        return f"a frame has {file.features.shape[1]} features where its models give {file.info.dim}"
    if not len(file.frame_chunk) == len(file.frame_label) == frames or len(file.chunk_start) != chunks:
        return "its parts are of different lengths"
    # From one frame to the next the number of the chunk stays or grows by one, from the first chunk to the last.
    steps = np.diff(file.frame_chunk, prepend=-1, append=chunks)
    if (frames or chunks) and (steps[0] != 1 or steps[-1] != 1 or not np.isin(steps, (0, 1)).all()):
        return "its chunks are not numbered in order"
    if chunks and (np.diff(file.chunk_record, prepend=0, append=len(file.record_ids) - 1) < 0).any():
        return "its chunks do not follow its records"
    if (file.frame_label >= len(FRAME_LABELS)).any():
        return "a frame has an unknown label"
    return None


def _value_problem(file: FeatureFile) -> str | None:
    for first in range(0, len(file.features), _CHECKED_TOGETHER):
        bad = np.flatnonzero(~np.isfinite(file.features[first : first + _CHECKED_TOGETHER]).all(axis=1))
        if len(bad):
            return f"the features of {file.describe_frame(first + int(bad[0]))} are not finite"
    return None
