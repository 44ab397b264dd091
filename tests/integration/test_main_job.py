"""The main job from outside: `serve` as a process, sequences in, predictions and dead letters out."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest

from schemas import Reason, SequenceRecord, decode_dead_letter, decode_prediction, encode_record
from tests.support.harness import Serve, committed, produce, read, serving, virnucpro, wait_until
from virnucpro_core.scoring.contig_rule import CALL_FIELDS

SAMPLE = Path(__file__).parents[2] / "consumer" / "data" / "sample.fasta"
GOOD = encode_record(SequenceRecord("good", "ACGTACGTACGTACGTAAATTTGGGCCC"))


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """One service on its own embedded broker, with the default settings, for all tests of this module."""
    with serving(
        tmp_path_factory.mktemp("serve") / "serve.log", VIRNUCPRO_MAX_SEQUENCE_BASES="2000000"
    ) as serve:
        yield serve


@pytest.fixture(scope="module")
def frames() -> list[dict[str, str | None]]:
    done = virnucpro("frames", str(SAMPLE), "--expected-length", "500")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def predictions(serve, frames):
    """What the service says of the sample, published with the command line."""
    done = virnucpro("publish", str(SAMPLE), "--bootstrap", serve.bootstrap)
    assert done.returncode == 0, done.stderr
    records = {frame["record"] for frame in frames}
    messages = read(serve.bootstrap, "predictions", lambda found: len(found) >= len(records))
    wait_until(lambda: committed(serve.bootstrap) == len(records), "every offset committed")
    return messages


@pytest.fixture(scope="module")
def counts(serve, predictions) -> dict[str, float]:
    """What the metrics said when the sample, and nothing else, was answered."""
    names = ("vnp_chunks_total", "vnp_frames_total", "vnp_tokens_total")
    found = {name: serve.metric(name) for name in names}
    return found | {"predicted": serve.metric("vnp_records_total", outcome="predicted")}


@pytest.fixture
def serve_after_sample(serve, counts) -> Serve:
    """The same service, for a test that sends more: in whatever order the tests run, the sample comes first."""
    return serve


def test_every_record_has_exactly_one_prediction(predictions, frames):
    counts = Counter(decode_prediction(message.value()).id for message in predictions)
    assert counts == Counter({frame["record"]: 1 for frame in frames})


def test_a_prediction_is_keyed_and_stamped(predictions, serve):
    for message in predictions:
        prediction = decode_prediction(message.value())
        assert message.key() == prediction.id.encode()
        source = dict(message.headers())["vnp-source"].decode()
        stamp = prediction.provenance
        assert source == f"{stamp.source_topic}/{stamp.source_partition}/{stamp.source_offset}"
        assert message.partition() == stamp.source_partition, "equal partition counts keep the partition"
        assert (stamp.model_id, stamp.attention, stamp.expected_length) == ("nano-500", "packed", 500)
        assert len(stamp.model_sha256) == 64


def test_predictions_of_a_partition_are_in_input_order(predictions):
    last: dict[int, int] = {}
    for message in predictions:
        offset = decode_prediction(message.value()).provenance.source_offset
        assert offset > last.get(message.partition(), -1)
        last[message.partition()] = offset


def test_the_metrics_count_what_frames_prints(predictions, frames, counts):
    open_frames = [frame for frame in frames if frame["frame"] is not None]
    assert open_frames
    assert counts["vnp_chunks_total"] == len({frame["chunk"] for frame in frames})
    assert counts["vnp_frames_total"] == len(open_frames)
    assert counts["vnp_tokens_total"] == sum(len(frame["protein"]) + 2 for frame in open_frames)
    assert counts["predicted"] == len(predictions)


def test_predict_gives_the_same_scores_bit_for_bit(predictions, tmp_path):
    output = tmp_path / "out.jsonl"
    done = virnucpro("predict", str(SAMPLE), "--format", "jsonl", "--output", str(output))
    assert done.returncode == 0, done.stderr
    local = {}
    for line in output.read_text().splitlines():
        result = json.loads(line)
        local[result["id"]] = result
    assert len(local) == len(predictions)
    for message in predictions:
        prediction = decode_prediction(message.value())
        result = local[prediction.id]
        # The probability is `predict`'s alone: whoever asks says which share of viruses to expect.
        assert list(result) == [*(field.name for field in fields(prediction)), "probability"]
        assert result["verdict"] == prediction.verdict.value
        called = {name: result[name] for name in CALL_FIELDS}
        assert called == {name: getattr(prediction, name) for name in CALL_FIELDS}
        no_source = {"source_topic": None, "source_partition": None, "source_offset": None}
        assert result["provenance"] == asdict(prediction.provenance) | no_source
        theirs = [f for c in result["chunks"] for f in c["frames"]]
        ours = [f for c in prediction.chunks for f in c.frames]
        assert [f.frame for f in ours] == [f["frame"] for f in theirs]
        # JSON has the shortest digits that name the float32, Avro its bytes.
        for score in ("others", "virus"):
            assert [np.float32(getattr(f, score)) for f in ours] == [np.float32(f[score]) for f in theirs]


def test_genomes_in_parts_come_back_as_predict_writes_them(serve_after_sample, tmp_path):
    """One that has no overlapping chunks (over 250,000 bases), and one that has."""
    path, out, own = (tmp_path / name for name in ("in.fasta", "out.jsonl", "own.jsonl"))
    bases = np.random.default_rng(1)
    with path.open("w") as file:
        for length in (262_345, 70_111):
            # Few stop codons at the beginning and the end, so that frames are open, and no open frame between.
            ends = "".join(bases.choice(list("ACGT"), 6000, p=[0.06, 0.44, 0.44, 0.06]))
            letters = ends[:3000] + "TAAATTAATTTA" * (length // 12) + ends[3000:]
            file.write(f">genome of a test\n{letters[: length - 3000]}{ends[3000:]}\n")
    done = virnucpro(
        *("publish", str(path), "--bootstrap", serve_after_sample.bootstrap),
        *("--wait", "--format", "jsonl", "-o", str(out)),
        VIRNUCPRO_MAX_SEQUENCE_BASES="60000",
    )
    assert done.returncode == 0, done.stderr
    assert b"published 2 records (2 in parts)" in done.stderr
    done = virnucpro("predict", str(path), "--format", "jsonl", "-o", str(own))
    assert done.returncode == 0, done.stderr
    assert of_the_service(out.read_text()) == of_the_service(own.read_text())
    assert out.read_text().count('"frame": "F1"') > 5


def of_the_service(text: str) -> str:
    """Without the provenance, which says where a record came from, and the probability, which is `predict`'s alone."""
    return re.sub(r', "provenance": \{[^}]*\}|, "probability": [^},]*', "", text)


def test_the_probes_answer(serve: Serve):
    assert serve.get("/livez") == (200, "alive\n")
    assert serve.get("/readyz") == (200, "ready\n")
    assert serve.get("/nothing")[0] == 404


BAD = {
    Reason.NULL_VALUE: None,
    Reason.MALFORMED: b"this is not Avro",
    Reason.UNKNOWN_SCHEMA: b"\xc3\x01" + b"\x07" * 8 + GOOD[10:],
    Reason.EMPTY_ID: encode_record(SequenceRecord("", "ACGT")),
    Reason.EMPTY_SEQUENCE: encode_record(SequenceRecord("r", "")),
    Reason.INVALID_NUCLEOTIDES: encode_record(SequenceRecord("r", "ACGT1234")),
    Reason.SEQUENCE_TOO_LONG: encode_record(SequenceRecord("r", "A" * 2_000_001)),
    Reason.MESSAGE_TOO_LARGE: encode_record(SequenceRecord("r", "A" * 5_000_000)),
}


def test_each_bad_message_lands_in_the_dead_letter_topic_with_its_raw_bytes(serve_after_sample):
    values = [*BAD.values(), GOOD[:-3]]
    headers = [("trace", b"1"), ("trace", b"2"), ("empty", None)]
    # The embedded broker keeps 5 MiB of a partition: each of the two large messages gets one of its own.
    alone = {BAD[Reason.SEQUENCE_TOO_LONG]: 2, BAD[Reason.MESSAGE_TOO_LARGE]: 3}
    produce(
        serve_after_sample.bootstrap,
        ({"value": v, "key": b"key", "headers": headers, "partition": alone.get(v, 0)} for v in values),
    )
    found = read(serve_after_sample.bootstrap, "sequences.dlq", lambda found: len(found) >= len(values))
    letters = [(decode_dead_letter(message.value()), message) for message in found]
    assert Counter(letter.value for letter, _ in letters) == Counter(values)
    for letter, message in letters:
        expected = next((reason for reason, value in BAD.items() if value == letter.value), Reason.MALFORMED)
        assert letter.reason is expected
        assert message.key() == b"key"
        source = f"sequences/{letter.source_partition}/{letter.source_offset}".encode()
        stamp = [("vnp-source", source), ("vnp-dlq-reason", expected.value.encode())]
        assert message.headers() == headers + stamp


def test_odd_but_good_messages_get_predictions(serve_after_sample):
    twin = encode_record(SequenceRecord("twin", "ACGTNNNNRYACGT" * 30))
    headers = [("h", b"1"), ("h", b"1"), ("h", None)]
    produce(
        serve_after_sample.bootstrap,
        [
            {"value": twin, "key": b"twin", "headers": headers, "timestamp": 1_600_000_000_123},
            {"value": twin, "key": b"twin", "headers": headers, "timestamp": 1_600_000_000_123},
            {"value": encode_record(SequenceRecord("nokey", "ACGTACGTACG")), "key": None},
            {"value": encode_record(SequenceRecord("closed", "AC")), "key": b"closed"},
            {"value": b"\x00\x00\x00\x00\x01" + GOOD[10:], "key": b"framed"},
        ],
    )

    def mine(found):
        wanted = ("twin", "nokey", "closed", "good")
        return [m for m in found if decode_prediction(m.value()).id in wanted]

    found = mine(read(serve_after_sample.bootstrap, "predictions", lambda found: len(mine(found)) >= 5))
    by_id = {decode_prediction(m.value()).id: m for m in found}
    assert Counter(decode_prediction(m.value()).id for m in found) == {
        "twin": 2,
        "nokey": 1,
        "closed": 1,
        "good": 1,
    }
    assert by_id["nokey"].key() is None
    assert by_id["twin"].headers()[:3] == headers
    assert by_id["twin"].timestamp()[1] == 1_600_000_000_123
    assert decode_prediction(by_id["closed"].value()).verdict == "no_open_frame"
