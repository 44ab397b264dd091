"""From raw bytes to frames, or to the reason for a dead letter: every bad input has its decided outcome."""

from __future__ import annotations

import pytest

from consumer.scoring.preparation import Preparation
from consumer.types import NotNow, Refused
from schemas import Reason, SequenceRecord, encode_record
from schemas.codecs import AvroCodec, DependencyUnavailable
from tests.support.factories import message, prepared_record
from tests.support.small_tokenizer import small_tokenizer
from virnucpro_core.sequence import prepare as core


def prepare(record_id, sequence):
    return prepared_record(10, record_id=record_id)


GOOD = encode_record(SequenceRecord("r", "ACGT"))


@pytest.fixture
def preparation() -> Preparation:
    return Preparation(AvroCodec(), prepare, 1000, 100)


@pytest.mark.parametrize(
    ("value", "reason", "stage"),
    [
        (None, Reason.NULL_VALUE, "decode"),
        (b"", Reason.MALFORMED, "decode"),
        (b"not avro", Reason.MALFORMED, "decode"),
        (GOOD[:-1], Reason.MALFORMED, "decode"),
        (GOOD + b"x", Reason.MALFORMED, "decode"),
        (b"\xc3\x01" + b"\x00" * 8 + GOOD[10:], Reason.UNKNOWN_SCHEMA, "decode"),
        (encode_record(SequenceRecord("", "ACGT")), Reason.EMPTY_ID, "validate"),
        (encode_record(SequenceRecord("r", "")), Reason.EMPTY_SEQUENCE, "validate"),
        (encode_record(SequenceRecord("r", "ACG7")), Reason.INVALID_NUCLEOTIDES, "validate"),
        (encode_record(SequenceRecord("r", "A" * 101)), Reason.SEQUENCE_TOO_LONG, "validate"),
        (encode_record(SequenceRecord("r", "A" * 1001)), Reason.MESSAGE_TOO_LARGE, "decode"),
    ],
)
def test_bad_input_is_refused_with_its_reason(preparation, value, reason, stage):
    outcome = preparation(message(1, value=value))
    assert isinstance(outcome, Refused)
    assert (outcome.reason, outcome.stage) == (reason, stage)
    assert outcome.detail
    assert "\n" not in outcome.detail


@pytest.mark.parametrize("sequence", ["ACGT", "acgu", "NNRYSWKMBDHV"])
def test_iupac_letters_are_fine(preparation, sequence):
    assert preparation(message(1, value=encode_record(SequenceRecord("r", sequence)))).record_id == "r"


@pytest.mark.parametrize(("sequence", "counted"), [("ACGT", 0), ("acgu", 1), ("TU", 1), ("ACG7U", 0)])
def test_records_that_hold_a_u_are_counted(sequence, counted):
    told = []
    preparation = Preparation(
        AvroCodec(),
        lambda record_id, sequence: core.prepare(record_id, sequence, 500, small_tokenizer()),
        1000,
        100,
        lambda: told.append(1),
    )
    preparation(message(1, value=encode_record(SequenceRecord("r", sequence))))
    assert len(told) == counted


def test_confluent_framing_is_read_too(preparation):
    assert preparation(message(1, value=b"\x00\x00\x00\x00\x07" + GOOD[10:])).record_id == "r"


def test_a_dependency_that_does_not_answer_is_no_verdict_on_the_record():
    class Down:
        def decode_record(self, value, headers):
            raise DependencyUnavailable("the registry does not answer:\n503")

    outcome = Preparation(Down(), prepare, 1000, 100)(message(1, value=GOOD))
    assert outcome == NotNow("the registry does not answer: 503")


def test_the_decoder_sees_the_headers():
    seen = []

    class Noting(AvroCodec):
        def decode_record(self, value, headers):
            seen.append(headers)
            return super().decode_record(value, headers)

    Preparation(Noting(), prepare, 1000, 100)(message(1, value=GOOD, headers=(("schema", b"7"),)))
    assert seen == [(("schema", b"7"),)]
