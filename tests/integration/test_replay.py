"""A dead letter is corrected and published again with its headers, as tools that copy messages do."""

from __future__ import annotations

from confluent_kafka import Message

from schemas import SequenceRecord, decode_dead_letter, decode_prediction, encode_record
from tests.support.harness import NoopServe, produce, read, serving


def source(message: Message) -> bytes:
    return f"{message.topic()}/{message.partition()}/{message.offset()}".encode()


def test_an_answer_to_a_replayed_dead_letter_names_the_replay_alone(tmp_path):
    with serving(tmp_path / "serve.log", kind=NoopServe) as serve:
        forged = [("trace", b"1"), ("vnp-source", b"elsewhere/0/0"), ("vnp-other", None)]
        produce(serve.bootstrap, [{"key": b"k", "value": b"junk", "headers": forged}])
        (letter,) = read(serve.bootstrap, "sequences.dlq", bool)
        (first,) = read(serve.bootstrap, "sequences", bool)
        assert letter.headers() == [
            ("trace", b"1"),
            ("vnp-source", source(first)),
            ("vnp-dlq-reason", b"malformed"),
        ]
        corrected = encode_record(SequenceRecord("r", "ACGT" * 50))
        key = decode_dead_letter(letter.value()).key
        produce(serve.bootstrap, [{"key": key, "value": corrected, "headers": letter.headers()}])
        (prediction,) = read(serve.bootstrap, "predictions", bool)
        _, second = read(serve.bootstrap, "sequences", lambda found: len(found) == 2)
        assert decode_prediction(prediction.value()).id == "r"
        assert prediction.headers() == [("trace", b"1"), ("vnp-source", source(second))]
        assert serve.stop() == 0
