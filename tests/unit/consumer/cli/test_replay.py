"""Which dead letters are replayed, and that progress and counts are right whatever the broker refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from consumer.cli.dlq.letters import FoundLetter, LetterFilter
from consumer.cli.dlq.outlet import Refusals
from consumer.cli.dlq.replay import Replay
from consumer.cli.dlq.rule import ReplayRule
from consumer.cli.error_messages import UserError
from consumer.config.settings import ServiceSettings
from consumer.delivery.answers import REPLAYS_HEADER, SCHEMA_ID_HEADER, Outgoing
from consumer.kafka.error_table import classify
from consumer.kafka.offset_map import OffsetMap
from consumer.types import Headers
from schemas import DeadLetter, Reason, SequenceRecord, encode_record
from schemas.codecs import VALUE_SCHEMA_ID, AvroCodec, DependencyUnavailable

GOOD = encode_record(SequenceRecord("r", "ACGT"))
LETTER = DeadLetter(
    Reason.SEQUENCE_TOO_LONG,
    "too long",
    "validate",
    GOOD,
    b"k",
    False,
    None,
    "in",
    1,
    9,
    None,
    "g",
    1,
    "0.1.0",
    50,
)


def found(offset: int = 0, headers: Headers = (), **changes: object) -> FoundLetter:
    place = SimpleNamespace(topic=lambda: "dlq", partition=lambda: 0, offset=lambda: offset)
    return FoundLetter(place, replace(LETTER, **changes), headers)  # type: ignore[arg-type]


def rule(force: bool = False, any_source: bool = False, most: int = 3, decoder: object = None) -> ReplayRule:
    settings = ServiceSettings(max_sequence_bases=10, max_message_bytes=2000)
    return ReplayRule(settings, decoder or AvroCodec(), "in", any_source, 4, most, force)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("letter", "judged", "forced"),
    [
        (found(), ("replay", ""), "replay"),
        (found(value=b"junk"), ("skip", "malformed"), "replay"),
        (found(value=None), ("skip", "null_value"), "replay"),
        (found(value=b"x" * 3000), ("skip", "message_too_large"), "replay"),
        (found(value=encode_record(SequenceRecord("r", "A" * 11))), ("skip", "sequence_too_long"), "replay"),
        (found(value=encode_record(SequenceRecord("r", "A-"))), ("skip", "invalid_nucleotides"), "replay"),
        (found(truncated=True), ("skip", "truncated"), "skip"),
        (found(source_topic="another"), ("skip", "other_topic"), "skip"),
        (found(headers=((REPLAYS_HEADER, b"2"),)), ("replay", ""), "replay"),
        (found(headers=((REPLAYS_HEADER, b"3"),)), ("exhausted", "sequence_too_long"), "exhausted"),
    ],
)
def test_what_would_fail_again_is_skipped_unless_it_is_forced(letter, judged, forced):
    assert rule().judge(letter)[:2] == judged
    assert rule(force=True).judge(letter).action == forced


def test_a_dependency_that_does_not_answer_ends_the_replay():
    class Down:
        def decode_record(self, value: bytes | None, headers: Headers) -> SequenceRecord:
            raise DependencyUnavailable("the registry is down")

    with pytest.raises(UserError, match="the registry is down"):
        rule(decoder=Down()).judge(found())


def test_the_message_is_the_first_one_with_a_count():
    headers = (("trace", b"1"), ("vnp-source", b"in/1/9"), (REPLAYS_HEADER, b"1"), ("trace", None))
    out = rule().outgoing(found(headers=headers))
    assert (out.topic, out.partition, out.key, out.value) == ("in", 1, b"k", GOOD)
    assert out.headers == (("trace", b"1"), ("trace", None), (REPLAYS_HEADER, b"2"))
    assert rule(any_source=True).outgoing(found(source_topic="another")).partition is None
    assert rule().outgoing(found(source_partition=7)).partition is None


def test_the_id_of_the_schema_of_the_record_is_put_back_and_that_of_the_dead_letter_is_not_copied():
    guid, other = b"\x01" + bytes(16), b"\x01" + bytes(range(16))
    headers = (("trace", b"1"), (SCHEMA_ID_HEADER, guid), (VALUE_SCHEMA_ID, other))
    out = rule().outgoing(found(headers=headers))
    assert out.headers == (("trace", b"1"), (VALUE_SCHEMA_ID, guid), (REPLAYS_HEADER, b"1"))
    asked: list[Headers] = []

    class Decoder:
        def decode_record(self, value: bytes | None, headers: Headers) -> SequenceRecord:
            asked.append(headers)
            return SequenceRecord("r", "ACGT")

    assert rule(decoder=Decoder()).judge(found(headers=headers)).action == "replay"
    assert asked == [(("trace", b"1"), (VALUE_SCHEMA_ID, guid))]


@pytest.mark.parametrize(
    ("wanted", "takes"),
    [
        (LetterFilter(), True),
        (LetterFilter(reasons=frozenset({Reason.MALFORMED})), False),
        (LetterFilter(sources=("in",)), True),
        (LetterFilter(sources=("in/1",)), True),
        (LetterFilter(sources=("in/1/9",)), True),
        (LetterFilter(sources=("i", "in/1/90", "in/11")), False),
        (LetterFilter(since_ms=50, until_ms=51), True),
        (LetterFilter(since_ms=51), False),
        (LetterFilter(until_ms=50), False),
    ],
)
def test_filters(wanted, takes):
    assert wanted.takes(found()) is takes


class Broker:
    """Takes a batch whole or not at all, with the commit; some messages it never takes."""

    def __init__(self, refused: set[bytes | None]) -> None:
        self._refused = refused
        self.sent: list[bytes | None] = []
        self.commit = (0, "")

    def open(self) -> None:
        """Nothing to do."""

    def send(self, batch: Sequence[Outgoing], offsets: Sequence[object]) -> Refusals:
        problem = classify(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        refusals = {place: problem for place, each in enumerate(batch) if each.key in self._refused}
        if not refusals:
            self.sent += [each.key for each in batch]
            (offset,) = offsets
            self.commit = (offset.offset, offset.metadata)  # type: ignore[attr-defined]
        return refusals

    def close(self) -> None:
        """Nothing to do."""


@given(
    st.lists(st.sampled_from(["good", "bad", "refused"]), max_size=40),
    st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=4),
)
def test_any_runs_one_after_the_other_send_each_good_one_once_and_leave_the_others_open(kinds, runs):
    letters = [
        found(2 * n, key=str(n).encode(), value=b"junk" if kind == "bad" else GOOD)
        for n, kind in enumerate(kinds)
    ]
    broker = Broker({str(n).encode() for n, kind in enumerate(kinds) if kind == "refused"})
    for most, filtered in [*runs, (None, False)]:
        progress = {0: OffsetMap.parse(*broker.commit)}
        waiting = []
        for letter in letters:
            if letter.offset < progress[0].position:
                continue
            if progress[0].is_done(letter.offset):
                waiting.append(letter.offset)
            else:
                waiting.append(letter)
        replay = Replay("dlq", rule(), progress, broker)

        def backlog(waiting=waiting, progress=progress):
            for each in waiting:
                if isinstance(each, int):
                    progress[0].passed(each, done=True)
                else:
                    yield each

        wanted = LetterFilter(reasons=frozenset({Reason.MALFORMED})) if filtered else LetterFilter()
        counts = replay.run(backlog(), wanted, most)  # type: ignore[arg-type]
    good = [str(n).encode() for n, kind in enumerate(kinds) if kind == "good"]
    assert sorted(broker.sent, key=lambda key: int(key or b"0")) == good
    assert (counts.skipped.total(), counts.failed) == (kinds.count("bad"), kinds.count("refused"))
    last = OffsetMap.parse(*broker.commit)
    assert all(last.is_done(2 * n) for n, kind in enumerate(kinds) if kind == "good")
    assert not any(last.is_done(2 * n) for n, kind in enumerate(kinds) if kind != "good")
