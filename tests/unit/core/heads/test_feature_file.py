"""Feature files: what is written is read again, bit for bit, and what is damaged is refused in one line."""

from __future__ import annotations

import json
import struct
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.features_fixture import Chunks, count_frames, info, record, write, written
from virnucpro_core.heads.feature_file import FeatureFile, FeatureFileError, check_same_frames
from virnucpro_core.heads.feature_reader import read_features
from virnucpro_core.heads.feature_writer import feature_writer
from virnucpro_core.sequence.frames import FRAME_LABELS

RECORDS: dict[str, Chunks] = {
    "a": [["F1", "R3"], [], ["F2"]],
    "none": [[], []],
    "b|ü": [["F1"]],
    "c": [[], ["R1", "R2"]],
}


def some_features(records: dict[str, Chunks], dim: int = 4) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count_frames(records), dim)).astype(np.float32)


chunk = st.lists(st.sampled_from(FRAME_LABELS), unique=True, max_size=6).map(
    lambda labels: sorted(labels, key=FRAME_LABELS.index)
)
some_records = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.lists(chunk, max_size=4),
    max_size=6,
)


@settings(deadline=None)  # it writes files
@given(some_records, st.integers(1, 5), st.integers(0, 3))
def test_what_is_written_is_read_again(records: dict[str, Chunks], dim: int, left_out: int) -> None:
    features = some_features(records, dim)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.safetensors"
        rows = iter(features)
        with feature_writer(path, info(dim)) as writer:
            for record_id, chunks in records.items():
                prepared = record(record_id, chunks)
                writer.add(prepared, [next(rows) for _ in prepared.frames])
            writer.left_out = left_out
        assert [name.name for name in Path(folder).iterdir()] == ["features.safetensors"]
        file = read_features(path)
        by_others = safetensors.numpy.load_file(path)
        np.testing.assert_array_equal(by_others["features"], features)
        np.testing.assert_array_equal(file.features, features)
        np.testing.assert_array_equal(by_others["frame_chunk"], file.frame_chunk)
    assert file.record_ids == tuple(records)
    found = [
        (
            file.record_ids[file.frame_record[n]],
            int(file.chunk_start[file.frame_chunk[n]]),
            int(file.frame_label[n]),
        )
        for n in range(len(features))
    ]
    assert found == [
        (record_id, 450 * number, FRAME_LABELS.index(label))
        for record_id, chunks in records.items()
        for number, labels in enumerate(chunks)
        for label in labels
    ]
    with_frames = [chunks for chunks in records.values() if any(chunks)]
    assert len(file.chunk_record) == sum(bool(labels) for chunks in records.values() for labels in chunks)
    assert file.info == info(
        dim, records_without_open_frame=len(records) - len(with_frames), records_left_out=left_out
    )


def test_the_features_stay_on_the_disk_when_they_are_read(tmp_path: Path) -> None:
    file = written(tmp_path / "f", RECORDS, some_features(RECORDS))
    assert isinstance(file.features, np.memmap)


def test_writing_needs_little_memory(tmp_path: Path) -> None:
    frames, dim = 4000, 2048
    prepared = record("r", [["F1"]])
    row = np.ones(dim, dtype=np.float32)
    tracemalloc.start()
    with feature_writer(tmp_path / "f", info(dim)) as writer:
        for _ in range(frames):
            writer.add(prepared, [row])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "f").stat().st_size > 4 * frames * dim > 50 * peak


def begin_and_stop(path: Path) -> None:
    with feature_writer(path, info()) as writer:
        writer.add(record("a", [["F1"]]), [np.zeros(4, dtype=np.float32)])
        raise KeyboardInterrupt


def test_a_failure_leaves_nothing_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    for before in (None, b"old"):
        if before is not None:
            path.write_bytes(before)
        with pytest.raises(KeyboardInterrupt):
            begin_and_stop(path)
        assert [name.name for name in tmp_path.iterdir()] == ([] if before is None else [path.name])
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("rows", [[], [np.zeros(3, dtype=np.float32)], [np.zeros(4, dtype=np.float32)] * 2])
def test_rows_that_are_not_those_of_the_frames_are_refused(tmp_path: Path, rows: list[np.ndarray]) -> None:
    with (
        pytest.raises(ValueError, match="do not belong to 1 frames of 4"),
        feature_writer(tmp_path / "f", info()) as w,
    ):
        w.add(record("a", [["F1"]]), rows)


def _set(path: Path, name: str, index: int, value: float) -> None:
    """Change one number of a tensor on the disk, found by the format's own rules."""
    content = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    entry = json.loads(content[8 : 8 + length])[name]
    dtype = {"F32": "<f4", "I64": "<i8", "U8": "u1"}[entry["dtype"]]
    start, end = (8 + length + offset for offset in entry["data_offsets"])
    values = np.frombuffer(content[start:end], dtype).copy()
    values[index] = value
    content[start:end] = values.tobytes()
    path.write_bytes(content)


def _cut(length: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[:length])


def _replace(old: bytes, new: bytes) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        content = path.read_bytes()
        assert content.count(old) == 1
        path.write_bytes(content.replace(old, new))

    return change


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "cannot be read: No such file"),
    "empty": (lambda path: path.write_bytes(b""), "is not a feature file"),
    "text": (lambda path: path.write_text(">a\nACGT\n"), "is not a feature file"),
    "random": (lambda path: path.write_bytes(bytes(range(7, 256)) * 9), "is not a feature file"),
    "header cut": (_cut(100), "is not a feature file"),
    "one byte short": (_cut(-1), "it was truncated"),
    "one byte more": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "truncated or damaged"),
    "other safetensors": (
        lambda path: safetensors.numpy.save_file({"features": np.zeros((2, 2))}, path),
        "is a safetensors file, but not a feature file",
    ),
    "newer": (_replace(b'\\"format\\": 1', b'\\"format\\": 2'), "is of format 2, this version reads 1"),
    "no model": (_replace(b"model_sha256", b"model_sha255"), "has no valid model_sha256"),
    "no label": (_replace(b'"frame_label"', b'"frame_lebal"'), "has no frame_label"),
    "other type": (_replace(b'"F32"', b'"I32"'), "features is I32"),
    "nan": (
        lambda path: _set(path, "features", 9, np.nan),
        "features of F2 at base 901 of 'a' are not finite",
    ),
    "infinite": (
        lambda path: _set(path, "features", 0, np.inf),
        "features of F1 at base 1 of 'a' are not finite",
    ),
    "chunks": (lambda path: _set(path, "frame_chunk", 2, 3), "chunks are not numbered in order"),
    "last chunk": (lambda path: _set(path, "frame_chunk", -1, 5), "chunks are not numbered in order"),
    "records": (lambda path: _set(path, "chunk_record", 0, 2), "chunks do not follow its records"),
    "no such record": (lambda path: _set(path, "chunk_record", -1, 4), "chunks do not follow its records"),
    "label": (lambda path: _set(path, "frame_label", 1, 6), "unknown label"),
    "id ends": (lambda path: _set(path, "record_id_ends", 1, 100), "record ids cannot be read"),
    "id letters": (lambda path: _set(path, "record_ids", 0, 0xFF), "record ids cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_damaged_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "features.safetensors", RECORDS, some_features(RECORDS))
    read_features(path)
    damage, message = DAMAGE[kind]
    damage(path)
    with pytest.raises(FeatureFileError) as caught:
        read_features(path)
    line = str(caught.value)
    assert message in line
    assert line.startswith(str(path))
    assert "\n" not in line
    assert "check the path" in line or "virnucpro embed" in line


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FeatureFileError, match="cannot be read"):
        read_features(tmp_path)


@pytest.mark.parametrize(
    ("records", "changes", "message"),
    [
        (RECORDS, {"model_sha256": "cd" * 32}, r"different models \(tiny abab.*, tiny cdcd"),
        ({**RECORDS, "d": [["F1"]]}, {}, "the first has 4 records, the second 5"),
        ({"a": RECORDS["a"], "x": [[]]}, {}, "record 2 is 'none' in the first and 'x' in the second"),
        (
            {**RECORDS, "b|ü": [["F3"]]},
            {},
            "frame 4 is F1 at base 1 of 'b|ü' in the first and F3 at base 1 of 'b|ü' in the second",
        ),
        (
            {**RECORDS, "a": [["F1", "R3"], ["F2"]]},
            {},
            "frame 3 is F2 at base 901 of 'a' in the first and F2 at base 451",
        ),
        ({**RECORDS, "c": [[], ["R1", "R2", "R3"]]}, {}, "the first has 6 frames, the second 7"),
    ],
)
def test_files_of_other_frames_are_told_apart(
    tmp_path: Path, records: dict[str, Chunks], changes: dict[str, str], message: str
) -> None:
    first = written(tmp_path / "first", RECORDS, some_features(RECORDS))
    second: FeatureFile = written(tmp_path / "second", records, some_features(records), **changes)
    check_same_frames(first, written(tmp_path / "again", RECORDS, some_features(RECORDS) + 1, attention="v1"))
    with pytest.raises(FeatureFileError, match=message.replace("|", r"\|")) as caught:
        check_same_frames(first, second)
    assert "\n" not in str(caught.value)
