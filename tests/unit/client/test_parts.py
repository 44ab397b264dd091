"""A record in parts: its cuts, its headers, and the prediction that is made of those of its parts."""

from __future__ import annotations

from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.delivery.answers import Answer, AnswerBuilder
from consumer.types import Scored
from schemas import Prediction, SequenceRecord, decode_prediction, decode_record, encode_prediction
from schemas.codecs import AvroCodec, JsonCodec
from schemas.json_text import shortest_float32
from tests.support.factories import STAMP, FakeClock, message
from virnucpro_client.joining import Joiner, PartsDiffer, joined
from virnucpro_client.parts import PART_HEADER, Packer, Part, cuts, part_of
from virnucpro_core.scoring.decimals import as_printed
from virnucpro_core.scoring.results import assemble
from virnucpro_core.sequence.chunks import chunk_spans
from virnucpro_core.sequence.frames import FRAME_LABELS, open_frames_by_span
from virnucpro_core.sequence.prepare import PreparedFrame, PreparedRecord

LENGTHS = st.integers(1, 12_000) | st.integers(1, 60).map(lambda n: n * 60)
BASES = st.integers(0, 2**32 - 1)
Parts = dict[int, tuple[Part, Prediction]]


def sequence_of(length: int, seed: int) -> str:
    return "".join(
        np.random.default_rng(seed).choice(
            list("ACGTacgtN"), length, p=[0.23, 0.23, 0.23, 0.23, *[0.016] * 5]
        )
    )


def predicted(record_id: str, sequence: str, chunk_size: int) -> Prediction:
    """As the service answers, with scores that depend on the letters of a frame alone."""
    spans = chunk_spans(len(sequence), chunk_size)
    empty = np.zeros(1, dtype=np.int32)
    found = [
        (
            PreparedFrame(chunk, frame.label, empty, empty),
            crc32(f"{frame.label}{frame.protein}{frame.nucleotides}".encode()),
        )
        for chunk, frames in enumerate(open_frames_by_span(sequence, spans))
        for frame in frames
    ]
    virus = np.array([number % 1009 / 1008 for _, number in found], dtype=np.float32)
    prepared = PreparedRecord(record_id, len(sequence), tuple(spans), tuple(frame for frame, _ in found))
    result = assemble(prepared, np.stack([1 - virus, virus], axis=1))
    stamp = replace(STAMP, expected_length=chunk_size)
    builder = AnswerBuilder("predictions", "dlq", "group", stamp, AvroCodec())
    return decode_prediction(builder.build(Answer(message(7), Scored(result, 0))).value)


def parts_of(record: SequenceRecord, packer: Packer) -> Parts:
    """Published, scored by the service each by itself, and read back."""
    found: Parts = {}
    for piece in packer.pieces(record, b"key"):
        part, sent = part_of(piece.headers), decode_record(piece.value)
        assert part is not None
        assert (sent.id, sent.description, sent.metadata) == (record.id, record.description, record.metadata)
        assert len(piece.value) + len(b"key") <= packer.max_bytes
        found[part.number] = part, predicted(sent.id, sent.sequence, packer.chunk_size)
    return found


@given(LENGTHS, st.sampled_from([30, 50, 300, 500]), st.integers(500, 5000))
def test_the_chunks_of_all_parts_are_those_of_the_whole(length, chunk_size, max_bases):
    found = cuts(length, chunk_size, max_bases)
    own = [(start + a, start + b) for start, end in found for a, b in chunk_spans(end - start, chunk_size)]
    assert own == chunk_spans(length, chunk_size)
    assert all(end - start <= max_bases for start, end in found)


@pytest.mark.parametrize(("length", "chunk_size"), [(5_000_000, 500), (5_000_123, 500), (3_333_333, 300)])
def test_a_genome_is_cut_into_as_few_parts_as_there_can_be(length, chunk_size):
    found = cuts(length, chunk_size, 1_000_000)
    assert len(found) == -(-length // (1_000_000 // chunk_size * chunk_size))
    assert (found[0][0], found[-1][1]) == (0, length)


@settings(max_examples=60)
@given(st.integers(2_100, 9_000), BASES, st.sampled_from([30, 60, 300]), st.integers(700, 3000))
def test_split_scored_and_joined_it_is_what_the_service_says_of_the_whole(length, seed, chunk_size, room):
    record = SequenceRecord("a genome", sequence_of(length, seed), "of a test", {"run": "7"})
    packer = Packer(AvroCodec(), 2200 + room, 2000, chunk_size)
    parts = parts_of(record, packer)
    whole = predicted(record.id, record.sequence, chunk_size)
    assert len(parts) > 1
    assert encode_prediction(joined(parts)) == encode_prediction(whole)


@given(st.floats(0, 1, width=32))
def test_scores_go_into_the_contig_rule_as_they_do_in_the_service(score):
    assert shortest_float32(score) == as_printed(score)


@pytest.mark.parametrize("encoder", [AvroCodec(), JsonCodec()])
def test_what_is_small_enough_is_one_message_without_a_header(encoder):
    record = SequenceRecord("é" * 100, "ACGT" * 500)
    size = len(encoder.encode_record(record).value)
    packer = Packer(encoder, size + 2048, 2000)
    (piece,) = packer.pieces(record, None)
    assert (piece.part, piece.value) == (None, encoder.encode_record(record).value)
    assert PART_HEADER not in dict(piece.headers)
    for smaller in (replace(packer, max_bytes=size + 2000), replace(packer, max_bases=1999)):
        assert [piece.part.number for piece in smaller.pieces(record, None) if piece.part] == [1, 2]
    # A message with this id has no room for a chunk: the record is sent whole, and the broker refuses it.
    assert len(list(replace(packer, max_bytes=2500).pieces(record, None))) == 1


def test_a_header_says_which_part_of_which_record_it_is():
    part = Part("0123456789abcdef" * 2, 2, 3, 1_000_000, 2_500_000, 500)
    assert (
        part.header
        == b"group=0123456789abcdef0123456789abcdef;part=2/3;start=1000000;length=2500000;chunk=500"
    )
    assert part_of((("x", None), (PART_HEADER, part.header))) == part
    good = part.header.decode()
    for text in ("", "part=2/3", good + ";", good.replace("2/3", "4/3"), good.replace("2/3", "0/3"), "\xff"):
        assert part_of(((PART_HEADER, text.encode("latin-1")),)) is None
    assert part_of(((PART_HEADER, None),)) is None


@pytest.fixture(scope="module")
def parts() -> Parts:
    """Three parts of one record, scored."""
    record = SequenceRecord("big", sequence_of(6000, 1))
    found = parts_of(record, Packer(AvroCodec(), 10_000, 2000, 50))
    assert list(found) == [1, 2, 3]
    return found


def test_parts_come_in_any_order_and_again_and_give_one_whole(parts):
    joiner = Joiner()
    found = [joiner.add(*parts[number]) for number in (3, 1, 3, 2, 2, 1)]
    assert [each is not None for each in found] == [False, False, False, True, False, False]
    assert found[3] == predicted("big", sequence_of(6000, 1), 50)
    assert list(joiner.given_up(everything=True)) == []


def test_what_is_missing_is_named_after_the_deadline_and_at_the_end(parts):
    clock = FakeClock()
    joiner = Joiner(within_s=60, clock=clock)
    joiner.add(*parts[1])
    joiner.dead_letter(parts[3][0], "big", "dead letter, sequence_too_long")
    clock.advance(59)
    assert list(joiner.given_up()) == []
    clock.advance(1)
    (incomplete,) = joiner.given_up()
    assert (incomplete.group, incomplete.record_id) == (parts[1][0].group, "big")
    assert incomplete.why == (
        "of its 3 parts no prediction of 2, 3 (dead letter, sequence_too_long) has come, and none at all for 60 s"
    )
    assert joiner.add(*parts[2]) is None, "it was given up"
    assert list(joiner.given_up(everything=True)) == []
    late = Joiner()
    late.add(*parts[2])
    assert [each.why for each in late.given_up(everything=True)] == [
        "of its 3 parts no prediction of 1, 3 has come"
    ]


def test_a_dead_letter_that_was_replayed_does_no_harm(parts):
    joiner = Joiner()
    joiner.add(*parts[1])
    joiner.dead_letter(parts[2][0], "big", "dead letter, malformed")
    joiner.add(*parts[2])
    assert joiner.add(*parts[3]) is not None


def test_memory_is_bounded_and_who_waits_longest_is_given_up(parts):
    joiner = Joiner(max_chunks=100)
    groups = [f"{number:032x}" for number in range(4)]
    for group in groups:  # 40 chunks each
        joiner.add(replace(parts[1][0], group=group), parts[1][1])
    assert [each.group for each in joiner.given_up()] == groups[:2]
    for number in range(1000):  # as of a program that writes headers of any kind
        joiner.dead_letter(Part(f"{number + 9:032x}", 1, 10**17, 0, 1, 500), "", "dead letter, malformed")
    given_up = list(joiner.given_up())
    assert len(given_up) > 900
    assert given_up[-1].why.startswith(
        f"of its {10**17} parts no prediction of 1 (dead letter, malformed), 2, 3"
    )


def test_parts_that_do_not_fit_are_refused_and_not_joined(parts):
    def refused(match: str, number: int, **changes) -> None:
        part, prediction = parts[number]
        wrong = {name: value for name, value in changes.items() if name in Part.__slots__}
        stamp = {name: value for name, value in changes.items() if name not in wrong}
        prediction = replace(prediction, provenance=replace(prediction.provenance, **stamp))
        broken = parts | {number: (replace(part, **wrong), prediction)}
        with pytest.raises(PartsDiffer, match=match):
            joined(broken)
        joiner = Joiner()
        assert [joiner.add(*each) for each in broken.values()] == [None] * 3
        (incomplete,) = joiner.given_up()
        assert incomplete.record_id == "big"

    refused("different models or settings", 2, model_sha256="cd" * 32)
    refused("do not make a whole record", 2, start=2001)
    refused("do not make a whole record", 3, length=6001)
    with pytest.raises(
        PartsDiffer, match=r"for chunks of 50 bases, and the model's have 300: .* --chunk-size 300"
    ):
        joined(
            {
                number: (part, replace(found, provenance=replace(found.provenance, expected_length=300)))
                for number, (part, found) in parts.items()
            }
        )


def test_the_labels_of_frames_are_all_met():
    """The records above have frames of each kind, so that nothing is left untested."""
    labels = {
        frame.frame for chunk in predicted("x", sequence_of(6000, 1), 50).chunks for frame in chunk.frames
    }
    assert labels == set(FRAME_LABELS)
