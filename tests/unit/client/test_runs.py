"""The client: which answer is of which record, what is said of records without one, what is skipped."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from schemas import SequenceRecord, decode_record, encode_dead_letter, encode_prediction
from schemas.codecs import AvroCodec, EitherDecoder, JsonCodec
from tests.support.messages import LETTER, PREDICTION
from virnucpro_client import BrokerUnavailable, PublishFailed, Run, Unanswered, reading
from virnucpro_client.answers import UnreadableAnswer, decoded
from virnucpro_client.connection import Connection
from virnucpro_client.parts import Packer, part_of
from virnucpro_client.publishing import RunPublisher
from virnucpro_client.reading import AnswerReader
from virnucpro_client.runs import RUN_HEADER

RUN = Run("abc", ids={0: "a", 1: "b"}, sources={"sequences/0/5": 1})
CONNECTION = Connection("nowhere:1", {})


class Message:
    """What the Kafka client gives; older versions of it let no program make one."""

    def __init__(self, topic=None, partition=0, offset=0, value=None, headers=None, error=None) -> None:
        self._values = {"topic": topic, "partition": partition, "offset": offset, "value": value}
        self._values |= {"headers": headers, "error": error}

    def __getattr__(self, name):
        return lambda: self._values[name]


class Broker:
    """Takes what a producer sends and acknowledges it as it is told, when it is polled."""

    def __init__(
        self, *, acknowledges: bool = True, error: KafkaError | None = None, room: int = 100
    ) -> None:
        self.messages: list[dict] = []
        self.reports: list = []
        self.purged = False
        self._acknowledges, self._error, self._room = acknowledges, error, room

    def produce(self, topic, *, value, key, headers, on_delivery):
        if len(self.reports) == self._room:
            raise BufferError
        self.messages.append({"topic": topic, "value": value, "key": key, "headers": headers})
        self.reports.append((on_delivery, Message(topic, 0, len(self.messages) - 1)))

    def poll(self, seconds):
        reports = self.reports if self._acknowledges else []
        while reports:
            report, message = reports.pop(0)
            report(self._error, message)
        return 0

    def purge(self):
        self.purged = True


class Partitions:
    """Gives the messages of a topic to a reader, and then none."""

    def __init__(self, *messages: Message) -> None:
        self.messages = list(messages)
        self.assigned: list[TopicPartition] = []

    def assign(self, partitions):
        self.assigned = partitions

    def incremental_assign(self, partitions):
        self.assigned = self.assigned + partitions

    def list_topics(self, topic, timeout):
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None, partitions={0: None, 1: None})})

    def poll(self, seconds):
        return self.messages.pop(0) if self.messages else time.sleep(seconds)


def reader(*messages: Message) -> AnswerReader:
    partitions = Partitions(*messages)
    return AnswerReader(
        partitions, CONNECTION, {("out", 0): 3}, "dlq", EitherDecoder(AvroCodec(), JsonCodec())
    )


def publish(broker: Broker, records, stall_s: float = 5.0) -> Run:
    run = Run("abc")
    RunPublisher(broker, CONNECTION, "sequences", Packer(AvroCodec(), 4000, 1000), stall_s).publish(
        records, run
    )
    return run


@pytest.mark.parametrize(
    ("header", "source", "number"),
    [
        (b"abc/1", "sequences/9/9", 1),
        (b"abc/0", "sequences/0/5", 0),
        (None, "sequences/0/5", 1),
        (None, "sequences/0/6", None),
        (b"other/1", "sequences/0/5", None),
        (b"abc/", "sequences/0/5", None),
        (b"abc/-1", "sequences/0/5", None),
        (b"\xff", "sequences/0/5", None),
    ],
)
def test_an_answer_belongs_to_the_record_of_its_header_else_of_its_source(header, source, number):
    assert RUN.number_of(header, source) == number


def test_every_record_is_sent_with_its_id_as_key_and_a_header_that_names_it():
    broker = Broker(room=1)
    run = publish(broker, [("a", "ACGT"), SequenceRecord("b", "TTT", "two"), ("a", "GG")])
    assert run.ids == {0: "a", 1: "b", 2: "a"}
    assert run.sources == {"sequences/0/0": 0, "sequences/0/1": 1, "sequences/0/2": 2}
    assert [message["key"] for message in broker.messages] == [b"a", b"b", b"a"]
    assert [dict(message["headers"])[RUN_HEADER] for message in broker.messages] == [
        b"abc/0",
        b"abc/1",
        b"abc/2",
    ]
    assert decode_record(broker.messages[1]["value"]) == SequenceRecord("b", "TTT", "two")


def test_a_record_in_parts_is_one_record_of_the_run():
    broker = Broker()
    run = publish(broker, [("a", "ACGT"), ("big", "ACGT" * 600)])
    assert run.ids == {0: "a", 1: "big"}
    assert run.sources == {"sequences/0/0": 0, **{f"sequences/0/{offset}": 1 for offset in range(1, 6)}}
    parts = [part_of(tuple(message["headers"])) for message in broker.messages[1:]]
    assert [(part.number, part.count) for part in parts if part] == [(n, 5) for n in range(1, 6)]
    assert {dict(message["headers"])[RUN_HEADER] for message in broker.messages[1:]} == {b"abc/1"}


def test_a_record_that_the_schema_cannot_carry_stops_no_other():
    with pytest.raises(PublishFailed, match=r"1 records were not published, 2 were \('\\ud800'") as caught:
        publish(Broker(), [("a", "A"), ("\ud800", "C"), ("c", "G")])
    assert caught.value.run.ids == {0: "a", 2: "c"}
    assert list(caught.value.refused) == [1]


def test_what_the_broker_refuses_is_named_with_the_reason():
    with pytest.raises(PublishFailed, match="'a': too big") as caught:
        publish(Broker(error=KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "too big")), [("a", "A")])
    assert len(caught.value.run) == 0


def test_a_broker_that_acknowledges_nothing_ends_the_wait():
    broker = Broker(acknowledges=False)
    with pytest.raises(BrokerUnavailable, match="no record for 0 s, 1 records wait"):
        publish(broker, [("a", "A")], stall_s=0)
    assert broker.purged


def test_predictions_and_dead_letters_name_the_record_that_they_answer():
    headers = [("x", b"1"), ("x", None)]
    prediction = decoded(
        Message("out", 0, 1, value=encode_prediction(PREDICTION), headers=headers), False, AvroCodec()
    )
    assert (prediction.id, prediction.content, prediction.source) == ("seq1", PREDICTION, "sequences/3/41")
    assert prediction.headers == (("x", b"1"), ("x", None))
    letter = replace(LETTER, key=b"seq2")
    answer = decoded(Message("dlq", 0, 1, value=encode_dead_letter(letter)), True, AvroCodec())
    assert (answer.id, answer.content, answer.source) == ("seq2", letter, "sequences/0/9")


@pytest.mark.parametrize("value", [None, b"", b"junk", encode_dead_letter(LETTER)])
def test_a_message_that_is_not_an_answer_is_named(value):
    with pytest.raises(UnreadableAnswer, match=r"^out/0/1 cannot be read \(.*\): update this package"):
        decoded(Message("out", 0, 1, value=value), False, AvroCodec())


def test_a_reader_skips_what_it_cannot_read_and_gives_what_is_behind_it(caplog):
    caplog.set_level(logging.WARNING, "virnucpro_client")  # whatever level other tests have left at the root
    good = Message("out", 0, 2, value=JsonCodec().encode_prediction(PREDICTION).value)
    opened = reader(Message("out", 0, 1, value=b"junk"), good)
    found = opened.next_within(5)
    assert found is not None
    assert found.content == PREDICTION
    assert opened.skipped == 1
    assert "out/0/1 cannot be read" in caplog.text


def test_a_transient_error_is_waited_out_and_a_topic_that_is_gone_is_not():
    away, gone = KafkaError(KafkaError._TRANSPORT, "away"), KafkaError(KafkaError._UNKNOWN_TOPIC, "gone")
    opened = reader(
        Message(error=away),
        Message("out", 0, 2, value=encode_prediction(PREDICTION)),
        Message("out", error=gone),
    )
    assert opened.next_within(5) is not None
    with pytest.raises(BrokerUnavailable, match=r"out cannot be read \(gone\)"):
        opened.next_within(5)


def test_a_partition_without_a_leader_for_a_moment_is_asked_again():
    asked = []

    def get_watermark_offsets(partition, timeout):
        asked.append(partition.partition)
        if asked == [0, 1]:
            raise KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))
        return 0, 7

    partitions = Partitions()
    partitions.get_watermark_offsets = get_watermark_offsets
    assert reading.ends(partitions, CONNECTION, ("out",)) == {("out", 0): 7, ("out", 1): 7}
    assert asked == [0, 1, 1]


def test_partitions_that_are_added_are_read_from_their_beginning(monkeypatch):
    monkeypatch.setattr(reading, "_LOOK_S", 0.0)
    partitions = Partitions()
    AnswerReader(partitions, CONNECTION, {("out", 0): 3}, "dlq", AvroCodec()).next_within(0.01)
    assert [(each.partition, each.offset) for each in partitions.assigned] == [(0, 3), (1, OFFSET_BEGINNING)]


def test_a_reader_waits_no_longer_than_it_was_told():
    assert reader().next_within(0.01) is None


def test_records_without_an_answer_are_named():
    error = Unanswered([f"r{number}" for number in range(5)], 7, 1.5, "")
    assert str(error).startswith(
        "5 of 12 records have no answer after 1.5 s ('r0', 'r1', 'r2' and 2 more): look at"
    )
    assert error.missing == ("r0", "r1", "r2", "r3", "r4")
