"""The written reports: their exact text, and that a file is there whole or not at all."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from virnucpro_core.scoring.report import FORMATS, float32_text, report
from virnucpro_core.scoring.results import ChunkResult, FrameResult, RecordResult, verdict_over


def f32(value: float) -> float:
    return float(np.float32(value))


def result(record_id: str, *chunks: list[tuple[str, float, float]]) -> RecordResult:
    made = tuple(
        ChunkResult(f"{record_id}_chunk_{n}", 10 * n - 10, 10 * n, verdict_over(frames), tuple(frames))
        for n, frames in enumerate(
            (
                [FrameResult(label, f32(others), f32(virus)) for label, others, virus in chunk]
                for chunk in chunks
            ),
            1,
        )
    )
    frames = [frame for chunk in made for frame in chunk.frames]
    return RecordResult(
        record_id,
        10 * len(chunks),
        verdict_over(frames),
        max((frame.virus for frame in frames), default=None),
        max((frame.others for frame in frames), default=None),
        made,
    )


SCORED = result(
    "synthetic_seq_1",
    [("R1", 0.12100612, 0.8789939), ("R2", 0.0011595711, 0.9988405)],
    [],
    [("F1", 0.5501341, 0.4498659)],
)
UNSCORED = result("no frames", [])


def text_of(form, *results: RecordResult) -> str:
    stream = io.StringIO()
    with report(form, stream) as write:
        for one in results:
            write(one)
    return stream.getvalue()


def test_tsv_is_a_row_for_each_record() -> None:
    assert text_of("tsv", SCORED, UNSCORED) == (
        "id\tlength\tverdict\tvirus_score\tothers_score\tchunks\tvirus_chunks\tframes\n"
        "synthetic_seq_1\t30\tvirus\t0.9988405\t0.5501341\t3\t1\t3\n"
        "no frames\t10\tno_open_frame\t\t\t1\t0\t0\n"
    )


def test_ids_are_written_as_they_are_and_move_no_column() -> None:
    ids = ['a"b"c,d;e\'f', '"quoted"', "é\x1b[2J"]
    lines = text_of("tsv", *(result(name, []) for name in [*ids, "a\tb\nc\rd"])).split("\n")
    assert [line.split("\t")[0] for line in lines] == ["id", *ids, r"a\tb\nc\rd", ""]
    assert {line.count("\t") for line in lines[:-1]} == {7}


def test_jsonl_is_the_whole_result() -> None:
    lines = text_of("jsonl", SCORED, UNSCORED).splitlines()
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


def test_virnucpro_writes_the_originals_two_files(tmp_path: Path) -> None:
    with report("virnucpro", tmp_path / "new" / "out") as write:
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


def test_virnucpro_sorts_chunks_as_text_and_joins_those_of_one_name(tmp_path: Path) -> None:
    others, virus = [("F1", 0.9, 0.1)], [("F1", 0.05, 0.95)]
    with report("virnucpro", tmp_path) as write:
        write(result("b", *[others] * 10))
        write(result("a", others))
        write(result("a", virus))
        write(result("B", others))
    rows = (tmp_path / "prediction_results_highestscore.csv").read_text().splitlines()[1:]
    assert rows[:4] == ["B_chunk_1\tFalse", "a_chunk_1\tTrue", "b_chunk_1\tFalse", "b_chunk_10\tFalse"]
    assert rows[4] == "b_chunk_2\tFalse"
    assert len(rows) == 12


def test_a_tie_is_others_for_the_frame_and_virus_for_the_chunk(tmp_path: Path) -> None:
    with report("virnucpro", tmp_path) as write:
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
        json.loads(line)["virus_score"] for line in [text_of("jsonl", result("r", [("F1", 0, value)]))]
    ]
    assert np.float32(back) == value


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("form", FORMATS)
def test_after_an_error_there_is_what_there_was_before(tmp_path: Path, form) -> None:
    target = tmp_path if form == "virnucpro" else tmp_path / "out"
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
    assert (tmp_path / "out.tsv").read_text() == text_of("tsv", SCORED)


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
    assert read == [text_of("tsv", SCORED)]
    assert pipe.is_fifo()


def test_the_two_files_do_not_fit_on_a_stream() -> None:
    with pytest.raises(ValueError, match="give a folder"), report("virnucpro", io.StringIO()):
        pass


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"), report("tsv", tmp_path / "missing" / "out.tsv"):
        pass
    with pytest.raises(IsADirectoryError), report("tsv", tmp_path):
        pass
