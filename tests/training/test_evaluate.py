"""The report of a bundle: figures of unseen genera beside those of all, the temperature, the baseline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.training_fixture import data
from training.data.corpus import DEV, DOMAINS, TRAIN, VALIDATION
from training.data.frame_table import Frames
from training.data.make_tables import evaluated_part
from training.reports.baseline import WORDS, Baseline, drawn, shares, table
from training.reports.dev_metrics import dev_metrics, dev_temperature, piece_auroc
from training.reports.evaluate import Judge, headline
from virnucpro_core.evaluation.metrics import auroc, binary_metrics, temperature
from virnucpro_core.scoring.verdicts import verdict_margins

REPOSITORY = Path(__file__).parents[2]


def validation(pieces: bool = False) -> Frames:
    corpus = data().corpus
    return evaluated_part(corpus, data().tokenizer, 500, corpus.records_of(VALIDATION), pieces)


def margins_for(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=count)


class TestJudge:
    def test_figures_of_unseen_genera_are_of_records_of_unseen_genera_only(self) -> None:
        corpus, record = data().corpus, validation().chunk_record
        unseen = corpus.unseen(VALIDATION, TRAIN, DEV)
        margins, virus = margins_for(len(record)), corpus.labels[record] == 1
        found = Judge(corpus, unseen).of(margins, record)
        assert found["all"] == binary_metrics(margins, virus, record)
        of_new = np.isin(record, np.flatnonzero(unseen))
        assert 0 < of_new.sum() < len(record)
        assert found["unseen_genera"] == binary_metrics(margins[of_new], virus[of_new], record[of_new])
        assert found["unseen_genera"]["genomes"] == 4

    def test_parts_are_judged_by_the_mean_margin_of_their_chunks(self) -> None:
        corpus, chunks = data().corpus, validation(pieces=True)
        margins = margins_for(len(chunks.chunk_record))
        judge = Judge(corpus, corpus.unseen(VALIDATION, TRAIN, DEV))
        found = judge.of_parts(margins, chunks.chunk_piece, chunks.chunk_record)
        pieces = np.unique(chunks.chunk_piece)
        mean = np.array([margins[chunks.chunk_piece == piece].mean() for piece in pieces])
        record = np.array([chunks.chunk_record[chunks.chunk_piece == piece][0] for piece in pieces])
        assert found["all"] == binary_metrics(mean, corpus.labels[record] == 1, record)
        assert (found["all"]["pieces"], found["unseen_genera"]["pieces"]) == (6, 4)

    def test_without_any_piece_there_are_no_figures(self) -> None:
        corpus, nothing = data().corpus, np.empty(0, dtype=np.int64)
        judge = Judge(corpus, corpus.unseen(VALIDATION, TRAIN))
        found = judge.of_parts(np.empty(0), nothing, nothing)
        assert (found["all"]["pieces"], found["unseen_genera"]["auroc"]) == (0, None)

    def test_a_manifest_holds_the_figures_but_not_the_longest_tables(self) -> None:
        chunk = {"all": 1, "unseen_genera": 2, "by_novelty": 3, "by_group": 4}
        report = {"length": 500, "chunk": chunk, "curves": 5, "baseline": {"what": "trees", "chunk": chunk}}
        assert headline(report) == {
            "length": 500,
            "chunk": {"all": 1, "unseen_genera": 2, "by_group": 4},
            "baseline": {"what": "trees", "chunk": {"all": 1, "unseen_genera": 2}},
        }
        assert report["baseline"]["chunk"] is chunk


class TestDevFigures:
    def test_all_viruses_are_set_against_the_hosts_of_either_domain(self) -> None:
        corpus, dev = data().corpus, validation()
        margins = margins_for(len(dev)).astype(np.float32)
        found = dev_metrics(margins, dev, corpus)
        chunk = verdict_margins(margins, dev.frame_chunk)
        virus, domain = corpus.labels[dev.chunk_record] == 1, corpus.domains[dev.chunk_record]
        expected = [auroc(chunk[virus | (domain == d)], virus[virus | (domain == d)]) for d in DOMAINS]
        assert [found[d] for d in DOMAINS] == pytest.approx(expected, abs=1e-4)
        assert found["dev"] == pytest.approx(np.mean(expected), abs=1e-4)
        inside = domain == DOMAINS[1]
        assert found["within_eukaryotes"] == pytest.approx(auroc(chunk[inside], virus[inside]), abs=1e-4)
        assert found["all"] == pytest.approx(auroc(chunk, virus), abs=1e-4)

    def test_what_has_one_label_only_has_no_figure(self) -> None:
        corpus = data().corpus
        records = [
            i for i in corpus.records_of(VALIDATION) if corpus.labels[i] or corpus.domains[i] == DOMAINS[0]
        ]
        dev = evaluated_part(corpus, data().tokenizer, 500, np.array(records), False)
        found = dev_metrics(margins_for(len(dev)).astype(np.float32), dev, corpus)
        assert found["eukaryotes"] is found["within_eukaryotes"] is None
        assert found["dev"] == found["prokaryotes"] is not None

    def test_pieces_and_temperature(self) -> None:
        corpus, pieces = data().corpus, validation(pieces=True)
        virus = corpus.labels[pieces.chunk_record] == 1
        right = np.where(virus[pieces.frame_chunk], 1.0, -1.0).astype(np.float32)
        assert piece_auroc(right, pieces, corpus) == 1.0
        assert piece_auroc(-right, pieces, corpus) == 0.0
        margins = margins_for(len(pieces)).astype(np.float32)
        expected = temperature(verdict_margins(margins, pieces.frame_chunk), virus)
        assert dev_temperature(margins, pieces, corpus) == expected


class TestBaseline:
    def test_both_strands_have_the_same_shares(self) -> None:
        rng = np.random.default_rng(1)
        letters = "".join(rng.choice(list("ACGT"), 300))
        other = letters[::-1].translate(str.maketrans("ACGT", "TGCA"))
        one, reverse = (shares(np.frombuffer(text.encode(), np.uint8)) for text in (letters, other))
        assert one == pytest.approx(reverse)
        assert one.sum() == pytest.approx(1)
        assert len(one) == WORDS == 512

    def test_words_are_counted_and_those_with_another_letter_are_not(self) -> None:
        found = shares(np.frombuffer(b"AAAAAANAAAAC", np.uint8))  # twice AAAAA, once AAAAC
        assert sorted(found[found > 0].tolist()) == pytest.approx([1 / 3, 2 / 3])
        assert shares(np.frombuffer(b"ACG", np.uint8)).sum() == 0

    def test_a_table_is_of_the_chunks_that_it_was_asked_for(self) -> None:
        corpus, chunks = data().corpus, validation()
        found = table(corpus, chunks.chunk_record, chunks.chunk_span)
        for row in (0, 7, len(found) - 1):
            letters = corpus.sequence(int(chunks.chunk_record[row]), *chunks.chunk_span[row].tolist())
            assert found[row].tolist() == shares(np.frombuffer(letters.encode(), np.uint8)).tolist()
        assert table(corpus, [], []).shape == (0, WORDS)

    def test_it_is_trained_on_the_splits_that_it_was_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        corpus, asked = data().corpus, []
        monkeypatch.setattr(
            "training.reports.baseline.table", lambda corpus, records, spans: asked.extend(records)
        )
        drawn(corpus, (TRAIN,), 500, 80, seed=1)
        assert len(asked) == 80
        assert set(corpus.splits[asked]) == {TRAIN}

    def test_it_tells_the_labels_of_the_made_up_genomes_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("training.reports.baseline.TREES", 10)
        corpus, chunks = data().corpus, validation()
        model = Baseline(corpus, (TRAIN,), 500, 80)
        margins = model.margins(table(corpus, chunks.chunk_record, chunks.chunk_span))
        assert auroc(margins, corpus.labels[chunks.chunk_record] == 1) > 0.9
        assert len(model.margins(np.zeros((0, WORDS), dtype=np.float32))) == 0

    def test_without_scikit_learn_a_run_ends_at_once_with_one_line(self) -> None:
        code = "import sys; sys.modules['sklearn'] = None; import training.reports.baseline"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr == "the baseline needs scikit-learn: pip install 'virnucpro-stream[train]'\n"
