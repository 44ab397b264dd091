"""What is held out is whole: no record, and no group, is on both sides."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.features_fixture import Chunks, count_frames, written
from virnucpro_core.evaluation.labels import Label, LabelFileError
from virnucpro_core.heads.feature_file import FeatureFile
from virnucpro_core.heads.splits import MIN_UNITS, LabelledRecords, Part

VIRUS, OTHERS = Label(True), Label(False)


def file_of(records: dict[str, Chunks]) -> FeatureFile:
    with tempfile.TemporaryDirectory() as folder:
        return written(Path(folder) / "f", records, np.zeros((count_frames(records), 2), dtype=np.float32))


def alternating(count: int, groups: int = 0) -> dict[str, Label]:
    return {f"r{n}": Label(n % 2 == 0, f"g{n % groups}" if groups else "") for n in range(count)}


def records_of(labels: dict[str, Label]) -> dict[str, Chunks]:
    """Records of one to three chunks, of one or two frames."""
    return {name: [["F1"], ["F1", "R2"], ["R3"]][: 1 + n % 3] for n, name in enumerate(labels)}


def check_part(part: Part, file: FeatureFile, labels: dict[str, Label]) -> None:
    """Everything that a part says about its frames is what the file says."""
    for name, row, chunk, owner in zip(
        *(range(len(part.rows)), part.rows, part.frame_chunk, part.frame_record), strict=True
    ):
        record_id = file.record_ids[file.frame_record[row]]
        assert part.record_ids[owner] == record_id
        assert part.chunk_record[chunk] == owner
        assert part.is_virus[owner] == part.frame_is_virus[name] == labels[record_id].is_virus
    for numbers in (part.frame_chunk, part.frame_record, part.chunk_record):
        assert np.array_equal(np.unique(numbers), np.arange(len(np.unique(numbers))))
        assert (np.diff(numbers) >= 0).all()


chunks = st.lists(st.sampled_from(([], ["F1"], ["F1", "R1", "R2"])), max_size=3)
labelled = st.tuples(
    chunks, st.sampled_from((None, True, False)), st.sampled_from(("", "", "g", "h", "i", "j"))
)


@settings(deadline=None)  # it writes files
@given(st.lists(labelled, min_size=8, max_size=40), st.floats(0.05, 0.9), st.integers(0, 5))
def test_no_record_and_no_group_is_on_both_sides(drawn: list[tuple], share: float, seed: int) -> None:
    names = [f"r{n}" for n in range(len(drawn))]
    records: dict[str, Chunks] = {name: found for name, (found, _, _) in zip(names, drawn, strict=True)}
    labels = {n: Label(v, g) for n, (_, v, g) in zip(names, drawn, strict=True) if v is not None}
    file = file_of(records)
    try:
        found = LabelledRecords(file, labels)
        training, held_out = found.split(share, seed)
    except LabelFileError as error:
        if "would be held out" in str(error):
            held, of = map(int, re.findall(r"(\d+) of (\d+) records ", str(error))[0])
            assert not share / 2 <= held / of <= min(max(2 * share, 0.25), (1 + share) / 2)
            return
        for is_virus in (True, False):
            named = {n: u for n, u in labels.items() if any(records[n]) and u.is_virus is is_virus}
            if len({u.group or f"record {n}" for n, u in named.items()}) < MIN_UNITS:
                return
        raise
    for part in (training, held_out):
        check_part(part, file, labels)
        assert 0 < part.is_virus.sum() < len(part.is_virus)
    assert not set(training.record_ids) & set(held_out.record_ids)
    assert not set(training.unit) & set(held_out.unit)
    groups = [{labels[name].group for name in part.record_ids} - {""} for part in (training, held_out)]
    assert not groups[0] & groups[1]
    for is_virus in (True, False):
        held, kept = (int((part.is_virus == is_virus).sum()) for part in (held_out, training))
        assert share / 2 <= held / (held + kept) <= min(max(2 * share, 0.25), (1 + share) / 2)
    both = sorted([*training.record_ids, *held_out.record_ids])
    assert both == sorted(name for name in labels if any(records[name]))
    frames = np.concatenate([training.rows, held_out.rows])
    labelled_frames = [n for n, r in enumerate(file.frame_record) if file.record_ids[r] in labels]
    assert sorted(frames.tolist()) == labelled_frames
    assert found.whole().rows.tolist() == labelled_frames
    assert found.without_label == sum(any(records[name]) for name in names if name not in labels)
    assert found.without_open_frame == sum(not any(records[name]) for name in labels)


@pytest.mark.parametrize(("share", "expected"), [(0.05, 1), (0.2, 4), (0.5, 10), (0.9, 18)])
def test_the_share_is_of_each_label(share: float, expected: int) -> None:
    labels = {f"v{n}": VIRUS for n in range(20)} | {f"o{n}": OTHERS for n in range(40)}
    _, held_out = LabelledRecords(file_of(records_of(labels)), labels).split(share, 1)
    assert held_out.is_virus.sum() == expected
    assert (~held_out.is_virus).sum() == 2 * expected
    assert held_out.counts()["units"] == 3 * expected


def test_another_seed_holds_out_others_and_the_order_of_the_file_does_not_matter() -> None:
    labels = alternating(40)
    records = records_of(labels)

    def held_out(records: dict[str, Chunks], seed: int) -> set[str]:
        return set(LabelledRecords(file_of(records), labels).split(0.2, seed)[1].record_ids)

    assert held_out(records, 1) == held_out(records, 1) == held_out(dict(reversed(records.items())), 1)
    assert held_out(records, 1) != held_out(records, 2)


def test_groups_of_both_labels_are_held_out_whole() -> None:
    labels = alternating(60, groups=5)
    found = LabelledRecords(file_of(records_of(labels)), labels)
    training, held_out = found.split(0.2, 1)
    assert found.by == "group"
    assert len({labels[name].group for name in held_out.record_ids}) == 1
    assert len({labels[name].group for name in training.record_ids}) == 4


@pytest.mark.parametrize("seed", range(5))
def test_a_group_that_holds_most_of_a_label_is_trained_on(seed: int) -> None:
    """57 of 64 records of one group, and seven of others: a random group would leave seven to train on."""
    labels = {f"v{n}": Label(True, "large" if n < 57 else f"g{n}") for n in range(64)}
    labels |= {f"o{n}": Label(False, f"h{n}") for n in range(64)}
    training, held_out = LabelledRecords(file_of(records_of(labels)), labels).split(0.2, seed)
    assert (held_out.is_virus.sum(), (~held_out.is_virus).sum()) == (7, 13)
    assert training.is_virus.sum() == 57


def test_groups_that_no_split_suits_are_refused_with_the_numbers() -> None:
    labels = {f"v{n}": Label(True, f"g{n if n > 61 else n // 31}") for n in range(64)}
    labels |= {f"o{n}": Label(False, f"h{n}") for n in range(64)}
    found = LabelledRecords(file_of(records_of(labels)), labels)
    with pytest.raises(
        LabelFileError,
        match=r"virus: 2 of 64 records \(3%\) would be held out where 20% is asked for: its 4 groups are uneven, the "
        r"largest has 31 records; take finer groups",
    ):
        found.split(0.2, 1)


def test_records_of_one_id_stay_together(tmp_path: Path) -> None:
    from tests.support.features_fixture import info, record
    from virnucpro_core.heads.feature_reader import read_features
    from virnucpro_core.heads.feature_writer import feature_writer

    labels = alternating(8)
    with feature_writer(tmp_path / "f", info(2)) as writer:
        for name in [*labels, *labels, *labels]:
            writer.add(record(name, [["F1"]]), [np.zeros(2, dtype=np.float32)])
    for seed in range(5):
        training, held_out = LabelledRecords(read_features(tmp_path / "f"), labels).split(0.5, seed)
        assert len(training.record_ids) == len(held_out.record_ids) == 12
        assert not set(training.record_ids) & set(held_out.record_ids)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {f"r{n}": Label(n < 3) for n in range(20)},
            "virus: 3 records with an open frame, and at least 4 are needed",
        ),
        ({f"r{n}": Label(n > 0) for n in range(20)}, "others: 1 record with an open frame"),
        (
            {f"r{n}": Label(n % 2 == 0, "abc"[n % 3]) for n in range(30)},
            "others: 3 groups with an open frame, .* or take finer groups",
        ),
    ],
)
def test_too_few_to_hold_some_out(labels: dict[str, Label], message: str) -> None:
    found = LabelledRecords(file_of(records_of(labels)), labels)
    with pytest.raises(LabelFileError, match=message):
        found.split(0.2, 1)


@pytest.mark.parametrize(
    "labels", [{"x": VIRUS, "y": OTHERS}, {"a": VIRUS, "b": VIRUS}, {"a": VIRUS, "none": OTHERS}]
)
def test_labels_that_do_not_meet_the_records(labels: dict[str, Label]) -> None:
    file = file_of({"a": [["F1"]], "b": [["F1"]], "none": [[]]})
    with pytest.raises(
        LabelFileError, match=r"are labelled virus and 0 others, .* the ids of the table must"
    ):
        LabelledRecords(file, labels)
