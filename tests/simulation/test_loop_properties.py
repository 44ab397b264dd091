"""The whole loop under any order of events: 1 to 3 services share a group, and every delay and failure is drawn.

The services are real, with their ledgers, deliveries, admission and breakers; Kafka is in memory
(tests/simulation/memory_kafka.py), and the device and the clock do what a rule says. One thread, no sleeps:
an example that
fails is repeated exactly, and hypothesis makes it small.

    LOOP_EXAMPLES=5000 pytest tests/simulation/test_loop_properties.py    a longer run than by default
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar

import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from consumer.delivery.answers import SOURCE_HEADER
from consumer.types import Partition
from schemas import decode_dead_letter, decode_prediction
from tests.simulation.member import (
    EMPTY,
    FAST,
    HALT,
    INPUT,
    LARGE,
    LETTERS,
    MAX_MESSAGE_BYTES,
    OUTPUT,
    PARTITIONS,
    POISON,
    Crashed,
    Member,
    Pace,
)
from tests.simulation.memory_clients import Fault, MemoryProducer, retriable
from tests.simulation.memory_kafka import MemoryKafka
from tests.support.factories import FakeClock

SLOTS = 3
EXAMPLES = int(os.environ.get("LOOP_EXAMPLES", "100"))


@pytest.fixture(autouse=True, scope="module")
def quiet_and_in_small_units() -> Iterator[None]:
    """Nothing is logged, a few records fill a unit, so that the next one waits, and no thread is started."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("consumer.delivery.exactly_once.UNIT_RECORDS", 4)
        patch.setattr("consumer.delivery.at_least_once.UNIT_RECORDS", 4)
        patch.setattr("consumer.delivery.transactions.CallThread", StepAside)
        patch.setattr("consumer.runtime.HOLD_S", 0.3)
        yield
    structlog.reset_defaults()


class Hang(BaseException):
    """A call does not come back for so long; `is_sent` says whether it has taken effect all the same."""

    def __init__(self, producer: MemoryProducer, seconds: float, is_sent: bool) -> None:
        super().__init__()
        self.producer, self.clock, self.is_sent = producer, producer.clock, is_sent
        self.back_at = self.clock() + seconds
        producer.is_busy = True


class StepAside:
    """In place of the thread on which offsets are sent: makes the call at once, unless that hangs."""

    hanging: ClassVar[list[StepAside]] = []
    """They run when they are due, also when no caller waits any more."""

    def __init__(self) -> None:
        self._call: Callable[[], object] = int
        self._error: BaseException | None = None
        self._hang: Hang | None = None
        self._ended = False

    def begin(self, call: Callable[[], object]) -> None:
        assert not self._ended, "no thread is left to make the call"
        assert self._hang is None, "two calls at once"
        self._call, self._error = call, None
        try:
            call()
        except Hang as hang:
            self._hang = hang
            self.hanging.append(self)
        except (KafkaException, Crashed) as error:
            self._error = error

    def wait(self, timeout: float) -> bool:
        if self._hang is not None:
            self._hang.clock.advance(timeout)
            self.go_on()
        return self._hang is None

    def result(self) -> None:
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        self._ended = True

    def go_on(self) -> None:
        if self._hang is not None and self._hang.clock() >= self._hang.back_at:
            hang, self._hang = self._hang, None
            self.hanging.remove(self)
            hang.producer.is_busy = False
            if not hang.is_sent:
                self._ended = False
                self.begin(self._call)


def crash() -> None:
    raise Crashed


def fail(error: Exception) -> None:
    raise error


WHO = st.integers(0, SLOTS)
NUMBERS = st.integers(0, PARTITIONS - 1)
PACE = st.sampled_from([HALT, Pace(3, 0), Pace(2, 1), EMPTY, FAST, FAST])
TURNS = st.integers(0, 4)
SECONDS = st.sampled_from([0.1, 1.0, 4.0, 7.0, 11.0])
VALUES = st.lists(st.sampled_from([b"good"] * 6 + [POISON, LARGE]), min_size=1, max_size=6)
SESSION_S, TRANSACTION_S, MAX_POLL_S = 6.0, 12.0, 30.0
COMMON_CALLS = ("poll", "produce", "producer_poll", "consumer_group_metadata", "committed")


class Loop(RuleBasedStateMachine):
    """What happens to the services, and to Kafka under them; each guarantee adds what it promises."""

    transactional: bool
    calls: Sequence[str]  # of the guarantee, where an error may come and the call is repeated

    @initialize(slots=st.sets(st.integers(0, SLOTS - 1), min_size=2), values=VALUES)
    def open(self, slots: set[int], values: list[bytes]) -> None:
        StepAside.hanging.clear()
        self.clock = FakeClock()
        topics = dict.fromkeys((INPUT, OUTPUT, LETTERS), PARTITIONS)
        self.kafka = MemoryKafka(
            self.clock, topics, SESSION_S, MAX_POLL_S, TRANSACTION_S, max_message_bytes=MAX_MESSAGE_BYTES
        )
        self.inputs = self.kafka.partitions(INPUT)
        self.members: list[Member] = []
        self.everyone: list[Member] = []
        self.in_turn: list[Member] = []
        self.committed = dict.fromkeys(self.inputs, 0)
        for slot in slots:
            self.add(slot)
        for number in range(PARTITIONS):
            self.write(number, values)

    # ---- work -----------------------------------------------------------------------------------------------------

    @rule(number=NUMBERS, values=VALUES)
    def write(self, number: int, values: list[bytes]) -> None:
        self.kafka.write(self.inputs[number], values)

    @rule(number=NUMBERS)
    def write_and_abort(self, number: int) -> None:
        self.kafka.write(self.inputs[number], [b"never"], aborted=True)

    @rule(number=NUMBERS, kept=st.integers(0, 4), pace=PACE, turns=TURNS)
    def retention(self, number: int, kept: int, pace: Pace, turns: int) -> None:
        """All but the newest places of a log are deleted, whether they were read or not.

        Where the group has committed nothing it begins where the log begins, and skips nothing.
        """
        partition = self.inputs[number]
        if partition in self.kafka.group.committed:
            self.kafka.delete_records(partition, len(self.kafka.logs[partition]) - kept)
        self.all_turn(pace, turns)

    @rule(who=WHO, pace=PACE, turns=TURNS)
    def turn(self, who: int, pace: Pace, turns: int) -> None:
        member = self.member(who)
        for _ in range(turns):
            self.take_turn(member, pace)

    @rule(pace=PACE, turns=TURNS)
    def all_turn(self, pace: Pace, turns: int) -> None:
        self.member(0)
        for _ in range(turns):
            for member in list(self.members):
                self.take_turn(member, pace)

    @rule(pace=PACE, turns=TURNS, moved=st.booleans())
    def work(self, pace: Pace, turns: int, moved: bool) -> None:
        """Perhaps all partitions move while it goes on."""
        for number in range(PARTITIONS):
            self.write(number, [b"good"])
        self.all_turn(pace, turns)
        if moved:
            self.kafka.group.move(self.inputs)
            self.all_turn(pace, 4)
            self.all_turn(FAST, 3)

    @rule(who=WHO, place=st.integers(0, 3), count=st.integers(1, 3))
    def device_finishes(self, who: int, place: int, count: int) -> None:
        for _ in range(count):
            self.member(who).pipeline.finish(place)

    # ---- members come and go --------------------------------------------------------------------------------------

    @rule(partitions=st.sets(NUMBERS, min_size=1), pace=PACE, turns=TURNS)
    def move(self, partitions: set[int], pace: Pace, turns: int) -> None:
        self.kafka.group.move(self.inputs[number] for number in partitions)
        self.all_turn(pace, turns)

    @rule(partitions=st.sets(NUMBERS, min_size=1), pace=PACE, turns=TURNS)
    def move_away_and_back(self, partitions: set[int], pace: Pace, turns: int) -> None:
        """What runs on the device meanwhile finishes when its partition is back."""
        self.work(pace, turns, False)
        for _ in range(len(self.members)):
            self.kafka.group.move(self.inputs[number] for number in partitions)
            self.all_turn(pace, 6)
        self.all_turn(EMPTY, 2)

    @rule(slot=st.integers(0, SLOTS - 1), pace=PACE, turns=TURNS)
    def join(self, slot: int, pace: Pace, turns: int) -> None:
        """A new process, also one whose predecessor of the same name still lives."""
        if len(self.members) <= SLOTS:
            self.add(slot)
            self.all_turn(pace, turns)

    @rule(who=WHO, pace=PACE, in_the_end=PACE)
    def stop(self, who: int, pace: Pace, in_the_end: Pace) -> None:
        member = self.member(who)
        self.busy(member, lambda: member.stop(pace, in_the_end))

    @rule(who=WHO, sent=st.booleans())
    def crash(self, who: int, sent: bool) -> None:
        self.member(who).crash(sent)

    @rule(who=WHO, seconds=SECONDS, pace=PACE, turns=TURNS)
    def freeze(self, who: int, seconds: float, pace: Pace, turns: int) -> None:
        """One process stands still, all of it, and the others go on; then it goes on too."""
        member = self.member(who)
        self.let_pass(seconds, member)
        self.others_go_on(member)
        for _ in range(turns):
            self.take_turn(member, pace)

    # ---- time and trouble: what is set up here strikes in the work that follows ------------------------------------

    @rule(seconds=SECONDS)
    def pass_time(self, seconds: float) -> None:
        self.let_pass(seconds, None)

    @rule(who=WHO)
    def heartbeat(self, who: int) -> None:
        self.member(who).consumer.heartbeat()

    @rule(who=WHO, seconds=SECONDS, reads=st.booleans(), pace=PACE, turns=TURNS, moved=st.booleans())
    def cut_off(self, who: int, seconds: float, reads: bool, pace: Pace, turns: int, moved: bool) -> None:
        """The producer reaches no broker, and the consumer perhaps does."""
        self.member(who).cut_off(seconds, reads)
        self.work(pace, turns, moved)

    @rule(who=WHO, polls=st.integers(1, 5), pace=PACE, turns=TURNS, moved=st.booleans())
    def reports_come_late(self, who: int, polls: int, pace: Pace, turns: int, moved: bool) -> None:
        member = self.member(who)
        member.reading.late_polls = member.writing.late_polls = polls
        self.work(pace, turns, moved)

    @rule(who=WHO, taken=st.booleans(), pace=PACE, turns=TURNS, moved=st.booleans())
    def batch_fails(self, who: int, taken: bool, pace: Pace, turns: int, moved: bool) -> None:
        self.member(who).producer.lost_batches.append(taken)
        self.work(pace, turns, moved)

    @rule(who=WHO)
    def queue_is_full(self, who: int) -> None:
        self.put(self.member(who), "produce", partial(fail, BufferError("full")))

    @rule(who=WHO)
    def consumer_meets_an_error(self, who: int) -> None:
        self.member(who).consumer.queue_error(KafkaError(KafkaError._TRANSPORT))

    @rule(
        who=WHO,
        data=st.data(),
        after=st.booleans(),
        times=st.sampled_from([1, 2, 16]),
        pace=PACE,
        turns=TURNS,
        moved=st.booleans(),
    )
    def call_times_out(
        self, who: int, data: st.DataObject, after: bool, times: int, pace: Pace, turns: int, moved: bool
    ) -> None:
        """Before it takes effect, or after: then only the answer is lost."""
        call = data.draw(st.sampled_from(self.calls))
        after = after and call != "begin_transaction"  # which is a local call: an answer cannot be lost

        def time_out() -> None:
            self.clock.advance(0.5)
            raise KafkaException(retriable())

        self.put(self.member(who), call, time_out, after, times)
        self.work(pace, turns, moved)

    @rule(who=WHO, data=st.data(), after=st.booleans(), pace=PACE, turns=TURNS, moved=st.booleans())
    def meanwhile(
        self, who: int, data: st.DataObject, after: bool, pace: Pace, turns: int, moved: bool
    ) -> None:
        """Something else happens in the middle of a call."""
        member = self.member(who)
        happens = {
            "crash": crash,
            "heartbeat": member.consumer.heartbeat,
            "others": lambda: self.others_go_on(member),
            "frozen": lambda: (self.let_pass(SESSION_S + 1, member), self.others_go_on(member)),
            "stuck": lambda: (self.let_pass(MAX_POLL_S + 1, None), self.others_go_on(member)),
            "move": lambda: (self.kafka.group.move(self.inputs), self.others_go_on(member)),
            "cut off": lambda: member.cut_off(SESSION_S + 1, True),
        }
        event = data.draw(st.sampled_from([*happens, "frozen"]))
        calls = [*COMMON_CALLS, *(call for call in self.calls if call != "commit_async")]
        self.put(member, data.draw(st.sampled_from(calls)), happens[event], after)
        self.work(pace, turns, moved)

    # ---- how it is done -------------------------------------------------------------------------------------------

    def member(self, who: int) -> Member:
        """One of those that live; when none does, the supervisor starts one."""
        self.members = [member for member in self.members if member.alive]
        while not self.members or not self.members[0].alive:
            self.members = []
            self.add(0)
        return self.members[who % len(self.members)]

    def add(self, slot: int) -> Member:
        member = Member(self.kafka, slot, self.transactional)
        self.members.append(member)
        self.everyone.append(member)
        self.busy(member, member.begin)
        return member

    def put(
        self, member: Member, call: str, strike: Callable[[], object], after: bool = False, times: int = 1
    ) -> None:
        for link in (member.reading, member.writing):
            link.faults += [Fault(call, strike, after)] * times

    def calling(self, member: Member) -> MemoryProducer:
        """Whose call this is: not always the producer in use, the call of one that was replaced may still go on."""
        caller = member.writing.caller
        assert isinstance(caller, MemoryProducer)
        return caller

    def take_turn(self, member: Member, pace: Pace) -> None:
        self.busy(member, lambda: member.turn(pace))

    def busy(self, member: Member, act: Callable[[], None]) -> None:
        """Only one call at a time goes on in a process, also when others go on in the middle of it."""
        if member.alive and member not in self.in_turn:
            self.in_turn.append(member)
            act()
            self.in_turn.remove(member)

    def others_go_on(self, member: Member) -> None:
        for _ in range(6):
            for other in list(self.members):
                if other is not member:
                    self.take_turn(other, FAST)

    def let_pass(self, seconds: float, frozen: Member | None) -> None:
        """The clients' own threads go on, but for those of a process that is frozen."""
        while seconds > 0:
            self.clock.advance(min(3.0, seconds))
            seconds -= 3.0
            for member in self.members:
                if member.alive and member is not frozen:
                    member.consumer.heartbeat()
        for call in list(StepAside.hanging):
            call.go_on()

    def answers(self) -> dict[Partition, list[tuple[int, bytes]]]:
        """For each partition of the output topics the offsets that are answered, in order."""
        found: dict[Partition, list[tuple[int, bytes]]] = {}
        for topic in (OUTPUT, LETTERS):
            for partition, _, record in self.kafka.records(topic):
                source, number, offset = dict(record.headers)[SOURCE_HEADER].decode().split("/")
                assert (source, int(number)) == (INPUT, partition.number)
                found.setdefault(partition, []).append((int(offset), record.value))
        return found

    def answered(self) -> set[tuple[int, int]]:
        return {(p.number, offset) for p, answers in self.answers().items() for offset, _ in answers}

    def asked(self) -> set[tuple[int, int]]:
        """All that were not deleted unanswered."""
        answered = self.answered()
        return {
            (partition.number, offset)
            for partition, offset, _ in self.kafka.records(INPUT)
            if offset >= self.kafka.starts[partition] or (partition.number, offset) in answered
        }

    def skipped(self) -> set[tuple[int, int]]:
        """What the services have reported as deleted unread."""
        events = [event for member in self.everyone for event in member.check.skips]
        return {
            (event.partition.number, offset) for event in events for offset in range(event.first, event.end)
        }

    # ---- what must hold -------------------------------------------------------------------------------------------

    @invariant()
    def committed_offsets_never_go_back(self) -> None:
        for partition, offset in self.kafka.group.committed.items():
            assert offset >= self.committed[partition], f"{partition} went back to {offset}"
            self.committed[partition] = offset

    @invariant()
    def nothing_is_committed_unanswered(self) -> None:
        """But for what is reported as skipped."""
        asked = {(partition.number, offset) for partition, offset, _ in self.kafka.records(INPUT)}
        missing = asked - self.answered() - self.skipped()
        passed = {(n, o) for n, o in missing if o < self.committed[self.inputs[n]]}
        assert not passed, f"committed beyond {passed}, which have no answer"

    @invariant()
    def only_what_was_deleted_is_reported_as_skipped(self) -> None:
        for number, offset in self.skipped():
            assert offset < self.kafka.starts[self.inputs[number]], (
                "it is still there, or was never a message"
            )

    def teardown(self) -> None:
        """One member goes on alone, without further failures: in the end everything has its answer."""
        if not hasattr(self, "kafka") or sys.exc_info()[0] is not None:
            return
        last = self.member(0)
        for member in self.members:
            member.reading.clear_faults()
            member.writing.clear_faults()
        for member in self.members[1:]:
            member.stop(FAST)
        for _ in range(300):
            if self.is_done():
                break
            if not last.alive:  # it was fenced while it was frozen or cut off
                last = self.add(0)
            last.turn(FAST)
            self.clock.advance(0.2)
        else:
            raise AssertionError(
                f"no end: {self.asked() - self.answered()} open, {self.kafka.group.committed}"
            )
        self.check_all()
        last.stop(FAST)
        self.check_all()

    def is_done(self) -> bool:
        """All that is still there is committed.

        What was deleted may be answered and not committed: by a member that lost its partition before it could.
        """
        ends = {}
        for number, offset in self.asked():
            if offset >= self.kafka.starts[self.inputs[number]]:
                ends[number] = max(ends.get(number, 0), offset + 1)
        behind = [n for n, end in ends.items() if self.kafka.group.committed.get(self.inputs[n], 0) < end]
        return not behind and not self.kafka.open_transactions

    def check_all(self) -> None:
        self.committed_offsets_never_go_back()
        self.nothing_is_committed_unanswered()
        assert self.answered() == self.asked()
        assert not self.kafka.open_transactions
        for partition, answers in self.answers().items():
            for offset, value in answers:
                asked = self.kafka.logs[self.inputs[partition.number]][offset].value
                if asked in (POISON, LARGE):
                    reason = "malformed" if asked == POISON else "prediction_too_large"
                    assert (partition.topic, decode_dead_letter(value).reason) == (LETTERS, reason)
                else:
                    name = f"{INPUT}/{partition.number}/{offset}"
                    assert (partition.topic, decode_prediction(value).id) == (OUTPUT, name)


class ExactlyOnceLoop(Loop):
    transactional = True
    calls = ("begin_transaction", "send_offsets_to_transaction", "commit_transaction", "abort_transaction")

    @rule(
        who=WHO,
        call=st.sampled_from(["send_offsets_to_transaction", "commit_transaction"]),
        pace=PACE,
        turns=TURNS,
        moved=st.booleans(),
    )
    def transaction_fails(self, who: int, call: str, pace: Pace, turns: int, moved: bool) -> None:
        member = self.member(who)
        code = KafkaError.ILLEGAL_GENERATION
        self.put(member, call, lambda: self.calling(member).fail_transaction(code))
        self.work(pace, turns, moved)

    @rule(who=WHO, seconds=SECONDS, is_sent=st.booleans(), pace=PACE, turns=TURNS, moved=st.booleans())
    def sending_offsets_hangs(
        self, who: int, seconds: float, is_sent: bool, pace: Pace, turns: int, moved: bool
    ) -> None:
        member = self.member(who)

        def hang() -> None:
            raise Hang(self.calling(member), seconds, is_sent)

        self.put(member, "send_offsets_to_transaction", hang, is_sent)
        self.work(pace, turns, moved)

    @invariant()
    def each_input_has_one_answer_at_most_and_in_order(self) -> None:
        answers = self.answers()
        for partition, found in answers.items():
            offsets = [offset for offset, _ in found]
            assert offsets == sorted(set(offsets)), f"{partition}: {offsets}"
        total = sum(len(found) for found in answers.values())
        assert total == len(self.answered()), "a prediction and a dead letter for one message"


class AtLeastOnceLoop(Loop):
    transactional = False
    calls = ("commit", "commit_async")

    @invariant()
    def first_answers_are_in_order(self) -> None:
        """But a dead letter for a prediction that was too large comes when that is known; and a member that was frozen
        may have read what was deleted before the next owner could, and answers it when it wakes.
        """
        skipped = self.skipped()
        for partition, found in self.answers().items():
            log = self.kafka.logs[self.inputs[partition.number]]
            counted = (
                offset
                for offset, _ in found
                if log[offset].value != LARGE and (partition.number, offset) not in skipped
            )
            first = list(dict.fromkeys(counted))
            assert first == sorted(first), f"{partition}: {first}"


_SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
ExactlyOnceLoop.TestCase.settings = AtLeastOnceLoop.TestCase.settings = _SETTINGS
TestExactlyOnce = ExactlyOnceLoop.TestCase
TestAtLeastOnce = AtLeastOnceLoop.TestCase
