"""The loop that owns Kafka: assignment, revoke, lost, backpressure, drain. Kafka is in memory, the device a test's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from structlog.testing import capture_logs

from consumer.delivery.answers import SOURCE_HEADER
from consumer.errors import KafkaFatal, ServiceError
from consumer.ops.health import not_ready
from consumer.types import Partition, Source
from tests.simulation.member import (
    FAILING,
    FAST,
    HALT,
    INPUT,
    LETTERS,
    OUTPUT,
    PARTITIONS,
    POISON,
    Member,
    Pace,
)
from tests.simulation.memory_clients import Fault
from tests.simulation.memory_kafka import MemoryKafka, Record
from tests.support.factories import FakeClock

SESSION_S = 10.0
STARTS = Pace(2, 0)
BOTH = pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])


class Bench:
    """A service over Kafka in memory, whose turns a test takes one by one."""

    def __init__(self, guarantee: str = "at_least_once", max_records: int = 100, **options: object) -> None:
        self.clock = FakeClock()
        self.kafka = MemoryKafka(
            self.clock, dict.fromkeys((INPUT, OUTPUT, LETTERS), PARTITIONS), session_s=SESSION_S
        )
        self._transactional = guarantee == "exactly_once"
        self._options = {"max_inflight_records": max_records} | options
        self.one = self.member()
        self.monitor, self.ledger = self.one.telemetry.monitor, self.one.ledger

    def member(self, slot: int = 0) -> Member:
        member = Member(self.kafka, slot, self._transactional, **self._options)
        member.begin()
        return member

    def write(self, number: int, count: int = 1, value: bytes = b"good") -> None:
        self.kafka.write(Partition(INPUT, number), [value] * count)

    def turn(self, pace: Pace = FAST, turns: int = 1, member: Member | None = None) -> None:
        """Errors come out as the service raises them."""
        member = member or self.one
        member.pipeline.pace = pace
        for _ in range(turns):
            member.service.turn()

    def turn_until(self, condition: Callable[[], object], pace: Pace = FAST, turns: int = 2000) -> None:
        for _ in range(turns):
            if condition():
                return
            self.turn(pace)
        raise AssertionError("the condition did not come")

    def drain(self, pace: Pace = FAST, timeout_s: float = 25.0) -> bool:
        self.one.pipeline.pace = pace
        return self.one.service.drain(timeout_s)

    def lose(self, member: Member | None = None) -> None:
        """The process stands still for so long that its group puts it out."""
        self.clock.advance(SESSION_S + 1)
        self.turn(HALT, member=member)

    def answered(self, number: int | None = None) -> list[int]:
        """The offsets of an input partition, or of all, in the order of their answers."""
        found = []
        for topic in (OUTPUT, LETTERS):
            for _, _, record in self.kafka.records(topic):
                _, source, offset = dict(record.headers)[SOURCE_HEADER].decode().split("/")
                if number in (None, int(source)):
                    found.append(int(offset))
        return found

    @property
    def committed(self) -> dict[int, int]:
        return {partition.number: offset for partition, offset in self.kafka.group.committed.items()}

    def epoch(self, number: int) -> int | None:
        return self.ledger.epoch(Partition(INPUT, number))

    def count(self, name: str, **labels: str) -> float:
        return self.one.telemetry.metrics.registry.get_sample_value(f"vnp_{name}", labels) or 0.0


@pytest.fixture
def make() -> type[Bench]:
    return Bench


@BOTH
def test_records_are_answered_in_order_and_committed(make, guarantee):
    bench = make(guarantee=guarantee)
    bench.write(0, 30)
    bench.write(1, 10)
    bench.turn_until(lambda: len(bench.answered()) == 40)
    assert bench.answered(0) == list(range(30))
    assert bench.answered(1) == list(range(10))
    bench.turn_until(lambda: bench.committed == {0: 30, 1: 10})
    assert bench.one.admin.asked == 1, "the topics are looked at when the assignment has changed"
    assert bench.count("records_total", outcome="predicted") == 40
    assert bench.count("records_consumed_total") == 40
    assert not_ready(bench.monitor.snapshot()) is None
    assert bench.drain()
    assert not_ready(bench.monitor.snapshot()) == "shutting down"


@BOTH
def test_stopping_finishes_what_has_started_and_leaves_the_rest_to_the_next(make, guarantee):
    bench = make(guarantee=guarantee)
    bench.write(0, 20)
    bench.turn_until(lambda: bench.ledger.records == 20, HALT)
    bench.one.pipeline.start(8)
    bench.write(0, 5)
    with capture_logs() as lines:
        assert bench.drain(Pace(5, 1, newest_first=False))
    assert bench.answered() == list(range(8))
    assert bench.committed == {0: 8}
    assert [(line["event"], line["records"]) for line in lines] == [("draining", 20), ("paused", 20)]
    bench.one.take_down()
    other = bench.member(slot=1)
    for _ in range(200):
        bench.turn(member=other)
    assert bench.answered() == list(range(25))


def test_a_drain_that_takes_too_long_leaves_the_rest_uncommitted_and_says_so(make):
    bench = make()
    bench.write(0, 5)
    bench.turn_until(lambda: bench.ledger.records == 5, HALT)
    bench.one.pipeline.start(1)
    with capture_logs() as lines:
        assert not bench.drain(HALT, timeout_s=0.2)
    assert (bench.committed, bench.answered()) == ({}, [])
    assert [(line["event"], line["records"], line["log_level"]) for line in lines] == [
        ("draining", 5, "info"),
        ("paused", 5, "info"),
        ("drain_timed_out", 5, "warning"),
    ]
    assert lines[1]["reason"] == "draining"


def test_at_least_once_a_revoke_finishes_what_runs_drops_the_rest_and_commits_first(make):
    bench = make()
    bench.write(1, 50)
    bench.turn_until(lambda: bench.ledger.records == 50, HALT)
    bench.turn(STARTS, 3)
    other = bench.member(slot=1)
    bench.turn(Pace(0, 1), turns=60)
    bench.turn(HALT, member=other)
    bench.turn(Pace(0, 1))
    assert bench.epoch(1) is None, "it went to the other"
    done = len(bench.answered(1))
    assert 1 <= done < 50, "what ran is finished, what waited is not started"
    assert bench.answered(1) == list(range(done))
    assert bench.committed[1] == done
    assert bench.count("assigned_partitions") == len(bench.ledger.assigned) < PARTITIONS


def test_exactly_once_nothing_is_committed_in_a_revoke_and_the_next_owner_answers_it(make):
    """The broker would take it, whoever owns the partition by then."""
    bench = make(guarantee="exactly_once", commit_interval_ms=5000)
    bench.write(0)
    bench.turn_until(lambda: bench.committed == {0: 1})
    bench.write(1, 50)
    bench.turn_until(lambda: bench.ledger.records == 50, HALT)
    bench.one.pipeline.start(3)
    for _ in range(3):
        bench.one.pipeline.finish(0)
    other = bench.member(slot=1)
    while bench.epoch(1) is not None:
        bench.turn(HALT)
        bench.turn(HALT, member=other)
    assert (bench.committed, bench.answered(1)) == ({0: 1}, []), "three had finished"
    for _ in range(400):
        bench.turn()
        bench.turn(member=other)
    assert bench.answered(1) == list(range(50))
    assert bench.committed[1] == 50


@BOTH
def test_a_lost_partition_is_never_committed(make, guarantee):
    bench = make(guarantee=guarantee)
    bench.write(0, 6)
    bench.turn_until(lambda: bench.ledger.records == 6, HALT)
    bench.turn(Pace(3, 0))
    bench.lose()
    for _ in range(3):
        bench.one.pipeline.finish(0)
    bench.turn(HALT, 3)
    assert bench.count("records_total", outcome="stale") == 3
    assert (bench.committed, bench.answered()) == ({}, [])


def test_a_partition_that_comes_back_is_read_in_a_new_epoch(make):
    bench = make()
    bench.turn_until(lambda: bench.epoch(0) == 1)
    bench.lose()
    bench.write(0)
    bench.turn_until(lambda: bench.answered() == [0])
    assert bench.epoch(0) == 2
    assert bench.count("rebalances_total", event="lost") == 1


@BOTH
def test_a_log_that_was_cut_is_read_on_from_where_it_is_now(make, guarantee):
    bench = make(guarantee=guarantee)
    bench.write(0, 13)
    bench.turn_until(lambda: bench.ledger.records == 13, HALT)
    bench.turn(Pace(8, 0))
    with capture_logs() as lines:
        bench.one.consumer.seek(TopicPartition(INPUT, 0, 3))
        bench.turn_until(lambda: len(bench.answered()) == 13)
    assert bench.answered() == list(range(13)), "an answer of before the cut would come twice"
    assert bench.epoch(0) == 2
    assert bench.count("records_total", outcome="stale") == 5
    bench.turn_until(lambda: bench.committed == {0: 13})
    (line,) = [line for line in lines if line["event"] == "log_truncated"]
    assert (line["partition"], line["to"]) == (str(Partition(INPUT, 0)), 3)


def test_full_budgets_hold_then_pause_then_go_on(make):
    bench = make(max_records=12)
    for number in range(PARTITIONS):
        bench.write(number, 40)
    with capture_logs() as lines:
        bench.turn_until(lambda: bench.count("backpressure_seconds_total", level="pause") > 0, HALT)
    assert bench.ledger.records == 12
    assert bench.count("backpressure_seconds_total", level="hold") > 0
    (line,) = [line for line in lines if line["event"] == "paused"]
    assert (line["reason"], line["records"]) == ("records", 12)
    assert bench.monitor.snapshot().limit == "records"
    bench.turn_until(lambda: len(bench.answered()) == 120)
    assert [bench.answered(number) for number in range(PARTITIONS)] == [list(range(40))] * PARTITIONS
    bench.turn()
    assert bench.monitor.snapshot().limit is None


def test_tokens_that_wait_stop_the_reading_too(make):
    bench = make(max_tokens=300)
    for number in range(PARTITIONS):
        bench.write(number, 60)
    with capture_logs() as lines:
        bench.turn_until(lambda: bench.count("backpressure_seconds_total", level="pause") > 0, HALT)
    assert [line["reason"] for line in lines if line["event"] == "paused"] == ["tokens"]
    bench.turn_until(lambda: len(bench.answered()) == 180)


@BOTH
@pytest.mark.parametrize("budget", [{"max_records": 20}, {"max_tokens": 200}])
def test_a_backlog_in_one_partition_leaves_the_others_room(make, guarantee, budget):
    """It holds its share and is paused alone; what comes elsewhere is read at once."""
    bench = make(guarantee=guarantee, **budget)
    bench.write(0, 200)
    with capture_logs() as lines:
        bench.turn(HALT, 50)
        assert bench.ledger.held()[Partition(INPUT, 0)][0] == 10
        assert bench.count("paused_partitions") == 1
        bench.write(2, 5)
        bench.turn(HALT, 5)
        assert bench.ledger.held()[Partition(INPUT, 2)][0] == 5
    assert not [line for line in lines if line["event"] == "paused"]
    assert not_ready(bench.monitor.snapshot()) is None
    bench.turn_until(lambda: len(bench.answered()) == 205)
    assert bench.answered(0) == list(range(200))
    bench.turn(FAST, 2)
    assert bench.count("paused_partitions") == 0
    assert not bench.one.consumer.paused


def test_a_partition_that_is_lost_while_it_is_paused_alone_is_read_when_it_comes_back(make):
    bench = make(max_records=20)
    bench.write(0, 60)
    bench.turn_until(lambda: bench.count("paused_partitions") == 1, HALT)
    bench.lose()
    bench.turn_until(lambda: sorted(set(bench.answered())) == list(range(60)))
    assert bench.epoch(0) == 2


@BOTH
def test_a_broker_that_acknowledges_nothing_bounds_what_is_in_flight(make, guarantee):
    bench = make(guarantee=guarantee, max_records=12)
    bench.turn_until(lambda: bench.epoch(0) == 1)
    for number in range(PARTITIONS):
        bench.write(number, 40)
    bench.one.cut_off(4.0, reads=False)
    most = []
    bench.turn_until(lambda: (most.append(bench.ledger.records), bench.monitor.snapshot().limit)[1])
    bench.turn_until(lambda: (most.append(bench.ledger.records), len(bench.answered()) == 120)[1])
    assert max(most) == 12
    assert [bench.answered(number) for number in range(PARTITIONS)] == [list(range(40))] * PARTITIONS


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KafkaError(KafkaError._FATAL, "fenced", True), KafkaFatal),
        (KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), ServiceError),
        (KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), ServiceError),
        (KafkaError(KafkaError._AUTO_OFFSET_RESET), ServiceError),
        (KafkaError(KafkaError._AUTHENTICATION), ServiceError),
    ],
)
def test_a_permanent_error_of_the_consumer_ends_the_service(make, error, kind):
    bench = make()
    bench.one.consumer.queue_error(error)
    with pytest.raises(kind):
        bench.turn()


def test_a_transient_error_of_the_consumer_is_logged_and_passed_over(make):
    bench = make()
    bench.one.consumer.queue_error(KafkaError(KafkaError._TRANSPORT))
    bench.write(0)
    with capture_logs() as lines:
        bench.turn_until(lambda: bench.answered() == [0])
    (line,) = [line for line in lines if line["event"] == "kafka_consumer_error"]
    assert line["code"] == "_TRANSPORT"
    assert [error.event for error in bench.monitor.snapshot().errors] == ["kafka_consumer_error"]


def test_headers_that_the_client_cannot_give_cost_the_headers_alone(make):
    class Broken(tuple):
        def __iter__(self):
            raise SystemError("returned a result with an exception set")

    bench = make()
    bench.kafka.logs[Partition(INPUT, 0)].append(Record(b"key", b"good", Broken()))
    bench.turn_until(lambda: bench.answered() == [0])
    ((_, _, answer),) = bench.kafka.records(OUTPUT)
    assert [name for name, _ in answer.headers] == ["vnp-source"]


def test_when_most_records_fail_reading_stops(make):
    bench = make(breaker_records=20, breaker_share=0.5)
    bench.write(0, 240, FAILING)
    with capture_logs() as lines:
        bench.turn_until(
            lambda: bench.count("breaker_open") == 1 and bench.ledger.records == 0, Pace(2, 2, False)
        )
        bench.turn(turns=100)
    assert "most records fail" in str(not_ready(bench.monitor.snapshot()))
    assert len(bench.answered()) < 240
    assert [line["reason"] for line in lines if line["event"] == "paused"] == ["breaker"]


def test_records_refused_for_their_content_stop_nothing_however_many(make):
    bench = make(breaker_records=20, breaker_share=0.5)
    bench.write(0, 240, POISON)
    bench.write(1, 20)
    bench.turn_until(lambda: len(bench.answered()) == 260)
    assert bench.count("dead_letters_total", reason="malformed") == 240
    assert bench.count("breaker_open") == 0


def test_after_a_trial_that_passes_reading_goes_on(make):
    bench = make(breaker_records=20, breaker_share=0.5, breaker_pause_s=5.0, max_records=40)
    bench.write(0, 20, FAILING)
    bench.write(0, 40)
    bench.turn_until(lambda: bench.count("breaker_open") == 1)
    bench.turn_until(lambda: bench.ledger.records == 0)
    assert len(bench.answered()) == 20, "nothing is read before the trial"
    bench.clock.advance(5.0)
    bench.turn_until(lambda: len(bench.answered()) == 60)
    assert bench.count("breaker_open") == 0
    assert bench.count("records_total", outcome="predicted") == 40


def test_a_backlog_of_bad_records_in_one_partition_does_not_fail_the_trial_for_all(make):
    bench = make(breaker_records=60, breaker_share=0.5, breaker_pause_s=5.0)
    bench.one.consumer.in_order = True
    bench.write(0, 400, FAILING)
    with capture_logs() as lines:
        bench.turn_until(lambda: bench.count("breaker_open") == 1)
        bench.turn_until(lambda: bench.ledger.records == 0)
        for number in range(1, PARTITIONS):
            bench.write(number, 40)
        bench.clock.advance(5.0)
        bench.turn_until(lambda: all(len(bench.answered(n)) == 40 for n in range(1, PARTITIONS)))
        bench.turn_until(lambda: len(bench.answered(0)) == 400)
    assert bench.count("breaker_open") == 0
    events = [line["event"] for line in lines]
    assert (events.count("breaker_opened"), events.count("breaker_trial_failed")) == (1, 0)


def test_a_trial_of_the_only_partition_with_records_is_filled_within_a_pause(make):
    bench = make(breaker_records=60, breaker_share=0.5, breaker_pause_s=5.0)
    bench.write(0, 60, FAILING)
    bench.turn_until(lambda: bench.count("breaker_open") == 1)
    bench.turn_until(lambda: bench.ledger.records == 0)
    bench.write(0, 40)
    bench.clock.advance(5.0)
    begun = bench.clock()
    bench.turn_until(lambda: len(bench.answered(0)) == 100)
    assert bench.clock() < begun + 5.0
    assert bench.count("breaker_open") == 0


def test_a_partition_lost_while_paused_is_read_when_it_comes_back(make):
    bench = make(max_records=12)
    for number in range(PARTITIONS):
        bench.write(number, 20)
    bench.turn_until(lambda: bench.count("backpressure_seconds_total", level="pause") > 0, HALT)
    bench.lose()
    bench.turn_until(lambda: sorted(set(bench.answered(0))) == list(range(20)))
    assert bench.epoch(0) == 2


def test_it_is_taken_down_from_the_consumer_on_so_that_at_least_once_what_has_finished_is_committed(make):
    bench = make()
    bench.write(0, 3)
    bench.turn_until(lambda: bench.ledger.records == 3, HALT)
    bench.one.pipeline.start(3)
    for _ in range(3):
        bench.one.pipeline.finish(0)
    bench.one.take_down()
    assert bench.answered() == [0, 1, 2]
    assert bench.committed == {0: 3}
    assert not bench.kafka.open_transactions


@pytest.mark.parametrize(
    ("size", "headers", "fit"), [(300_000, 0, 2), (999_900, 0, 1), (0, 1000, 3), (0, 20_000, 1), (0, 0, 50)]
)
def test_one_turn_reads_no_more_of_a_partition_than_its_share_and_one_message(make, size, headers, fit):
    """Half of the budgets, 1 MB and 100 records, beside partitions that are empty."""
    bench = make()
    bench.turn_until(lambda: bench.epoch(0) == 1)
    record = Record(None, bytes(size), (("h", b""),) * headers)
    bench.kafka.logs[Partition(INPUT, 0)] += [record] * 120
    bench.turn(HALT)
    assert bench.ledger.records == fit


def test_one_turn_reads_for_a_bounded_time_however_many_messages_are_there(make):
    bench = make()
    bench.turn_until(lambda: bench.epoch(0) == 1)
    bench.write(0, 50)
    slow = Fault("poll", lambda: bench.clock.advance(0.09))
    bench.one.reading.faults += [slow] * 100
    bench.turn(HALT)
    assert bench.ledger.records == 3 + 1, "the first poll is not counted: it may wait"
    bench.turn(HALT)
    assert bench.ledger.records == 2 * (3 + 1)


def test_a_suspect_runs_with_nothing_else_in_flight_and_nothing_is_read_meanwhile(make):
    bench = make(runs_alone=lambda source: source.offset in (5, 6, 20))
    bench.write(0, 10)
    bench.write(1, 30)
    alone: dict[Source, tuple[int, str | None]] = {}

    def look() -> bool:
        for message in bench.one.pipeline.running:
            if message.source.offset in (5, 6, 20):
                alone[message.source] = (bench.ledger.records, bench.monitor.snapshot().limit)
        return len(bench.answered()) == 40

    for _ in range(2000):
        if look():
            break
        bench.turn(Pace(8, 0))
        look()
        bench.turn(Pace(0, 8, newest_first=False))
    assert {(s.partition.number, s.offset) for s in alone} == {(0, 5), (0, 6), (1, 5), (1, 6), (1, 20)}
    assert set(alone.values()) == {(1, "suspect")}
    assert bench.answered(0) == list(range(10))
    assert bench.answered(1) == list(range(30))
    assert bench.monitor.snapshot().limit is None


def test_a_suspect_that_waits_is_left_to_the_next_by_a_drain(make):
    bench = make(runs_alone=lambda source: source.offset == 3)
    bench.write(0, 4)
    bench.turn_until(lambda: bench.ledger.records == 4, HALT)
    bench.one.pipeline.start(3)
    assert bench.drain()
    assert bench.answered() == [0, 1, 2]
    assert bench.committed == {0: 3}


def test_a_suspect_that_waits_goes_with_its_partition_and_reading_goes_on(make):
    first = Source(Partition(INPUT, 0), 1, 3)
    bench = make(runs_alone=lambda source: source == first)
    bench.write(0, 4)
    bench.turn_until(lambda: bench.ledger.records == 4, HALT)
    bench.write(1, 2)
    bench.lose()
    bench.turn_until(lambda: bench.answered(1) == [0, 1])
    assert bench.epoch(0) == 2


# ---- input that is deleted before it is read -------------------------------------------------------------------


@BOTH
def test_input_that_is_deleted_unread_is_reported_and_the_rest_is_answered(make, guarantee):
    bench = make(guarantee=guarantee)
    bench.write(0, 10)
    bench.turn_until(lambda: bench.committed == {0: 10})
    bench.write(0, 30)
    bench.kafka.delete_records(Partition(INPUT, 0), 25)
    with capture_logs() as lines:
        bench.turn_until(lambda: bench.committed == {0: 40})
    assert bench.answered(0) == [*range(10), *range(25, 40)]
    (line,) = [line for line in lines if line["event"] == "records_skipped"]
    assert (line["partition"], line["from"], line["to"], line["log_level"]) == (0, 10, 24, "warning")
    assert bench.count("records_skipped_total") == 15


@BOTH
def test_what_was_deleted_before_the_start_is_reported_as_far_as_the_group_was_to_read_it(make, guarantee):
    bench = make(guarantee=guarantee)
    bench.kafka.group.committed = {Partition(INPUT, 0): 10}
    for number in (0, 1):
        bench.write(number, 40)
        bench.kafka.delete_records(Partition(INPUT, number), 25)
    bench.turn_until(lambda: bench.committed == {0: 40, 1: 40})
    skips = [(skip.partition.number, skip.first, skip.end) for skip in bench.one.check.skips]
    assert skips == [(0, 10, 25)], (
        "of the other partition nothing was committed: the group begins where it begins"
    )


@BOTH
def test_gaps_that_hold_no_message_are_no_skips(make, guarantee):
    bench = make(guarantee=guarantee)
    partition = Partition(INPUT, 0)
    for _ in range(3):
        bench.write(0, 4)
        bench.kafka.write(partition, [b"never"] * 5, aborted=True)
    bench.write(0, 1)
    bench.turn_until(lambda: bench.committed == {0: 31})
    assert bench.one.check.skips == []
    bench.kafka.delete_records(partition, 31)  # all of it, behind what was read
    bench.kafka.write(partition, [b"never"] * 5, aborted=True)
    bench.write(0, 1)
    bench.turn_until(lambda: bench.committed == {0: 38})
    assert bench.one.check.skips == []


@BOTH
def test_a_service_that_is_to_stop_commits_nothing_behind_what_was_deleted(make, guarantee):
    bench = make(guarantee=guarantee, on_gap="stop")
    bench.write(0, 10)
    bench.turn_until(lambda: bench.committed == {0: 10})
    bench.write(0, 30)
    bench.kafka.delete_records(Partition(INPUT, 0), 25)
    with pytest.raises(ServiceError, match=r"partition 0 of sequences, offsets 10 to 24: .*=continue"):
        bench.turn(FAST, 100)
    assert bench.committed == {0: 10}
    assert bench.answered(0) == list(range(10))


@BOTH
def test_nothing_behind_a_gap_is_committed_before_the_log_start_is_known(make, guarantee):
    bench = make(guarantee=guarantee)
    bench.write(0, 2)
    bench.turn_until(lambda: bench.committed == {0: 2})
    bench.one.admin.log_starts_unknown = True
    bench.kafka.write(Partition(INPUT, 0), [b"never"] * 5, aborted=True)
    bench.write(0, 3)
    bench.turn(FAST, 50)
    assert bench.committed == {0: 2}
    bench.one.admin.log_starts_unknown = False
    bench.turn_until(lambda: bench.committed == {0: 11})
    assert bench.answered(0) == [0, 1, 8, 9, 10]


# ---- topics that are made again --------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("new", [0, 5, 20, 60])
@pytest.mark.parametrize("unread", [0, 10])
def test_a_topic_that_is_made_again_is_answered_from_its_first_message_and_once(make, guarantee, new, unread):
    """However far it is filled, behind the old position or before it, and whatever of the old one is on the device."""
    bench = make(guarantee=guarantee)
    bench.write(0, 20)
    bench.turn_until(lambda: bench.committed == {0: 20})
    bench.write(0, unread)
    bench.turn(HALT, 5)
    bench.kafka.recreate(INPUT)
    bench.write(0, new)
    with capture_logs() as lines:
        bench.turn(Pace(3, 3), 60)
        bench.turn_until(lambda: not new or bench.committed.get(0) == new)
        bench.turn(FAST, 200)
    answers = bench.answered(0)[20:]
    old = answers[: len(answers) - new]
    assert answers[len(old) :] == list(range(new))
    assert old == list(range(20, 30))[: len(old)], "what was read of the old one may be answered, or dropped"
    assert unread or not old
    assert [line["topic"] for line in lines if line["event"] == "topic_recreated"] == [INPUT]
    assert bench.one.check.skips == []


@BOTH
def test_partitions_of_a_topic_that_is_made_again_go_on_apart(make, guarantee):
    bench = make(guarantee=guarantee)
    for number in range(PARTITIONS):
        bench.write(number, 10 * number)
    bench.turn_until(lambda: bench.committed == {1: 10, 2: 20})
    bench.kafka.recreate(INPUT)
    for number in range(PARTITIONS):
        bench.write(number, 15)
    bench.turn_until(lambda: bench.committed == dict.fromkeys(range(PARTITIONS), 15))
    assert [bench.answered(number)[10 * number :] for number in range(PARTITIONS)] == [list(range(15))] * 3


@BOTH
@pytest.mark.parametrize("topic", [OUTPUT, LETTERS])
def test_a_topic_for_answers_that_is_made_again_is_said_and_filled_on(make, guarantee, topic):
    bench = make(guarantee=guarantee)
    bench.write(0, 5)
    bench.write(0, 5, POISON)
    bench.turn_until(lambda: bench.committed == {0: 10})
    bench.kafka.recreate(topic)
    bench.write(0, 5)
    bench.write(0, 5, POISON)
    with capture_logs() as lines:
        bench.turn_until(lambda: bench.committed == {0: 20})
        bench.turn(FAST, 100)
    assert [line["topic"] for line in lines if line["event"] == "topic_recreated"] == [topic]
    assert len(bench.answered(0)) == 15, "only what was in that topic is gone"


@BOTH
def test_a_client_that_cannot_go_back_yet_reads_nothing_of_the_new_topic_till_then(make, guarantee):
    bench = make(guarantee=guarantee)
    bench.write(0, 20)
    bench.turn_until(lambda: bench.committed == {0: 20})
    bench.kafka.recreate(INPUT)
    bench.write(0, 40)
    bench.one.reading.faults += [Fault("seek", _refuse)] * 5
    bench.turn_until(lambda: bench.committed.get(0) == 40)
    assert bench.answered(0)[20:] == list(range(40))


@BOTH
@pytest.mark.parametrize("running", [0, 3])
def test_a_topic_that_is_made_again_is_read_by_a_new_client(make, guarantee, running):
    """The old one takes the new leaders for outdated. What was committed of the old topic meanwhile does not count."""
    bench = make(guarantee=guarantee)
    bench.write(0, 20)
    bench.turn_until(lambda: bench.committed == {0: 20})
    bench.write(0, running)
    bench.turn(HALT, 5)
    old = bench.one.consumer
    bench.kafka.recreate(INPUT, lower_epochs=True)
    bench.write(0, 40)
    bench.turn(Pace(3, 3), 60)
    bench.turn_until(lambda: bench.committed.get(0) == 40)
    assert bench.one.consumer is not old
    assert bench.answered(0)[-40:] == list(range(40))


@BOTH
def test_another_member_begins_a_topic_that_is_made_again_at_its_first_message(make, guarantee):
    """The one that joins again with a new client may get other partitions than it had."""
    bench = make(guarantee=guarantee)
    other = bench.member(slot=1)
    for number in range(PARTITIONS):
        bench.write(number, 10)
    for _ in range(100):
        bench.turn(FAST)
        bench.turn(FAST, member=other)
    assert len(bench.answered()) == 30
    bench.kafka.recreate(INPUT, lower_epochs=True)
    for number in range(PARTITIONS):
        bench.write(number, 25)
    for _ in range(400):
        bench.turn(FAST)
        bench.turn(FAST, member=other)
    for number in range(PARTITIONS):
        assert bench.answered(number)[10:] == list(range(25))


@BOTH
def test_a_member_that_hears_of_it_late_does_not_begin_again_what_another_has_answered(make, guarantee):
    """It was frozen meanwhile, say, and then got partitions of one that had begun the new topic."""
    bench = make(guarantee=guarantee)
    late = bench.member(slot=1)
    for number in range(PARTITIONS):
        bench.write(number, 10)
    for _ in range(100):
        bench.turn(FAST)
        bench.turn(FAST, member=late)
    assert len(bench.answered()) == 30
    late.admin.down = True
    bench.turn(FAST, member=late)
    bench.kafka.recreate(INPUT)
    for number in range(PARTITIONS):
        bench.write(number, 25)
    bench.turn_until(lambda: bench.committed == dict.fromkeys(range(PARTITIONS), 25))
    bench.one.stop(FAST)
    bench.turn(FAST, 50, member=late)
    late.admin.down = False
    bench.turn(FAST, 100, member=late)
    for number in range(PARTITIONS):
        bench.write(number, 5)
    bench.turn(FAST, 300, member=late)
    for number in range(PARTITIONS):
        assert bench.answered(number)[10:] == list(range(30))


@BOTH
def test_nothing_is_answered_between_the_news_and_the_commit_of_the_first_offsets(make, guarantee):
    """A rebalance may refuse that commit for some turns; what was answered meanwhile would be answered again."""
    bench = make(guarantee=guarantee)
    bench.write(0, 20)
    bench.turn_until(lambda: bench.committed == {0: 20})
    bench.kafka.recreate(INPUT)
    bench.write(0, 40)
    bench.one.reading.faults += [Fault("commit", _refuse)] * 60
    bench.turn(FAST, 400)
    assert bench.committed.get(0) == 40
    assert bench.answered(0)[20:] == list(range(40))


def _refuse() -> None:
    raise KafkaException(KafkaError(KafkaError._STATE))


@BOTH
def test_nothing_is_delivered_before_it_is_known_which_topic_it_is_of(make, guarantee):
    bench = make(guarantee=guarantee)
    bench.write(0, 5)
    bench.turn_until(lambda: bench.committed == {0: 5})
    bench.one.admin.down = True
    bench.clock.advance(1)
    bench.write(0, 5)
    bench.turn(FAST, 50)
    assert bench.committed == {0: 5}
    assert not bench.drain(timeout_s=1)
    assert bench.committed == {0: 5}
    bench.one.admin.down = False
    bench.turn_until(lambda: bench.committed == {0: 10})
