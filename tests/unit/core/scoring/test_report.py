"""The written reports: their exact text, and that files are there whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.support.results import left_out, result, scored, text_of
from virnucpro_core.scoring.contig_rule import CALL_FIELDS
from virnucpro_core.scoring.decimals import float32_text
from virnucpro_core.scoring.report import FORMATS, INTO_FOLDER, Details, Format, Write, report_of, reports

SCORED = result(
    "synthetic_seq_1",
    [("R1", 0.12100612, 0.8789939), ("R2", 0.0011595711, 0.9988405)],
    [],
    [("F1", 0.5501341, 0.4498659)],
)
UNSCORED = result("no frames", [])


@contextmanager
def report(form: Format, target) -> Iterator[Write]:
    """One report alone; takes results."""
    with reports([report_of(form, target, Details())]) as write:
        yield lambda found: write(scored(found))


def test_tsv_is_a_row_for_each_record() -> None:
    assert text_of("tsv", [SCORED, left_out(), UNSCORED]) == (
        "id\tlength\tverdict\tvirus_score\tothers_score\tchunks\tvirus_chunks\tframes\tcall\ttier\tweighted_delta\t"
        "n_chunks\tn_confident_viral\tn_confident_nonviral\tn_ambiguous\tviral_proportion\tnonviral_proportion\n"
        "synthetic_seq_1\t30\tvirus\t0.9988405\t0.5501341\t3\t1\t3\tViral\tlow_confidence\t0.631\t2\t1\t0\t0\t0.5\t0.0\n"
        "no frames\t10\tno_open_frame\t\t\t1\t0\t0\t\t\t\t\t\t\t\t\t\n"
    )


def test_ids_are_written_as_they_are_and_move_no_column() -> None:
    ids = ['a"b"c,d;e\'f', '"quoted"', "é\x1b[2J"]
    lines = text_of("tsv", [result(name, []) for name in [*ids, "a\tb\nc\rd"]]).split("\n")
    assert [line.split("\t")[0] for line in lines] == ["id", *ids, r"a\tb\nc\rd", ""]
    assert {line.count("\t") for line in lines[:-1]} == {16}


def test_jsonl_is_the_whole_result() -> None:
    lines = text_of("jsonl", [SCORED, left_out(), UNSCORED]).splitlines()
    first, second = map(json.loads, lines)
    assert first["id"] == "synthetic_seq_1"
    assert (first["length"], first["verdict"], first["virus_score"], first["others_score"]) == (
        30,
        "virus",
        0.9988405,
        0.5501341,
    )
    assert first["chunks"][0] == {
        "name": "synthetic_seq_1_chunk_1",
        "start": 0,
        "end": 10,
        "verdict": "virus",
        "frames": [
            {"frame": "R1", "others": 0.12100612, "virus": 0.8789939},
            {"frame": "R2", "others": 0.0011595711, "virus": 0.9988405},
        ],
    }
    assert [chunk["verdict"] for chunk in first["chunks"]] == ["virus", "no_open_frame", "others"]
    assert (second["virus_score"], second["others_score"], second["chunks"][0]["frames"]) == (None, None, [])
    assert [first[name] for name in CALL_FIELDS][:2] == ["Viral", "low_confidence"]
    assert first["weighted_delta"] == pytest.approx(0.6308, abs=1e-4)
    assert [second[name] for name in CALL_FIELDS] == [None] * 9
    assert "provenance" not in first


def test_jsonl_says_what_made_each_result() -> None:
    details = Details(provenance={"model_id": "nano", "source_offset": None})
    lines = text_of("jsonl", [SCORED, UNSCORED], details).splitlines()
    assert [json.loads(line)["provenance"] for line in lines] == [dict(details.provenance)] * 2


def test_contigs_has_a_row_for_each_record_with_a_score_in_natural_order_of_the_ids() -> None:
    virus, others = [("F1", 0.1, 0.9)], [("F1", 0.9, 0.1)]
    given = [result("NODE_10", virus), UNSCORED, left_out(), result("NODE_2", *[others] * 5)]
    given += [result("NODE_010", virus), result("a", virus)]
    assert text_of("contigs", given) == (
        "ID\tcall\ttier\tweighted_delta\tn_chunks\tn_confident_viral\tn_confident_nonviral\tn_ambiguous\t"
        "viral_proportion\tnonviral_proportion\n"
        "NODE_2\tNon-viral\thigh_confidence\t-0.8\t5\t0\t5\t0\t0.0\t1.0\n"
        "NODE_010\tViral\tlow_confidence\t0.8\t1\t1\t0\t0\t1.0\t0.0\n"
        "NODE_10\tViral\tlow_confidence\t0.8\t1\t1\t0\t0\t1.0\t0.0\n"
        "a\tViral\tlow_confidence\t0.8\t1\t1\t0\t0\t1.0\t0.0\n"
    )


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_scored_is_a_header_alone(tmp_path: Path, form) -> None:
    target = tmp_path / "out"
    with reports([report_of(form, target, Details())]) as write:
        write(left_out())
    written = sorted(target.iterdir()) if form in INTO_FOLDER else [target]
    assert [len(path.read_text().splitlines()) for path in written] == [0 if form == "jsonl" else 1] * len(
        written
    )


def test_virnucpro_v1_writes_the_originals_two_files(tmp_path: Path) -> None:
    with report("virnucpro-v1", tmp_path / "new" / "out") as write:
        write(SCORED)
        write(UNSCORED)
    assert (tmp_path / "new/out/prediction_results.txt").read_text() == (
        "Sequence_ID\tPrediction\tscore1\tscore2\n"
        "synthetic_seq_1_chunk_1R1\tvirus\t0.12100612\t0.8789939\n"
        "synthetic_seq_1_chunk_1R2\tvirus\t0.0011595711\t0.9988405\n"
        "synthetic_seq_1_chunk_3F1\tothers\t0.5501341\t0.4498659\n"
    )
    assert (tmp_path / "new/out/prediction_results_highestscore.csv").read_text() == (
        "Modified_ID\tIs_Virus\nsynthetic_seq_1_chunk_1\tTrue\nsynthetic_seq_1_chunk_3\tFalse\n"
    )
    assert len(list((tmp_path / "new/out").iterdir())) == 2


def test_virnucpro_has_the_two_scores_in_the_file_of_chunks(tmp_path: Path) -> None:
    for form in ("virnucpro", "virnucpro-v1"):
        with report(form, tmp_path / form) as write:
            write(SCORED)
            write(UNSCORED)
    frames = {(tmp_path / form / "prediction_results.txt").read_text() for form in INTO_FOLDER}
    assert len(frames) == 1
    assert (tmp_path / "virnucpro/prediction_results_highestscore.csv").read_text() == (
        "Modified_ID\tIs_Virus\tmax_score_0\tmax_score_1\n"
        "synthetic_seq_1_chunk_1\tTrue\t0.12100612\t0.9988405\n"
        "synthetic_seq_1_chunk_3\tFalse\t0.5501341\t0.4498659\n"
    )


def test_records_of_one_id_are_told_apart_for_programs_that_go_by_the_id(tmp_path: Path) -> None:
    virus, others = [("F1", 0.1, 0.9)], [("F1", 0.9, 0.1)]
    given = [result("r", virus), result("s", virus), result("r", others), result("r_1", others)]
    with report("virnucpro", tmp_path) as write:
        for found in given:
            write(found)
    text = (tmp_path / "prediction_results_highestscore.csv").read_text()
    rows = list(csv.reader(text.splitlines(), delimiter="\t"))[1:]
    assert [row[:2] for row in rows] == [
        ["r_1_chunk_1", "False"],
        ["r_2_chunk_1", "True"],
        ["r_3_chunk_1", "False"],
        ["s_chunk_1", "True"],
    ]
    frames = (tmp_path / "prediction_results.txt").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in frames] == [
        f"{name}_chunk_1F1" for name in ("r_2", "s", "r_3", "r_1")
    ]
    contigs = text_of("contigs", given).splitlines()[1:]
    assert [line.split("\t")[:2] for line in contigs] == [
        ["r_1", "Non-viral"],
        ["r_2", "Viral"],
        ["r_3", "Non-viral"],
        ["s", "Viral"],
    ]
    assert [line.split("\t")[0] for line in text_of("tsv", given).splitlines()[1:]] == ["r", "s", "r", "r_1"]


def test_virnucpro_v1_sorts_chunks_as_text_and_joins_those_of_one_name(tmp_path: Path) -> None:
    others, virus = [("F1", 0.9, 0.1)], [("F1", 0.05, 0.95)]
    with report("virnucpro-v1", tmp_path) as write:
        write(result("b", *[others] * 10))
        write(result("a", others))
        write(result("a", virus))
        write(result("B", others))
    rows = (tmp_path / "prediction_results_highestscore.csv").read_text().splitlines()[1:]
    assert rows[:4] == ["B_chunk_1\tFalse", "a_chunk_1\tTrue", "b_chunk_1\tFalse", "b_chunk_10\tFalse"]
    assert rows[4] == "b_chunk_2\tFalse"
    assert len(rows) == 12


def test_a_tie_is_others_for_the_frame_and_virus_for_the_chunk(tmp_path: Path) -> None:
    with report("virnucpro-v1", tmp_path) as write:
        write(result("t", [("F1", 0.5, 0.5)]))
    assert "t_chunk_1F1\tothers\t0.5\t0.5\n" in (tmp_path / "prediction_results.txt").read_text()
    assert "t_chunk_1\tTrue\n" in (tmp_path / "prediction_results_highestscore.csv").read_text()


@pytest.mark.parametrize("bits", [1, 0x3F7FFFFF, 0x38D1B717, 0x3DF7D20F, 0x322BCC77, 0x3F800000])
def test_a_score_is_the_shortest_text_of_its_float32(bits: int) -> None:
    value = np.array([bits], dtype=np.uint32).view(np.float32)[0]
    text = float32_text(float(value))
    assert np.float32(text) == value
    assert text == str(value)  # as the original's str() of an array element
    (back,) = [
        json.loads(line)["virus_score"] for line in [text_of("jsonl", [result("r", [("F1", 0, value)])])]
    ]
    assert np.float32(back) == value


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("form", FORMATS)
def test_after_an_error_there_is_what_there_was_before(tmp_path: Path, form) -> None:
    target = tmp_path if form in INTO_FOLDER else tmp_path / "out"
    with report(form, target) as write:
        write(UNSCORED)
    before = files(tmp_path)

    def interrupted() -> None:
        with report(form, target) as write:
            write(SCORED)
            assert files(tmp_path).items() > before.items()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files(tmp_path) == before
    with report(form, target) as write:
        write(SCORED)
    assert files(tmp_path).keys() == before.keys()
    assert files(tmp_path) != before


def test_the_file_has_no_name_before_it_is_complete(tmp_path: Path) -> None:
    with report("tsv", tmp_path / "out.tsv") as write:
        write(SCORED)
        assert not (tmp_path / "out.tsv").exists()
    assert (tmp_path / "out.tsv").read_text() == text_of("tsv", [SCORED])


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with report("tsv", tmp_path / "link"):
        pass
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text().startswith("id\t")


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    with report("tsv", pipe) as write:
        write(SCORED)
    reader.join(10)
    assert read == [text_of("tsv", [SCORED])]
    assert pipe.is_fifo()


def test_the_two_files_do_not_fit_on_a_stream() -> None:
    with pytest.raises(ValueError, match="give a folder"):
        report_of("virnucpro", io.StringIO(), Details())


def test_several_reports_are_all_there_or_none(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.tsv", "b.jsonl", "c.tsv")]
    paths[0].write_text("before")
    wanted = [
        report_of(form, path, Details())
        for form, path in zip(("tsv", "jsonl", "contigs"), paths, strict=True)
    ]

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("no space left")

    with (
        pytest.raises(OSError, match="no space"),
        reports([*wanted, report_of("contigs", Full(), Details())]) as write,
    ):
        write(scored(SCORED))
    assert files(tmp_path) == {"a.tsv": "before"}
    with reports(wanted) as write:
        write(scored(SCORED))
    texts = [text_of(form, [SCORED]) for form in ("tsv", "jsonl", "contigs")]
    assert files(tmp_path) == dict(zip(("a.tsv", "b.jsonl", "c.tsv"), texts, strict=True))


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"), report("tsv", tmp_path / "missing" / "out.tsv"):
        pass
    with pytest.raises(IsADirectoryError), report("tsv", tmp_path):
        pass
