"""Tables of frames: drawn ones depend on seed and settings alone, evaluated ones are what the service prepares."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.training_fixture import data, tiny_recipe
from training.data.corpus import DEV, TRAIN, VALIDATION, BalancedSampler
from training.data.frame_table import DNA_PAD, Frames, widths
from training.data.make_tables import PIECE, drawn_part, evaluated_part, evaluation_table, training_table
from virnucpro_core.sequence.frames import open_frames
from virnucpro_core.sequence.prepare import prepare
from virnucpro_core.sequence.tokens import ESM2_CLS, ESM2_EOS, ESM2_PAD, esm2_token_ids

REPOSITORY = Path(__file__).parents[2]
DATA = tiny_recipe().data


def equal(one: Frames, other: Frames) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(Frames))


def drawn(number: int = 0, **changes: float) -> Frames:
    corpus = data().corpus
    sampler = BalancedSampler(corpus, corpus.records_of(TRAIN))
    return drawn_part(corpus, sampler, data().tokenizer, replace(DATA, **changes), 500, number, 30)


class TestTrainingTable:
    def test_it_does_not_depend_on_the_number_of_processes(self) -> None:
        recipe = replace(DATA, chunks=700)  # two parts
        given = (data().genomes, data().tokenizer_file, data().corpus.records_of(TRAIN), recipe, 300)
        one, two = (training_table(*given, processes) for processes in (1, 2))
        assert equal(one, two)
        assert len(one.chunk_record) == 700

    def test_it_is_of_the_splits_that_were_asked_for(self) -> None:
        corpus = data().corpus
        for splits in ((TRAIN,), (TRAIN, DEV)):
            recipe = replace(DATA, chunks=150)
            records = corpus.records_of(*splits)
            table = training_table(data().genomes, data().tokenizer_file, records, recipe, 500, 1)
            assert set(corpus.splits[table.chunk_record]) == set(splits)
            assert corpus.labels[table.chunk_record].mean() == pytest.approx(0.5, abs=0.15)

    def test_a_part_depends_on_seed_length_and_number(self) -> None:
        assert equal(drawn(3), drawn(3))
        assert not equal(drawn(3), drawn(4))
        assert not equal(drawn(3), drawn(3, seed=2))

    def test_rows_have_one_width_each_and_begin_and_end_as_the_models_expect(self) -> None:
        table = drawn()
        assert (table.protein.shape[1], table.dna.shape[1]) == widths(500) == (168, 176)
        assert widths(300) == (104, 104)
        last = (table.protein != ESM2_PAD).sum(axis=1) - 1
        assert (table.protein[:, 0] == ESM2_CLS).all()
        assert (table.protein[np.arange(len(table)), last] == ESM2_EOS).all()
        assert (np.bincount(table.frame_chunk) > 0).all()
        assert table.frame_chunk[-1] == 29
        assert (np.diff(table.frame_chunk) >= 0).all()

    def test_frames_too_long_for_a_row_are_left_out(self) -> None:
        table = drawn(full=1.0, stitched=0.0)
        assert (table.protein != ESM2_PAD).sum(axis=1).max() == 168
        assert ((table.dna != DNA_PAD).sum(axis=1) > 60).all()
        assert table.dna.dtype == np.int16

    @pytest.mark.parametrize(
        ("changes", "stretches"),
        [
            ({}, True),
            ({"recoded": 1.0, "recoded_prokaryotes": 1.0}, True),
            ({"mutated": 1.0, "mutation": 1.0}, False),
        ],
    )
    def test_proteins_are_stretches_of_the_genome_s_unless_mutated(
        self, changes: dict[str, float], stretches: bool
    ) -> None:
        corpus = data().corpus
        plain = {"stitched": 0.0, "recoded": 0.0, "recoded_prokaryotes": 0.0, "mutated": 0.0, "full": 1.0}
        table = drawn(**(plain | changes))
        found = set()
        for row, chunk in zip(table.protein, table.frame_chunk.tolist(), strict=True):
            coded = open_frames(corpus.sequence(int(table.chunk_record[chunk])))[0]  # codes from end to end
            if (
                row[row != ESM2_PAD][1:-1].tobytes()
                in esm2_token_ids(coded.protein).astype(np.uint8).tobytes()
            ):
                found.add(chunk)
        assert (len(found) == 30) == stretches

    def test_a_vocabulary_too_small_ends_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("training.data.corpus._HOPELESS", 50)
        monkeypatch.setattr("training.data.make_tables.widths", lambda length: (168, 20))
        with pytest.raises(ValueError, match="50 chunks in a row have no open frame that fits"):
            drawn()


class TestEvaluationTable:
    @pytest.mark.parametrize("length", [500, 300])
    def test_all_chunks_of_a_split_are_prepared_as_the_service_does(self, length: int) -> None:
        corpus, tokenizer = data().corpus, data().tokenizer
        records = corpus.records_of(VALIDATION)
        table = evaluation_table(data().genomes, data().tokenizer_file, records, length, False, 1)
        row = chunk = chunks = 0
        for record in records.tolist():
            prepared = prepare("r", corpus.sequence(record), length, tokenizer)
            chunks += len(prepared.spans)
            for number in sorted({frame.chunk for frame in prepared.frames}):
                assert table.chunk_record[chunk] == record
                assert tuple(table.chunk_span[chunk]) == prepared.spans[number]
                for frame in (f for f in prepared.frames if f.chunk == number):
                    assert table.frame_chunk[row] == chunk
                    assert np.array_equal(
                        table.protein[row][table.protein[row] != ESM2_PAD], frame.protein_ids
                    )
                    assert np.array_equal(table.dna[row][table.dna[row] != DNA_PAD], frame.dna_ids)
                    row += 1
                chunk += 1
        assert (row, chunk) == (len(table), len(table.chunk_record))
        assert table.without.tolist() == [chunks - chunk]
        assert (table.chunk_piece == -1).all()

    def test_pieces_are_whole_stretches_of_5_kb_and_numbered_through(self) -> None:
        corpus = data().corpus
        records = corpus.records_of(VALIDATION)
        parts = [evaluated_part(corpus, data().tokenizer, 300, records[i : i + 2], True) for i in (0, 2, 4)]
        table = evaluation_table(data().genomes, data().tokenizer_file, records, 300, True, 1)
        assert equal(Frames.join(parts), table)
        assert np.unique(table.chunk_piece).tolist() == list(range(len(records)))
        assert table.chunk_record.tolist() == records[table.chunk_piece].tolist()
        assert table.chunk_span.min() == 0
        assert table.chunk_span.max() == PIECE < corpus.lengths[records].min()

    def test_short_records_have_no_piece(self) -> None:
        corpus = data().corpus
        table = evaluated_part(corpus, data().tokenizer, 500, corpus.records_of(TRAIN), True)
        assert len(table) == len(table.chunk_record) == 0

    def test_without_records_there_is_no_table(self) -> None:
        with pytest.raises(ValueError, match="there are no records to measure on"):
            evaluation_table(
                data().genomes, data().tokenizer_file, np.empty(0, dtype=np.int64), 500, False, 1
            )


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    table = drawn()
    table.save(tmp_path / "deep" / "table.npz")
    assert equal(Frames.load(tmp_path / "deep" / "table.npz"), table)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["table.npz"]


def test_the_processes_that_prepare_frames_do_not_wait_for_torch() -> None:
    """They import the module of the command too, as any spawned process does."""
    code = "import sys, training.data.make_tables, training.run; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, timeout=60, check=False).returncode == 0
    )
