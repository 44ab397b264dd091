"""The service as a client of a broker with encryption, passwords and rights: it works, or says in one line why not."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AclOperation, ResourceType

from consumer.cli.commands.dlq import BATCH_PATIENCE_S
from consumer.config.clients import consumer_config, producer_config
from consumer.config.settings import load_settings
from consumer.delivery.answers import Answer
from consumer.delivery.transactions import Transactions
from consumer.errors import ExitCode, ServiceError
from schemas import SequenceRecord, decode_prediction, encode_dead_letter, encode_record
from tests.support.harness import NoopServe, produce, serving, virnucpro, wait_until
from tests.support.kafka.ending import error_line, last_words
from tests.support.kafka.job import UNIT, Job
from tests.support.kafka.security import MUTUAL, PASSWORDS, TOKENS, SecureBroker, service_rights
from tests.support.messages import LETTER

RECORDS = 40
WRONG = "hush-this-is-wrong"
SECRETS = (*PASSWORDS.values(), WRONG)
IMPATIENT = {"VIRNUCPRO_STARTUP_TIMEOUT_S": "5"}
BROKERS = "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS"
CA = "VIRNUCPRO_KAFKA_SSL_CA_LOCATION"
ENDPOINT = "VIRNUCPRO_KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL"
NO_CA = {CA: "/nowhere/ca.pem"}
SECURITY = "VIRNUCPRO_KAFKA_SECURITY_PROTOCOL"


@pytest.fixture
def job(secure_broker: SecureBroker) -> Job:
    """Topics and a group of one test, to which only the administrator has rights."""
    return Job.create(secure_broker.broker)


@pytest.fixture
def fasta(tmp_path: Path) -> str:
    path = tmp_path / "reads.fasta"
    path.write_text("".join(f">r{n}\nATGGCTAAAGGTCTG\n" for n in range(RECORDS)))
    return str(path)


def start(log: Path, variables: dict[str, str]) -> NoopServe:
    return NoopServe(log, **IMPATIENT, **variables)


def refusal(serve: NoopServe) -> str:
    return last_words(serve, SECRETS)


@pytest.mark.parametrize("listener", ["SASL_SSL", "SASL_PLAINTEXT", MUTUAL, TOKENS])
def test_published_served_and_watched_with_no_more_rights_than_needed(
    secure_broker, job, fasta, tmp_path, listener
):
    secure_broker.grant("service", *service_rights(job).values())
    secure_broker.grant("person", (ResourceType.TOPIC, f"{job.name}.in", AclOperation.WRITE))
    secure_broker.grant("person", (ResourceType.TOPIC, f"{job.name}.out", AclOperation.READ))
    person = secure_broker.client("person", listener)
    log = tmp_path / "serve.log"
    variables = job.worker(0) | secure_broker.client("service", listener)
    with serving(log, kind=NoopServe, **variables, VIRNUCPRO_LOG_LEVEL="debug") as serve:
        published = virnucpro("publish", fasta, "--topic", f"{job.name}.in", **person)
        assert published.returncode == 0, published.stderr
        job.finish(RECORDS)
        assert serve.stop() == 0
    read = ("watch", "--json", "--count", str(RECORDS), "--until-idle", "30", "--topic", f"{job.name}.out")
    watched = virnucpro(*read, **person)
    assert watched.returncode == 0, watched.stderr
    once = Counter({f"r{n}": 1 for n in range(RECORDS)})
    assert Counter(json.loads(line)["id"] for line in watched.stdout.splitlines()) == once
    assert Counter(decode_prediction(message.value()).id for message in job.read_all("out")) == once
    said = log.read_text() + (published.stderr + watched.stderr).decode()
    assert not any(secret in said for secret in SECRETS), "a secret in the log"


def test_a_service_outlives_its_tokens(secure_broker, job, tmp_path):
    secure_broker.grant("service", *service_rights(job).values())
    issued = secure_broker.tokens.issued
    log = tmp_path / "serve.log"
    variables = job.worker(0) | secure_broker.client(listener=TOKENS)
    with serving(log, kind=NoopServe, **variables) as serve:
        job.publish(0, RECORDS)
        job.finish(RECORDS)
        seen = len(issued)
        # The consumer, the producer and the client that asks, twice each.
        wait_until(lambda: len(issued) >= seen + 6, "new tokens", 30)
        job.publish(RECORDS, 2 * RECORDS)
        job.finish(2 * RECORDS)
        assert serve.stop() == 0
    job.check(2 * RECORDS)
    assert not any(secret in log.read_text() for secret in SECRETS), "a secret in the log"


@pytest.fixture(scope="module")
def unconnected(secure_broker: SecureBroker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The last words of services that get no connection; at the same time, since each takes its whole patience."""
    trusted = secure_broker.client()
    plain, mutual = secure_broker.broker.bootstrap_servers, secure_broker.address(MUTUAL)
    chatty = {"VIRNUCPRO_LOG_LEVEL": "debug", "VIRNUCPRO_KAFKA_DEBUG": "security,conf"}
    cases = {
        "wrong password": secure_broker.client(password=WRONG) | chatty,
        "wrong authority": trusted | {CA: str(secure_broker.wrong_ca)},
        "plaintext to TLS": {BROKERS: secure_broker.address("SSL")},
        "plaintext to SASL": {BROKERS: secure_broker.address("SASL_PLAINTEXT")},
        "TLS to plaintext": trusted | {BROKERS: plain},
        "nothing listens": trusted | {BROKERS: "127.0.0.1:1"},
        "no certificate": secure_broker.client(listener="SSL") | {BROKERS: mutual},
        "wrong client secret": secure_broker.client(listener=TOKENS, password=WRONG) | chatty,
        "no token endpoint": secure_broker.client(listener=TOKENS) | {ENDPOINT: "http://127.0.0.1:1/token"},
        "password to tokens": secure_broker.client() | {BROKERS: secure_broker.address(TOKENS)},
    }
    folder = tmp_path_factory.mktemp("unconnected")
    services = {name: start(folder / f"{name}.log", variables) for name, variables in cases.items()}
    try:
        return {name: refusal(serve) for name, serve in services.items()}
    finally:
        for serve in services.values():
            serve.close()


@pytest.mark.parametrize(
    ("case", "cause", "setting"),
    [
        ("wrong password", "invalid credentials", "VIRNUCPRO_KAFKA_SASL_USERNAME"),
        ("wrong authority", "certificate verify failed", CA),
        ("plaintext to TLS", "no Kafka broker answers", SECURITY),
        ("plaintext to SASL", "no Kafka broker answers", SECURITY),
        ("TLS to plaintext", "SSL_HANDSHAKE", SECURITY),
        ("nothing listens", "Connection refused", BROKERS),
        ("no certificate", "alert bad certificate", "VIRNUCPRO_KAFKA_SSL_CERTIFICATE_LOCATION"),
        ("wrong client secret", "invalid_client", "..._CLIENT_SECRET"),
        ("no token endpoint", "Failed to connect to 127.0.0.1:1", ENDPOINT),
        ("password to tokens", "OAUTHBEARER", "VIRNUCPRO_KAFKA_SASL_MECHANISM"),
    ],
)
def test_no_connection(unconnected, case, cause, setting):
    line = unconnected[case]
    assert cause in line
    assert setting in line


@pytest.mark.parametrize("case", ["wrong password", "wrong authority"])
def test_what_is_not_wrong_is_not_named(unconnected, case):
    assert BROKERS not in unconnected[case]


def test_an_authority_that_is_no_file(secure_broker, job, tmp_path):
    variables = job.worker(0) | secure_broker.client() | NO_CA
    assert "ssl.ca.location" in refusal(start(tmp_path / "serve.log", variables))


@pytest.mark.parametrize(
    ("lacking", "named"),
    [
        ("group", "VIRNUCPRO_GROUP_ID"),
        ("in", "VIRNUCPRO_INPUT_TOPIC"),
        ("out", "VIRNUCPRO_OUTPUT_TOPIC"),
        ("dlq", "VIRNUCPRO_DLQ_TOPIC"),
        ("transactional id", "transactional id"),
    ],
)
def test_a_right_that_is_missing_altogether(secure_broker, job, tmp_path, lacking, named):
    rights = service_rights(job)
    del rights[lacking]
    secure_broker.grant("service", *rights.values())
    line = refusal(start(tmp_path / "serve.log", job.worker(0) | secure_broker.client()))
    assert named in line
    assert "grant" in line
    if lacking in ("in", "out", "dlq"):
        assert f"{job.name}.{lacking} " in line


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize(
    ("topic", "cure"),
    [("in", "READ on the input topic"), ("out", "WRITE on the output"), ("dlq", "dead-letter topic")],
)
def test_a_topic_that_may_be_seen_but_not_used(secure_broker, job, tmp_path, topic, cure, guarantee):
    seen = {topic: (ResourceType.TOPIC, f"{job.name}.{topic}", AclOperation.DESCRIBE)}
    secure_broker.grant("service", *(service_rights(job) | seen).values())
    job.publish(0, 20)
    variables = job.worker(0) | secure_broker.client() | {"VIRNUCPRO_DELIVERY": guarantee}
    line = refusal(start(tmp_path / "serve.log", variables))
    assert "Topic authorization failed" in line
    assert cure in line or f"{job.name}.{topic}" in line
    assert "grant" in line


class Outcomes:
    """Keeps how the commits ended."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def delivered(self, answer: Answer) -> None:
        """No answers are sent here."""

    def committed(self, outcome: str) -> None:
        self.seen.append(outcome)


def refuses(producer: Producer, topic: str) -> bool:
    """Whether the client takes no more messages, since its transaction has failed."""
    try:
        producer.produce(topic, b"x")
    except KafkaException:
        return True
    return False


def test_a_transaction_of_which_the_broker_took_nothing_is_left_to_a_new_producer(secure_broker, job):
    """The broker refuses to end a transaction that it has not begun, and librdkafka calls that fatal."""
    seen = {"dlq": (ResourceType.TOPIC, f"{job.name}.dlq", AclOperation.DESCRIBE)}
    secure_broker.grant("service", *(service_rights(job) | seen).values())
    settings = load_settings(job.worker(0) | secure_broker.client())
    own = {"transactional.id": f"{job.name}.worker-0", "error_cb": lambda error: None}
    outcomes = Outcomes()
    transactions = Transactions(lambda: Producer(producer_config(settings, own)), outcomes)
    first = transactions.producer
    try:
        wait_until(lambda: transactions.register() == "done", "a registered producer", 30)
        assert transactions.begin() == "done"
        wait_until(lambda: refuses(first, f"{job.name}.dlq"), "a failed transaction", 30)
        group = Consumer(consumer_config(settings)).consumer_group_metadata
        with pytest.raises(ServiceError, match="Topic authorization failed"):
            transactions.send_offsets([TopicPartition(f"{job.name}.in", 0, 1)], group)
        wait_until(lambda: transactions.abort() == "done", "the end of the transaction", 30)
        assert transactions.producer is not first
        wait_until(lambda: transactions.register() == "done", "another registered producer", 30)
        assert transactions.begin() == "done"
        transactions.producer.produce(f"{job.name}.out", b"x")
        wait_until(lambda: transactions.commit() == "done", "a commit", 30)
    finally:
        transactions.close()
    assert [message.value() for message in job.read_all("out")] == [b"x"]


def test_a_replay_without_the_right_to_write_says_so_at_once(secure_broker, job):
    """The broker refuses the topic to the transaction; librdkafka's reports then say only that messages are purged."""
    value = encode_record(SequenceRecord("r", UNIT))
    letter = replace(LETTER, value=value, group_id=job.name, source_topic=f"{job.name}.in")
    produce(job.bootstrap, [{"value": encode_dead_letter(letter)}], f"{job.name}.dlq")
    secure_broker.grant(
        "person",
        (ResourceType.GROUP, f"{job.name}.dlq-replay", AclOperation.READ),
        (ResourceType.TOPIC, f"{job.name}.dlq", AclOperation.READ),
        (ResourceType.TOPIC, f"{job.name}.in", AclOperation.DESCRIBE),
        (ResourceType.TRANSACTIONAL_ID, f"{job.name}.dlq-replay.dlq%replay", AclOperation.WRITE),
    )
    begun = time.monotonic()
    done = virnucpro("dlq", "replay", "--force", **job.variables | secure_broker.client("person"))
    assert done.returncode == ExitCode.RUNTIME, done.stderr
    assert "Topic authorization failed" in error_line(done.stderr.decode(), SECRETS)
    assert time.monotonic() - begun < BATCH_PATIENCE_S / 2, "it has tried again and again"
    assert job.read_all("in") == []


def command_error(command: str, fasta: str, job: Job, variables: dict[str, str], *options: str) -> str:
    """The line with which `publish` or `watch` fails."""
    arguments = {"publish": ["publish", fasta], "watch": ["watch", "--until-idle", "1"]}[command]
    topics = {"VIRNUCPRO_INPUT_TOPIC": f"{job.name}.in", "VIRNUCPRO_OUTPUT_TOPIC": f"{job.name}.out"}
    done = virnucpro(*arguments, *options, **topics, **variables)
    assert done.returncode == ExitCode.RUNTIME, done.stderr
    return error_line(done.stderr.decode(), SECRETS)


@pytest.mark.parametrize(("command", "topic"), [("publish", "in"), ("watch", "out")])
def test_publish_and_watch_say_it_in_the_same_way(secure_broker, job, fasta, command, topic):
    person = secure_broker.client("person")
    wrong = command_error(
        command, fasta, job, secure_broker.client("person", password=WRONG), "--timeout", "2"
    )
    assert "VIRNUCPRO_KAFKA_SASL_USERNAME" in wrong
    hidden = command_error(command, fasta, job, person)
    assert f"{job.name}.{topic} does not exist" in hidden
    assert "no right to see it" in hidden
    secure_broker.grant("person", (ResourceType.TOPIC, f"{job.name}.{topic}", AclOperation.DESCRIBE))
    # Of the topic, or of the cluster if the client asks for its producer id first.
    assert "authorization failed" in command_error(command, fasta, job, person)


@pytest.mark.parametrize("command", ["publish", "watch"])
def test_publish_and_watch_with_an_authority_that_is_no_file(secure_broker, job, fasta, command):
    assert "ssl.ca.location" in command_error(command, fasta, job, secure_broker.client("person") | NO_CA)
