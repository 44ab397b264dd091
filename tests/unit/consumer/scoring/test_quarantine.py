"""Suspects: a record that was on the device at two deaths runs alone, and at a third is set aside."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from consumer.errors import ServiceError
from consumer.scoring.batcher import RecordJob
from consumer.scoring.inference import Inference
from consumer.scoring.quarantine import Quarantine
from consumer.types import Refused, Scored
from schemas import Reason
from tests.support.factories import ConstantScorer, prepared_record, source
from tests.unit.consumer.scoring.test_inference import Run, slots

DAY = 86_400.0


class Died(BaseException):
    """Stands for the end of the process: nothing of it is caught, and what was written stays."""


class Deadly(ConstantScorer):
    """Dies on a batch that holds a frame of 13 tokens."""

    def score(self, frames):
        if any(frame.tokens == 13 for frame in frames):
            raise Died
        return super().score(frames)


class Process:
    """One life of the service's inference, on the files that the lives share."""

    def __init__(self, folder: Path, now: float = 0.0) -> None:
        self.quarantine = Quarantine(folder, "group.worker/0", now)
        self.scorer = Deadly()
        self.run = Run(self.scorer, self.quarantine)

    def lives(self, *records: RecordJob) -> bool:
        """Run one batch; False if the process died of it."""
        try:
            self.run.inference.run(slots(records))
        except Died:
            return False
        return True


def good(offset: int) -> RecordJob:
    return RecordJob(prepared_record(10, record_id=f"good{offset}"), source(offset), 0.0)


def deadly(record_id: str = "deadly") -> RecordJob:
    return RecordJob(prepared_record(10, 13, record_id=record_id), source(7), 0.0)


def test_a_record_that_kills_three_times_is_set_aside_and_its_neighbours_are_scored(tmp_path):
    assert not Process(tmp_path).lives(good(0), deadly(), good(1))
    assert not Process(tmp_path).lives(good(0), deadly(), good(1))
    third = Process(tmp_path)
    assert third.quarantine.count == 3
    assert not third.lives(good(0), deadly(), good(1)), "each alone: the deadly one dies alone"
    assert third.scorer.batches == [1]
    assert isinstance(third.run.outcome(0), Scored)
    fourth = Process(tmp_path)
    assert fourth.lives(deadly(), good(1), good(2))
    outcome = fourth.run.outcome(7)
    assert isinstance(outcome, Refused)
    assert outcome.reason is Reason.QUARANTINED
    assert isinstance(fourth.run.outcome(1), Scored)
    assert Process(tmp_path).lives(deadly()), "until its offset is committed it may be read again"


def test_who_runs_to_the_end_is_cleared(tmp_path):
    for _ in range(2):
        assert not Process(tmp_path).lives(good(0), deadly())
    assert Process(tmp_path).lives(good(0))
    assert Process(tmp_path).quarantine.isolation(good(0)) == "run"
    assert Process(tmp_path).quarantine.isolation(deadly()) == "run_alone"


def test_only_a_whole_record_is_cleared_not_its_first_batch(tmp_path):
    for _ in range(2):
        life = Process(tmp_path)
        job = deadly()
        first, second = slots([job])
        life.run.inference.run([first])
        with pytest.raises(Died):
            life.run.inference.run([second])
    assert Process(tmp_path).quarantine.isolation(deadly()) == "run_alone"


def test_a_batch_that_ended_leaves_no_suspects(tmp_path):
    assert Process(tmp_path).lives(good(0), good(1))
    assert Process(tmp_path).quarantine.count == 0


def test_an_error_of_the_model_makes_no_suspects(tmp_path):
    class Failing(ConstantScorer):
        def score(self, frames):
            raise ValueError("no")

    quarantine = Quarantine(tmp_path, "n")
    done = []
    Inference(Failing(), lambda job, refused: done.append(job), lambda kind: None, quarantine).run(
        slots([good(0), good(1)])
    )
    assert len(done) == 2
    assert Quarantine(tmp_path, "n").count == 0


def test_another_record_at_the_same_place_meets_no_old_suspicion(tmp_path):
    for _ in range(2):
        assert not Process(tmp_path).lives(deadly())
    assert Process(tmp_path).quarantine.isolation(deadly("another")) == "run"


def test_suspicions_end_after_a_week(tmp_path):
    for _ in range(2):
        assert not Process(tmp_path, now=1000.0).lives(deadly())
    assert Process(tmp_path, now=1000.0).quarantine.count == 1
    assert Process(tmp_path, now=1000.0 + 6.9 * DAY).quarantine.count == 1
    assert Process(tmp_path, now=1000.0 + 7.1 * DAY).quarantine.count == 0


def test_instances_do_not_share_suspicions(tmp_path):
    assert not Process(tmp_path).lives(deadly())
    assert Quarantine(tmp_path, "group.worker/1").count == 0


@pytest.mark.parametrize(
    "content",
    [
        b'["cut',
        b"\xff\xfe\x00x",
        b"\x80\x81",
        bytes(100),
        b"[" * 100_000,
        b"7",
        b"null",
        b'{"x": 1}',
        b"[1, 2]",
        b'{"x": {"deaths": 1, "run_alone": false, "at": 0.0, "another": 1}}',
        b'{"x": {"deaths": "1", "run_alone": false, "at": 0.0}}',
        b'[["x"]]',
    ],
)
@pytest.mark.parametrize("suffix", [".running", ".suspects"])
def test_a_file_that_is_damaged_or_of_another_version_is_discarded(tmp_path, suffix, content):
    assert not Process(tmp_path).lives(deadly())
    (path,) = [path for path in tmp_path.iterdir() if path.suffix == suffix]
    path.write_bytes(content)
    with capture_logs() as lines:
        life = Process(tmp_path)
    (line,) = [line for line in lines if line["event"] == "state_file_discarded"]
    assert line["file"] == path.name
    assert "\n" not in line["error"]
    assert life.quarantine.count == (1 if suffix == ".suspects" else 0)
    assert life.lives(good(0))
    with capture_logs() as lines:
        Process(tmp_path)
    assert not [line for line in lines if line["event"] == "state_file_discarded"]


def test_a_shorter_batch_after_a_longer_one_is_written_whole(tmp_path):
    life = Process(tmp_path)
    life.quarantine.entering([good(offset) for offset in range(50)])
    life.quarantine.entering([good(0)])
    assert Process(tmp_path).quarantine.count == 1


def test_the_files_are_their_owners_alone(tmp_path):
    Quarantine(tmp_path / "state", "n")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_used_is_told_with_its_variable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match="VIRNUCPRO_STATE_DIR"):
        Quarantine(tmp_path / "file", "n")


def test_a_disk_that_takes_nothing_any_more_stops_nothing(tmp_path, monkeypatch):
    for _ in range(2):
        assert not Process(tmp_path).lives(good(0), deadly())
    life = Process(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "ftruncate", full)
    monkeypatch.setattr(os, "fsync", full)
    with capture_logs() as lines:
        assert life.lives(good(0), good(1))
    assert any(line["event"] == "suspects_not_written" for line in lines)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["mkdir", "open", "fsync", "replace"])
def test_a_disk_that_is_full_at_the_start_stops_nothing(tmp_path, monkeypatch, call, number):
    folder = tmp_path / "state"

    def full(*arguments, **options):
        if call == "open" and not arguments[1] & os.O_CREAT:
            return opened(*arguments, **options)
        raise OSError(number, os.strerror(number))

    opened = os.open
    with monkeypatch.context() as patch, capture_logs() as lines:
        patch.setattr(os, call, full)
        life = Process(folder)
        assert life.lives(good(0), good(1))
    assert any(line["event"] == "suspects_not_written" for line in lines)
    assert not life.lives(good(0), deadly()), "there is room again"
    assert Process(folder).quarantine.count == 2, "and the safety net is back"


def test_a_disk_that_is_full_at_the_start_forgets_no_suspicion(tmp_path, monkeypatch):
    for _ in range(2):
        assert not Process(tmp_path).lives(good(0), deadly())

    def full(*_):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    life = Process(tmp_path)
    assert life.quarantine.isolation(deadly()) == "run_alone"


def test_scores_of_one_run_alone_are_its_own(tmp_path):
    for _ in range(2):
        assert not Process(tmp_path).lives(good(0), deadly())
    life = Process(tmp_path)
    assert life.lives(good(0), good(1))
    assert life.scorer.batches == [1, 1], "a suspect runs alone, first"
    assert np.isclose(life.run.outcome(0).result.chunks[0].frames[0].virus, 0.01)


def test_however_often_it_was_on_the_device_with_others_it_is_not_set_aside(tmp_path):
    for _ in range(20):
        Quarantine(tmp_path, "n").entering([good(0), good(1), good(2)])
    quarantine = Quarantine(tmp_path, "n")
    assert [quarantine.isolation(good(offset)) for offset in range(3)] == ["run_alone"] * 3
    assert all(quarantine.runs_alone(good(offset).source) for offset in range(3))
    assert not quarantine.runs_alone(good(3).source)


def test_deaths_on_the_device_alone_count_as_such_only_once_it_was_told_to_run_alone(tmp_path):
    verdicts = []
    for _ in range(3):
        quarantine = Quarantine(tmp_path, "n")
        verdicts.append((quarantine.isolation(good(0)), quarantine.runs_alone(good(0).source)))
        quarantine.entering([good(0)])
    assert verdicts == [("run", False), ("run", False), ("run_alone", True)]
    assert Quarantine(tmp_path, "n").isolation(good(0)) == "reject"


def test_a_suspect_that_died_in_company_after_it_ran_alone_is_not_set_aside(tmp_path):
    for jobs in ([good(0)], [good(0)], [good(0), good(1)]):
        Quarantine(tmp_path, "n").entering(jobs)
    assert Quarantine(tmp_path, "n").isolation(good(0)) == "run_alone"


def test_a_topic_and_an_id_with_odd_letters_are_told_apart(tmp_path):
    job = RecordJob(prepared_record(10, record_id="a/b//c/7"), source(7), 0.0)
    for _ in range(2):
        Quarantine(tmp_path, "n").entering([job])
    quarantine = Quarantine(tmp_path, "n")
    assert quarantine.runs_alone(source(7))
    assert not quarantine.runs_alone(source(7, number=1))


def staged(life: Process, *jobs: RecordJob) -> None:
    """What the stage thread does with the batch to come."""
    life.quarantine.announced(jobs)


class TestTheNextBatchIsWrittenDownEarly:
    def test_a_batch_that_was_announced_is_not_written_again(self, tmp_path, monkeypatch):
        life, synced = Process(tmp_path), []
        monkeypatch.setattr(os, "fdatasync", synced.append)
        staged(life, good(0), good(1))
        assert len(synced) == 1
        life.quarantine.begins()
        assert life.lives(good(0), good(1))
        assert len(synced) == 1

    def test_it_is_known_after_a_death_though_nothing_is_written_as_it_enters(self, tmp_path):
        life = Process(tmp_path)
        staged(life, good(0), deadly())
        life.quarantine.begins()
        assert not life.lives(good(0), deadly())
        assert Process(tmp_path).quarantine.count == 2

    def test_other_records_than_the_announced_ones_are_written_as_they_enter(self, tmp_path):
        """Of the batch some were dropped, or it is run in parts."""
        life = Process(tmp_path)
        staged(life, good(0), deadly(), good(1))
        life.quarantine.begins()
        assert not life.lives(deadly())
        assert Process(tmp_path).quarantine.count == 1

    def test_announcing_the_next_batch_leaves_the_one_on_the_device_alone(self, tmp_path):
        life = Process(tmp_path)
        staged(life, deadly(), good(0))
        life.quarantine.begins()
        staged(life, good(1), good(2))
        assert not life.lives(deadly(), good(0))
        assert Process(tmp_path).quarantine.count == 4, "which of the two batches it was is not known"

    def test_a_batch_of_which_all_was_dropped_leaves_no_suspects(self, tmp_path):
        life = Process(tmp_path)
        staged(life, good(0))
        life.quarantine.begins()
        assert life.lives()
        assert Process(tmp_path).quarantine.count == 0

    def test_the_killer_is_set_aside_and_its_neighbour_in_the_next_batch_never(self, tmp_path):
        """However often it waits alone behind the record that kills."""
        for _ in range(2):
            life = Process(tmp_path)
            staged(life, deadly())
            life.quarantine.begins()
            staged(life, good(0))
            assert not life.lives(deadly())
        for _ in range(2):
            third = Process(tmp_path)
            assert third.quarantine.isolation(good(0)) == "run_alone"
            staged(third, deadly())
            third.quarantine.begins()
            staged(third, good(0))
            if third.quarantine.isolation(deadly()) == "reject":
                break
            assert not third.lives(deadly())
        assert third.lives(deadly())
        assert third.run.outcome(7).reason is Reason.QUARANTINED
        third.quarantine.begins()
        assert third.lives(good(0))
        assert isinstance(third.run.outcome(0), Scored)
        assert Process(tmp_path).quarantine.isolation(good(0)) == "run"
