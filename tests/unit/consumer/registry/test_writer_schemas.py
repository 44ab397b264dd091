"""How often a registry is asked: once for each schema, seldom for what is not there, and not during an outage."""

from __future__ import annotations

from uuid import UUID

import pytest

from consumer.registry import writer_schemas
from consumer.registry.writer_schemas import FIRST_PAUSE_S, LONGEST_PAUSE_S, REFUSED_FOR_S, WriterSchemas
from schemas import MalformedMessage, Reason, decode_record, encode_record
from schemas.codecs import DependencyUnavailable
from schemas.contracts import UnusableSchema, releases
from tests.support.factories import FakeClock
from tests.support.messages import RECORD

SCHEMA = releases("sequence_record")[-1].schema
GUID = UUID("2b0c9a7e-1111-2222-3333-0123456789ab")


class Registry:
    """Answers by id; counts what it is asked."""

    address = "http://registry"

    def __init__(self) -> None:
        self.answers: dict[object, object] = {7: SCHEMA, GUID: SCHEMA}
        self.down = False
        self.asked: list[object] = []

    def schema(self, schema_id):
        self.asked.append(schema_id)
        if self.down:
            raise DependencyUnavailable("the registry does not answer")
        answer = self.answers.get(schema_id, LookupError(schema_id))
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def schemas(registry, clock) -> WriterSchemas:
    return WriterSchemas(registry, clock)


def framed(schema_id: int) -> bytes:
    return b"\x00" + schema_id.to_bytes(4, "big") + encode_record(RECORD)[10:]


def test_a_schema_is_asked_for_once(schemas, registry):
    for _ in range(5):
        assert decode_record(framed(7), schemas) == RECORD
        assert decode_record(framed(7)[5:], schemas, GUID) == RECORD
    assert registry.asked == [7, GUID]


@pytest.mark.parametrize(
    "refusal", [LookupError(9), UnusableSchema("it is of the type JSON, not Avro")], ids=repr
)
def test_what_is_refused_is_asked_for_again_after_a_while(schemas, registry, clock, refusal):
    registry.answers[9] = refusal
    for _ in range(5):
        with pytest.raises(MalformedMessage) as malformed:
            decode_record(framed(9), schemas)
        assert malformed.value.reason is Reason.UNKNOWN_SCHEMA
    assert registry.asked == [9]
    registry.answers[9] = SCHEMA
    clock.advance(REFUSED_FOR_S)
    assert decode_record(framed(9), schemas) == RECORD
    assert registry.asked == [9, 9]


def test_how_many_refusals_are_remembered_is_bounded(schemas, registry, monkeypatch):
    monkeypatch.setattr(writer_schemas, "_REFUSALS_KEPT", 3)
    for schema_id in range(100, 110):
        with pytest.raises(LookupError):
            schemas(schema_id)
    assert len(schemas._refusals) == 3
    with pytest.raises(LookupError):
        schemas(109)
    assert registry.asked == list(range(100, 110))


def test_during_an_outage_it_is_asked_ever_less_often_and_nothing_is_refused(schemas, registry, clock):
    registry.down = True
    pause = FIRST_PAUSE_S
    for tries in range(1, 9):
        for schema_id in (7, 8, 9):
            with pytest.raises(DependencyUnavailable, match="does not answer"):
                decode_record(framed(schema_id), schemas)
        assert len(registry.asked) == tries
        clock.advance(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)
    assert pause == LONGEST_PAUSE_S
    registry.down = False
    assert decode_record(framed(7), schemas) == RECORD
    assert decode_record(framed(7)[5:], schemas, GUID) == RECORD, "after an answer all are asked for at once"


def test_after_an_answer_the_pauses_begin_again_with_the_shortest(schemas, registry, clock):
    for _ in range(3):
        registry.down = True
        with pytest.raises(DependencyUnavailable):
            schemas(8)
        clock.advance(FIRST_PAUSE_S)
        registry.down = False
        with pytest.raises(LookupError):
            schemas(8)
        clock.advance(REFUSED_FOR_S)
    assert len(registry.asked) == 6
