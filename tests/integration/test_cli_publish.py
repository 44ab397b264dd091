"""`virnucpro publish` against the embedded broker: what arrives, and what is said when it does not."""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from consumer.cli.app import run
from consumer.cli.error_messages import UserError
from consumer.cli.topics.publisher import Publisher
from consumer.config.clients import publisher_config
from consumer.kafka.embedded import EmbeddedBroker
from schemas import SequenceRecord, decode_record
from virnucpro_client.parts import part_of

PARTITIONS = 2
ONLY_ACGT = str.maketrans("0123456789abcdef", "ACGT" * 4)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS", "VIRNUCPRO_INPUT_TOPIC"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def broker() -> Iterator[str]:
    with EmbeddedBroker({"sequences": PARTITIONS, "other": PARTITIONS}) as running:
        yield running.bootstrap_servers


def arrived(broker: str, count: int, topic: str = "sequences") -> list[Message]:
    consumer = Consumer({"bootstrap.servers": broker, "group.id": str(uuid.uuid4())})
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
        found: list[Message] = []
        deadline = time.monotonic() + 20
        while len(found) < count and time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is not None:
                assert message.error() is None
                found.append(message)
        assert consumer.poll(0.3) is None
        return found
    finally:
        consumer.close()


def test_every_record_of_every_file_arrives_under_its_id(tmp_path, broker, capsys):
    (tmp_path / "a.fasta").write_text(">r1 the first\nACGT\nacgn\n>r2\nGGCC\n")
    (tmp_path / "b.fastq").write_text("@r3\nTTAA\n+\nIIII\n")
    assert run(["publish", str(tmp_path / "a.fasta"), str(tmp_path / "b.fastq"), "--bootstrap", broker]) == 0
    messages = arrived(broker, 3)
    records = {message.key(): decode_record(message.value()) for message in messages}
    assert records == {
        b"r1": SequenceRecord("r1", "ACGTacgn", "the first"),
        b"r2": SequenceRecord("r2", "GGCC"),
        b"r3": SequenceRecord("r3", "TTAA"),
    }
    assert all(message.headers() is None for message in messages)
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("published 3 records, 16 bases, ")


def test_the_address_and_the_topic_can_come_from_the_environment(tmp_path, broker, monkeypatch):
    (tmp_path / "a.fasta").write_text(">r1\nACGT\n")
    monkeypatch.setenv("VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS", broker)
    monkeypatch.setenv("VIRNUCPRO_INPUT_TOPIC", "other")
    assert run(["publish", str(tmp_path / "a.fasta")]) == 0
    assert [message.key() for message in arrived(broker, 1, "other")] == [b"r1"]


def test_the_rate_is_kept(tmp_path, broker):
    (tmp_path / "a.fasta").write_text("".join(f">r{n}\nACGT\n" for n in range(11)))
    began_at = time.monotonic()
    assert run(["publish", str(tmp_path / "a.fasta"), "--bootstrap", broker, "--rate", "20"]) == 0
    assert time.monotonic() - began_at >= 10 / 20
    assert len(arrived(broker, 11)) == 11


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("virnucpro: error: ")
    return line


def test_nothing_is_sent_of_a_damaged_file(tmp_path, broker, capsys):
    (tmp_path / "a.fasta").write_text(">r1\nACGT\n")
    (tmp_path / "b.fastq").write_text("@r2\nACGT\n+\nIIII\n@r3\nAC\n+\nIIII\n")
    assert run(["publish", str(tmp_path / "a.fasta"), str(tmp_path / "b.fastq"), "--bootstrap", broker]) == 1
    assert "b.fastq record 2 ('r3') is damaged" in error_line(capsys)
    assert arrived(broker, 0) == []


WRONG = [("MKTEFLIL", "'E'", 4), ("ACGT-ACGT", "'-'", 5), ("acgt*", "'*'", 5), ("ACGTé", r"'\xe9'", 5)]


@pytest.mark.parametrize(("sequence", "letter", "position"), WRONG)
def test_nothing_is_sent_of_files_with_a_letter_that_is_no_nucleotide(
    tmp_path, broker, capsys, sequence, letter, position
):
    (tmp_path / "a.fasta").write_text(">r1\nACGT\n")
    (tmp_path / "b.fasta").write_text(f">r2\nACGTUryswkmbdhvn\n>r3 a protein\n{sequence}\n>r4\nACGT\n")
    files = [str(tmp_path / "a.fasta"), str(tmp_path / "b.fasta")]
    assert run(["publish", *files, "--bootstrap", broker]) == 1
    line = error_line(capsys)
    for part in (files[1], "record 2", "'r3'", f"{letter} at position {position}", "--no-check"):
        assert part in line
    assert arrived(broker, 0) == []
    assert run(["publish", *files, "--bootstrap", broker, "--no-check"]) == 0
    sent = {message.key(): decode_record(message.value()).sequence for message in arrived(broker, 4)}
    assert sent[b"r3"] == sequence
    assert sent.keys() == {b"r1", b"r2", b"r3", b"r4"}


def test_of_a_stream_the_records_before_a_wrong_letter_are_sent(tmp_path, broker, capsys, monkeypatch):
    (tmp_path / "in.fasta").write_text(">r1\nACGT\n>r2\nMKTEFLIL\n>r3\nACGT\n")
    with (tmp_path / "in.fasta").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert run(["publish", "-", "--bootstrap", broker]) == 1
    line = error_line(capsys)
    assert "standard input: record 2 ('r2')" in line
    assert "(1 records before it were published)" in line
    assert [message.key() for message in arrived(broker, 1)] == [b"r1"]


def test_an_empty_sequence_is_left_to_the_service(tmp_path, broker):
    (tmp_path / "a.fasta").write_text(">r1\n>r2\nACGT\n")
    assert run(["publish", str(tmp_path / "a.fasta"), "--bootstrap", broker]) == 0
    assert {message.key() for message in arrived(broker, 2)} == {b"r1", b"r2"}


def test_no_broker_is_named(tmp_path, capsys, monkeypatch):
    assert run(["publish", "reads.fasta"]) == 2
    assert " serve` and pass the address" in error_line(capsys)
    monkeypatch.setenv("VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS", "embedded")
    assert run(["publish", "reads.fasta"]) == 2
    assert "--bootstrap" in error_line(capsys)


def test_no_broker_answers(tmp_path, capsys):
    (tmp_path / "a.fasta").write_text(">r1\nACGT\n")
    began_at = time.monotonic()
    assert run(["publish", str(tmp_path / "a.fasta"), "--bootstrap", "127.0.0.1:1", "--timeout", "0.5"]) == 1
    assert time.monotonic() - began_at < 10
    line = error_line(capsys)
    assert "127.0.0.1:1" in line
    assert "refused" in line


def test_the_topic_does_not_exist(tmp_path, broker, capsys):
    (tmp_path / "a.fasta").write_text(">r1\nACGT\n")
    for _ in range(2):  # asking must not make it
        assert run(["publish", str(tmp_path / "a.fasta"), "--bootstrap", broker, "--topic", "nowhere"]) == 1
        assert "nowhere does not exist" in error_line(capsys)


def test_a_record_over_the_size_limit_is_named_and_the_others_go(tmp_path, broker, capsys, monkeypatch):
    (tmp_path / "a.fasta").write_text(f">small1\nACGT\n>large\n{'ACGT' * 1000}\n>small2\nACGT\n")
    monkeypatch.setenv("VIRNUCPRO_KAFKA_MESSAGE_MAX_BYTES", "2000")
    assert run(["publish", str(tmp_path / "a.fasta"), "--bootstrap", broker]) == 1
    failure, *_, line = capsys.readouterr().err.splitlines()
    assert failure.startswith("virnucpro: record 'large' was not delivered: is larger than the broker takes")
    assert line.startswith("virnucpro: error: 1 of 3 records were not delivered")
    assert {message.key() for message in arrived(broker, 2)} == {b"small1", b"small2"}


def test_the_key_is_the_id_none_or_a_field_of_the_header_line(tmp_path, broker, capsys):
    path = tmp_path / "a.fasta"
    path.write_text(">r1 sample=A lane=7\nACGT\n>r2 lane=8;sample=B\nACGT\n")
    for key in ("none", "field:sample"):
        assert run(["publish", str(path), "--bootstrap", broker, "--key", key]) == 0
    keys = Counter(message.key() for message in arrived(broker, 4))
    assert keys == Counter({None: 2, b"A": 1, b"B": 1})
    capsys.readouterr()
    assert run(["publish", str(path), "--bootstrap", broker, "--key", "field:absent"]) == 1
    assert "record 'r1' has no field absent=..." in error_line(capsys)
    assert run(["publish", str(path), "--bootstrap", broker, "--key", "sample"]) == 2
    assert "it takes id, none or field:NAME" in error_line(capsys)


def test_ids_that_come_more_than_once_are_told(tmp_path, broker, capsys):
    (tmp_path / "a.fasta").write_text(">r1\nACGT\n>r2\nACGT\n>r1\nACGTA\n")
    assert run(["publish", str(tmp_path / "a.fasta"), "--bootstrap", broker]) == 0
    assert "warning: 1 records have an id that came before ('r1')" in capsys.readouterr().err
    assert len(arrived(broker, 3)) == 3


def test_an_interrupted_run_goes_on_where_it_stood(tmp_path, broker, capsys, monkeypatch):
    path, journal = tmp_path / "a.fasta", tmp_path / "sent.json"
    path.write_text("".join(f">r{n}\nACGT\n" for n in range(30)))
    command = ["publish", str(path), "--bootstrap", broker, "--resume", str(journal)]
    publish_one, sent = Publisher.publish, []

    def interrupted(self, record, *rest):
        if len(sent) == 12:
            self.finish()
            raise UserError("interrupted")
        sent.append(record.id)
        publish_one(self, record, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Publisher, "publish", interrupted)
        assert run(command) == 1
    assert run(command) == 0
    assert "published 18 records (12 were sent before)" in capsys.readouterr().err
    assert run(command) == 0
    assert "published 0 records (30 were sent before)" in capsys.readouterr().err
    assert Counter(message.key() for message in arrived(broker, 30)) == Counter(
        {b"r%d" % n: 1 for n in range(30)}
    )
    path.write_text(">other\nACGT\n")
    assert run(command) == 1
    assert "a file has changed since" in error_line(capsys)
    assert run(["publish", "-", "--bootstrap", broker, "--resume", str(journal)]) == 2
    assert "--resume needs files" in error_line(capsys)


@pytest.mark.parametrize(
    "limit", [("VIRNUCPRO_MAX_SEQUENCE_BASES", "1000"), ("VIRNUCPRO_KAFKA_MESSAGE_MAX_BYTES", "3100")]
)
def test_a_record_in_parts_is_one_record_that_is_sent_once(tmp_path, broker, capsys, monkeypatch, limit):
    path, journal = tmp_path / "a.fasta", tmp_path / "sent.json"
    path.write_text(f">big\n{'ACGT' * 600}\n>small\nACGT\n")
    monkeypatch.setenv(*limit)
    command = ["publish", str(path), "--bootstrap", broker, "--key", "none", "--resume", str(journal)]
    assert run([*command, "--chunk-size", "300"]) == 0
    assert "published 2 records (1 in parts), 2,404 bases" in capsys.readouterr().err
    assert run(command) == 0
    assert "published 0 records (2 were sent before), 2,404 bases" in capsys.readouterr().err
    found = [(part_of(tuple(message.headers() or ())), message) for message in arrived(broker, 4)]
    (whole,) = [decode_record(message.value()) for part, message in found if part is None]
    assert whole == SequenceRecord("small", "ACGT")
    parts = [(part, message) for part, message in found if part is not None]
    assert [(part.number, part.count, part.start) for part, _ in parts] == [
        (1, 3, 0),
        (2, 3, 900),
        (3, 3, 1800),
    ]
    assert "".join(decode_record(message.value()).sequence for _, message in parts) == "ACGT" * 600
    assert len({message.partition() for _, message in parts}) == 1, "without a key too"


class ReadingGroup:
    """A member of a group that reads the topic, slowly, and commits what it has read."""

    def __init__(self, broker: str, group: str) -> None:
        options = {"bootstrap.servers": broker, "group.id": group, "enable.auto.commit": False}
        self._consumer = Consumer(options | {"auto.offset.reset": "earliest"})
        self._consumer.subscribe(["sequences"])
        self.keys: list[bytes | None] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> ReadingGroup:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                time.sleep(0.002)
                self.keys.append(message.key())
                self._consumer.commit(message=message)


def large_file(folder: Path, records: int) -> str:
    """Of 20 kB a record, that do not compress."""
    path = folder / "large.fasta"
    path.write_text(
        "".join(f">r{n}\n{secrets.token_hex(10_000).translate(ONLY_ACGT)}\n" for n in range(records))
    )
    return str(path)


def test_the_embedded_broker_loses_nothing_of_what_is_more_than_it_holds(tmp_path, broker, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_GROUP_ID", "readers")
    monkeypatch.setenv("VIRNUCPRO_KAFKA_COMPRESSION_TYPE", "none")
    count = 1200
    with ReadingGroup(broker, "readers") as group:
        assert run(["publish", large_file(tmp_path, count), "--bootstrap", broker]) == 0
        deadline = time.monotonic() + 60
        while len(group.keys) < count and time.monotonic() < deadline:
            time.sleep(0.1)
    assert Counter(group.keys) == Counter({b"r%d" % n: 1 for n in range(count)})


def test_nothing_more_is_sent_to_the_embedded_broker_when_nobody_reads(tmp_path, broker, monkeypatch, capsys):
    monkeypatch.setattr("consumer.cli.commands.publish.READER_STALL_S", 1.0)
    assert run(["publish", large_file(tmp_path, 1200), "--bootstrap", broker]) == 1
    line = error_line(capsys)
    assert "holds about 5 MiB" in line
    assert " serve` with that group" in line


def test_an_unknown_client_option_is_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.fasta").write_text(">r1\nACGT\n")
    monkeypatch.setenv("VIRNUCPRO_KAFKA_NONSENSE_OPTION", "1")
    assert run(["publish", str(tmp_path / "a.fasta"), "--bootstrap", "127.0.0.1:1", "--timeout", "0.5"]) != 0
    assert "nonsense" in error_line(capsys).lower()


def test_a_broker_that_stops_answering_ends_the_wait():
    with EmbeddedBroker({"sequences": PARTITIONS}) as running:
        producer = Producer(publisher_config(running.bootstrap_servers, {}))
        publisher = Publisher(producer, "sequences", stall_s=1.0)
        publisher.publish(SequenceRecord("r1", "ACGT"))
        publisher.finish()
        assert (publisher.delivered, publisher.waiting) == (1, 0)
    publisher.publish(SequenceRecord("r2", "ACGT"))
    with pytest.raises(UserError, match="1 records were delivered, 1 were not"):
        publisher.finish()
