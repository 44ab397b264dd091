"""The journal of rows: what was computed is not computed again, whatever the process or the disk cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.unit.core.scoring.test_stream import HashEngine, ids_and_reasons, records, results_of, run
from virnucpro_core.scoring.outcomes import Outcome
from virnucpro_core.scoring.row_journal import JournalError, RowJournal
from virnucpro_core.scoring.stream import score_records
from virnucpro_core.sequence.prepare import PreparedFrame

RUN = {"input": "reads.fasta", "keep_u": False}
BUDGET = 200
SOURCE = [
    *records(25),
    ("long", None, records(1, seed=5)[0][2] * 8),
    ("invalid", None, "GC4"),
    *records(5, seed=3),
]


class Killed(BaseException):
    """Ends a run in the middle."""


class Mortal(HashEngine):
    """Ends the run in place of its n-th batch."""

    def __init__(self, batches: int = 10**9, bad_tokens: int = 0) -> None:
        super().__init__()
        self._left, self._bad_tokens = batches, bad_tokens

    def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
        if not self._left:
            raise Killed
        if self._bad_tokens and any(frame.tokens == self._bad_tokens for frame in frames):
            raise ValueError("not this one")
        self._left -= 1
        return super().score(frames)

    @property
    def computed(self) -> int:
        return sum(map(len, self.batches))


def score(path: Path, engine: Mortal, budget: int = BUDGET) -> list[Outcome]:
    with closing(RowJournal(path)) as journal:
        journal.begin(RUN)
        return list(score_records(SOURCE, engine, budget, 10_000, journal=journal))


def ends(outcomes: list[Outcome]) -> list[object]:
    return [getattr(outcome, "result", None) or outcome.record for outcome in outcomes]


@pytest.fixture(scope="module")
def whole() -> tuple[list[object], int]:
    """What an undisturbed run gives, and how many frames it computes."""
    engine = Mortal()
    return ends(list(score_records(SOURCE, engine, BUDGET, 10_000))), engine.computed


@pytest.mark.parametrize("seed", range(20))
def test_a_run_that_is_killed_again_and_again_computes_only_the_batches_in_flight_twice(
    seed: int, whole: tuple[list[object], int], tmp_path: Path
) -> None:
    expected, frames = whole
    rng = np.random.default_rng(seed)
    path, computed, lives = tmp_path / "journal", 0, 0
    while True:
        engine = Mortal(int(rng.integers(0, 25)))
        try:
            found = score(path, engine, int(rng.integers(150, 300)))
        except Killed:
            computed += engine.computed
            lives += 1
            assert lives < 1000
            continue
        computed += engine.computed
        break
    assert ends(found) == expected
    assert computed == frames


@settings(max_examples=25)
@given(st.data())
def test_a_journal_that_is_cut_off_or_damaged_anywhere_costs_only_what_stood_behind(
    whole: tuple[list[object], int], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    expected, frames = whole
    path = tmp_path_factory.mktemp("damaged") / "journal"
    score(path, Mortal())
    content = bytearray(path.read_bytes())
    header = content.index(b"\n") + 1
    place = data.draw(st.integers(header, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        del content[place:]
        content += bytes(data.draw(st.integers(0, 100)))
    path.write_bytes(content)
    engine = Mortal()
    assert ends(score(path, engine)) == expected
    assert 0 < engine.computed <= frames
    # It is whole again.
    engine = Mortal()
    assert ends(score(path, engine)) == expected
    assert engine.computed == 0


@pytest.mark.parametrize("stop", range(0, 40, 3))
def test_a_record_that_fails_in_one_run_and_not_in_the_next_loses_no_other(
    stop: int, whole: tuple[list[object], int], tmp_path: Path
) -> None:
    expected, _ = whole
    path = tmp_path / "journal"
    tokens = 22  # of a full chunk: most records fail
    with pytest.raises(Killed):
        score(path, Mortal(stop, bad_tokens=tokens))
    failing = ids_and_reasons(score(path, Mortal(bad_tokens=tokens)))
    plain = ids_and_reasons(list(score_records(SOURCE, Mortal(bad_tokens=tokens), BUDGET, 10_000)))
    assert failing == plain
    assert "inference_failed" in {reason for _, reason in failing}
    assert ends(score(path, Mortal())) == expected
    assert ends(score(path, Mortal())) == expected


def test_without_rows_the_file_goes_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with pytest.raises(Killed):
        score(path, Mortal(0))
    assert not path.exists()


def test_what_runs_it_is_of_and_what_differs_is_said(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with pytest.raises(Killed):
        score(path, Mortal(3))
    before = path.read_bytes()
    assert json.loads(before.split(b"\n")[0])["run"] == RUN
    with (
        closing(RowJournal(path)) as journal,
        pytest.raises(JournalError, match="its keep u is False, now it is True"),
    ):
        journal.begin(RUN | {"keep_u": True})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b">r\nACGT\n", b"{}\n", b'{"journal": "virnucpro predict", "version": 2}\n', b"\0"]
)
def test_another_file_is_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(JournalError, match="is not a journal"):
        RowJournal(path)
    assert path.read_bytes() == content


def test_two_processes_do_not_write_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with closing(RowJournal(path)) as journal:
        journal.begin(RUN)
        with pytest.raises(JournalError, match="another process is writing"):
            RowJournal(path)
    with closing(RowJournal(path)) as journal:
        journal.begin(RUN)


def test_it_is_synced_once_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, synced = [100.0], []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(now[0]))
    with closing(RowJournal(tmp_path / "journal", clock=lambda: now[0])) as journal:
        journal.begin(RUN)
        synced.clear()
        for _ in range(50):
            now[0] += 0.25
            journal.append([(0, 0)], np.zeros((1, 2), dtype=np.float32))
        assert synced == [100.0 + second for second in range(1, 13)]


def test_rows_of_another_shape_are_refused(tmp_path: Path) -> None:
    with closing(RowJournal(tmp_path / "journal")) as journal:
        journal.begin(RUN)
        with pytest.raises(ValueError, match="shape"):
            journal.append([(0, 0)], np.zeros((1, 3), dtype=np.float32))
        assert not journal.has_rows


def test_results_are_those_of_a_run_without_a_journal(tmp_path: Path) -> None:
    source = records(30)
    with closing(RowJournal(tmp_path / "journal")) as journal:
        journal.begin(RUN)
        found = results_of(score_records(source, HashEngine(), BUDGET, 1000, journal=journal))
    assert found == run(source)[0]
