"""The loop that owns Kafka: assignment, revoke, lost, backpressure, drain. Clients are fakes, the pipeline is real."""

from __future__ import annotations

import threading
import time

import pytest
from confluent_kafka import KafkaError

from consumer.clock import Clock, Deadline, monotonic
from consumer.delivery.answers import OutgoingBuilder
from consumer.delivery.at_least_once import AtLeastOnce
from consumer.errors import KafkaFatal, ServiceError
from consumer.intake.apart import Apart
from consumer.intake.backpressure import Admission
from consumer.intake.breaker import Breaker
from consumer.intake.start_offsets import Positions
from consumer.ledger import Ledger
from consumer.ops.health import Health
from consumer.ops.metrics import Metrics
from consumer.scoring.inference import Suspects
from consumer.scoring.pipeline import Pipeline, PipelineLimits
from consumer.scoring.preparation import Preparation
from consumer.scoring.quarantine import Quarantine
from consumer.service import Service
from schemas import Provenance, SequenceRecord, decode_prediction, encode_record
from tests.support.factories import ConstantScorer, FakeClock, at_once, partition, prepared_record
from tests.support.fake_kafka import FakeConsumer, FakeMessage, FakeProducer

STAMP = Provenance("nano", "ab" * 32, 500, "packed", "sdpa", "fp32", "0.1.0")


class GatedScorer(ConstantScorer):
    """Works while its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()

    def score(self, frames):
        self.entered.set()
        assert self.gate.wait(20)
        self.before()
        return super().score(frames)

    def before(self) -> None:
        """What a test wants done in each run."""


class Bench:
    """A service whose turns a test takes one by one, from its own thread, as `run` would."""

    def __init__(
        self,
        max_records: int = 100,
        breaker: Breaker | None = None,
        max_tokens: int = 1_000_000,
        suspects: Suspects | None = None,
        apart: Apart | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self.breaker = breaker or Breaker(500, 0.5, 60.0)
        self.consumer, self.producer = FakeConsumer(), FakeProducer()
        self.producer.acknowledge_at_once = True
        self.ledger, self.metrics, self.health = Ledger(), Metrics(), Health()
        self.scorer = GatedScorer()
        self.pipeline = Pipeline(
            self.scorer,
            Preparation(lambda record_id, _: prepared_record(10, record_id=record_id), 10_000, 1000),
            PipelineLimits(
                token_budget=20, max_tokens=80, max_wait_s=0.01, prepare_threads=1, max_records=max_records
            ),
            self.ledger.is_wanted,
            self.metrics,
            suspects or Suspects(),
        )
        builder = OutgoingBuilder("predictions", "sequences.dlq", "group", STAMP)
        self.delivery = AtLeastOnce(self.consumer, self.producer, self.ledger, builder, self.metrics, 0.0)
        self.looked = 0
        self.service = Service(
            self.consumer,
            "sequences",
            self.ledger,
            Positions(self.consumer, self.consumer.committed, at_once),
            self.pipeline,
            self.delivery,
            Admission(max_records, 1_000_000, max_tokens, hold_s=0.05),
            self.breaker,
            self.metrics,
            self.health,
            self._look,
            lambda: None,
            clock,
            apart,
        )

    def _look(self) -> None:
        self.looked += 1

    def run(self, until, drain_s: float = 5.0, seconds: float = 10.0) -> bool:
        """Run the service until the condition holds, then stop and drain it."""
        deadline = time.monotonic() + seconds

        def should_stop() -> bool:
            assert time.monotonic() < deadline, "the condition did not come"
            return until()

        return self.service.run(should_stop, drain_s)

    def assign(self, *numbers: int) -> None:
        self.consumer.events.append(("assign", list(numbers)))

    def receive(self, *offsets: int, number: int = 0) -> None:
        for offset in offsets:
            value = encode_record(SequenceRecord(f"{number}/{offset}", "ACGT"))
            self.consumer.queue.append(FakeMessage(number, offset, value))

    @property
    def answered(self) -> list[str]:
        return [decode_prediction(m["value"]).id for m in self.producer.sent]

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"vnp_{name}", labels) or 0.0


@pytest.fixture
def make():
    made = []

    def build(**options) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield build
    for bench in made:
        bench.scorer.gate.set()
        assert bench.pipeline.stop(Deadline.after(10))


def test_records_are_answered_in_order_and_committed(make):
    bench = make()
    bench.assign(0, 1)
    bench.receive(*range(30))
    bench.receive(*range(10), number=1)
    assert bench.run(lambda: len(bench.producer.sent) == 40)
    for number, count in ((0, 30), (1, 10)):
        mine = [a for a in bench.answered if a.startswith(f"{number}/")]
        assert mine == [f"{number}/{offset}" for offset in range(count)]
    final = {}
    for offsets, _ in bench.consumer.commits:
        final |= offsets
    assert final == {0: 30, 1: 10}
    assert bench.looked == 1
    assert bench.count("records_total", outcome="predicted") == 40
    assert bench.health.not_ready() == "shutting down"


def test_stopping_finishes_what_is_in_flight_and_takes_nothing_new(make):
    bench = make()
    bench.assign(0)
    bench.receive(*range(20))
    assert bench.run(lambda: bench.ledger.records == 20)
    assert len(bench.producer.sent) == 20
    assert bench.consumer.paused == {0}


def test_a_drain_that_takes_too_long_leaves_the_rest_uncommitted(make):
    bench = make()
    bench.assign(0)
    bench.receive(*range(5))
    bench.scorer.gate.clear()
    assert not bench.run(lambda: bench.scorer.entered.is_set(), drain_s=0.2)
    assert bench.consumer.commits == []
    assert bench.producer.sent == []


def test_a_revoke_finishes_what_runs_drops_the_rest_and_commits_first(make):
    bench = make()
    bench.assign(0, 1)
    bench.receive(*range(50))
    bench.scorer.gate.clear()
    revoked = []

    def until() -> bool:
        if bench.scorer.entered.is_set() and not revoked:
            threading.Timer(0.2, bench.scorer.gate.set).start()
            bench.consumer.events.append(("revoke", [0]))
            revoked.append(True)
        return bool(revoked) and bench.ledger.epoch(partition(0)) is None

    bench.run(until)
    done = len(bench.producer.sent)
    assert 1 <= done < 50, "what ran is finished, what waited is not started"
    assert bench.answered == [f"0/{offset}" for offset in range(done)]
    assert bench.consumer.commits[-1] == ({0: done}, False)
    assert bench.count("assigned_partitions") == 1


def test_a_lost_partition_is_never_committed(make):
    bench = make()
    bench.assign(0)
    bench.receive(*range(6))
    bench.scorer.gate.clear()
    lost = []

    def until() -> bool:
        if bench.scorer.entered.is_set() and not lost:
            bench.consumer.events.append(("lost", [0]))
            lost.append(True)
        if lost and bench.ledger.epoch(partition(0)) is None:
            bench.scorer.gate.set()
            return bench.count("records_total", outcome="stale") > 0
        return False

    bench.run(until)
    assert bench.consumer.commits == []
    assert bench.producer.sent == []


def test_a_partition_that_comes_back_is_read_in_a_new_epoch(make):
    bench = make()
    bench.assign(0)
    bench.consumer.events.append(("revoke", [0]))
    bench.assign(0)
    bench.receive(2)
    bench.run(lambda: bench.answered == ["0/2"])
    assert bench.ledger.epoch(partition(0)) == 2


def test_a_log_that_was_cut_is_read_on_from_where_it_is_now(make):
    bench = make()
    bench.assign(0)
    bench.receive(10, 11, 12)
    bench.receive(3, 4)
    bench.run(lambda: len(bench.producer.sent) >= 2 and "0/4" in bench.answered)
    assert bench.answered[-2:] == ["0/3", "0/4"]
    assert bench.consumer.commits[-1][0] == {0: 5}


def test_full_budgets_hold_then_pause_then_go_on(make):
    bench = make(max_records=10)
    bench.assign(0)
    bench.receive(*range(40))
    bench.scorer.gate.clear()
    seen = []

    def until() -> bool:
        seen.append(bench.ledger.records)
        if bench.consumer.paused:
            bench.scorer.gate.set()
        return len(bench.producer.sent) == 40

    bench.run(until)
    assert max(seen) <= 10
    assert bench.answered == [f"0/{offset}" for offset in range(40)]
    assert bench.count("backpressure_seconds_total", level="hold") > 0
    assert bench.count("backpressure_seconds_total", level="pause") > 0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KafkaError(KafkaError._FATAL, "fenced", True), KafkaFatal),
        (KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), ServiceError),
        (KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), ServiceError),
    ],
)
def test_errors_for_good_end_the_service_and_name_themselves(make, error, kind):
    bench = make()
    bench.assign(0)
    broken = FakeMessage(0, 0)
    broken.error = lambda: error
    bench.consumer.queue.append(broken)
    with pytest.raises(kind):
        bench.run(lambda: False)


def test_passing_errors_are_logged_and_passed_over(make):
    bench = make()
    bench.assign(0)
    broken = FakeMessage(0, 0)
    broken.error = lambda: KafkaError(KafkaError._TRANSPORT)
    bench.consumer.queue.append(broken)
    bench.receive(1)
    bench.run(lambda: bench.answered == ["0/1"])


def test_headers_that_the_client_cannot_give_cost_the_headers_alone(make):
    bench = make()
    bench.assign(0)
    bench.receive(1)

    def broken():
        raise SystemError("returned a result with an exception set")

    bench.consumer.queue[0].headers = broken
    bench.run(lambda: bench.answered == ["0/1"])
    assert [name for name, _ in bench.producer.sent[0]["headers"]] == ["vnp-source"]


def test_when_most_records_are_refused_reading_stops_until_a_trial_passes(make):
    clock = FakeClock()
    bench = make(breaker=Breaker(window=20, share=0.5, pause_s=60.0, clock=clock))
    bench.assign(0)
    for offset in range(100):
        bench.consumer.queue.append(FakeMessage(0, offset, b"junk" if offset < 40 else None))
    while_open = []

    def opened() -> bool:
        if bench.breaker.is_open and bench.ledger.records == 0 and bench.health.not_ready():
            while_open.append((bench.consumer.paused, bench.health.not_ready(), bench.count("breaker_open")))
        return len(while_open) > 3

    bench.run(opened)
    assert while_open[-1][0] == {0}
    assert "most records are refused" in while_open[-1][1]
    assert while_open[-1][2] == 1
    assert bench.count("dead_letters_total", reason="malformed") <= 40


def test_after_a_trial_that_passes_reading_goes_on(make):
    clock = FakeClock()
    bench = make(breaker=Breaker(window=20, share=0.5, pause_s=60.0, clock=clock), max_records=20)
    bench.assign(0)
    for offset in range(20):
        bench.consumer.queue.append(FakeMessage(0, offset, b"junk"))
    bench.receive(*range(20, 60))

    def until() -> bool:
        if bench.breaker.is_open and bench.ledger.records == 0:
            clock.advance(61)
        return len(bench.producer.sent) == 60

    assert bench.run(until)
    assert not bench.breaker.is_open
    assert bench.count("records_total", outcome="predicted") == 40


def test_tokens_that_wait_hold_the_reading_too(make):
    bench = make(max_tokens=30)
    bench.assign(0)
    bench.receive(*range(60))
    bench.scorer.gate.clear()
    most = []

    def until() -> bool:
        most.append(bench.ledger.records)
        if bench.consumer.paused:
            bench.scorer.gate.set()
        return len(bench.producer.sent) == 60

    assert bench.run(until)
    assert bench.count("backpressure_seconds_total", level="pause") > 0


def test_a_partition_lost_while_paused_is_read_when_it_comes_back(make):
    bench = make(max_records=10)
    bench.assign(0)
    bench.receive(*range(20))
    bench.scorer.gate.clear()
    steps = []

    def until() -> bool:
        if bench.consumer.paused and not steps:
            bench.consumer.events.append(("lost", [0]))
            steps.append("lost")
        elif steps == ["lost"] and not bench.consumer.owned and bench.ledger.records == 0:
            bench.scorer.gate.set()
            if bench.count("backpressure_seconds_total", level="pause") > 0:
                steps.append("resumed")
                bench.assign(0)
        return "0/19" in bench.answered

    assert bench.run(until)


def test_a_broker_that_acknowledges_nothing_bounds_what_is_in_flight(make):
    bench = make(max_records=10)
    bench.producer.acknowledge_at_once = False
    bench.assign(0)
    bench.receive(*range(40))
    most = []

    def until() -> bool:
        most.append(bench.ledger.records)
        if bench.consumer.paused:
            bench.producer.acknowledge()
            bench.producer.acknowledge_at_once = True
        return len(bench.producer.sent) == 40

    assert bench.run(until)
    assert max(most) <= 10


@pytest.mark.parametrize(
    ("value", "headers", "fit"),
    [
        (bytes(300_000), 0, 4),
        (bytes(999_900), 0, 1),
        (b"", 1000, 5),
        (b"", 20_000, 1),
        (b"", 0, 100),
    ],
)
def test_one_turn_reads_no_more_than_the_byte_budget_and_one_message(make, value, headers, fit):
    bench = make()
    bench.assign(0)
    for offset in range(120):
        bench.consumer.queue.append(FakeMessage(0, offset, value))
        bench.consumer.queue[-1].headers = lambda: [("h", b"")] * headers
    bench.service.start()
    bench.service.turn()
    assert 120 - len(bench.consumer.queue) == fit


def test_one_turn_reads_for_a_bounded_time_however_many_messages_are_there(make):
    clock = FakeClock()
    bench = make(clock=clock)
    bench.assign(0)
    bench.receive(*range(50))
    for message in bench.consumer.queue:
        message.headers = lambda: clock.advance(0.09)
    bench.service.start()
    bench.service.turn()
    assert len(bench.consumer.queue) == 50 - 3
    bench.service.turn()
    assert len(bench.consumer.queue) == 50 - 6


def test_a_suspect_runs_with_nothing_else_in_flight_and_nothing_is_read_meanwhile(make):
    bench = make(apart=Apart(lambda source: source.offset in (5, 6, 20)))
    bench.assign(0, 1)
    bench.receive(*range(10))
    bench.receive(*range(30), number=1)
    in_flight = []
    bench.scorer.before = lambda: in_flight.append((bench.ledger.records, set(bench.consumer.paused)))
    assert bench.run(lambda: len(bench.producer.sent) == 40)
    assert in_flight.count((1, {0, 1})) >= 5, "0/5, 0/6, 1/5, 1/6, 1/20"
    for number, count in ((0, 10), (1, 30)):
        mine = [answer for answer in bench.answered if answer.startswith(f"{number}/")]
        assert mine == [f"{number}/{offset}" for offset in range(count)]
    assert bench.consumer.paused == {0, 1}, "by the drain alone"


def test_a_suspect_that_waits_is_answered_by_a_drain(make):
    bench = make(apart=Apart(lambda source: source.offset == 3))
    bench.assign(0)
    bench.receive(*range(4))
    bench.scorer.gate.clear()

    def until() -> bool:
        if bench.ledger.records == 4:
            threading.Timer(0.2, bench.scorer.gate.set).start()
        return bench.ledger.records == 4

    assert bench.run(until)
    assert bench.answered == ["0/0", "0/1", "0/2", "0/3"]


@pytest.mark.parametrize("event", ["revoke", "lost"])
def test_a_suspect_that_waits_goes_with_its_partition_and_reading_goes_on(make, event):
    bench = make(apart=Apart(lambda source: source == (partition(0), 1, 3)))
    bench.assign(0, 1)
    bench.receive(*range(4))
    bench.scorer.gate.clear()
    steps = []

    def until() -> bool:
        if not steps and bench.ledger.records == 4 and bench.scorer.entered.is_set():
            steps.append("suspect waits")
            threading.Timer(0.1, bench.scorer.gate.set).start()
            bench.consumer.events.append((event, [0]))
            bench.receive(0, 1, number=1)
        return bench.answered[-2:] == ["1/0", "1/1"]

    assert bench.run(until)
    assert "0/3" not in bench.answered


class Died(BaseException):
    """Stands for the end of the process: what was written stays."""


def test_deaths_for_lack_of_memory_set_no_good_record_aside(make, tmp_path):
    """A process that dies whenever four records are in flight: each of its lives answers a few more of them."""
    answered: list[str] = []
    deaths = 0
    while len(answered) < 12:
        done = len(answered)
        quarantine = Quarantine(tmp_path, "n")
        bench = make(suspects=quarantine, apart=Apart(quarantine.runs_alone))

        def killed(bench=bench) -> None:
            if bench.ledger.records > 3:
                raise Died

        bench.scorer.before = killed
        bench.assign(0)
        bench.consumer.group[0] = done
        bench.receive(*range(done, 12))
        try:
            bench.run(lambda bench=bench, left=12 - done: len(bench.producer.sent) == left)
        except Died:
            deaths += 1
        quarantine.close()
        answered += bench.answered
        assert deaths < 60, "no progress"
    assert deaths >= 3
    assert answered == [f"0/{offset}" for offset in range(12)], "a dead letter is no prediction"
