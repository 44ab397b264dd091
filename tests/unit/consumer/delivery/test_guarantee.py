"""The guarantee that the settings name: what it asks of clients and cluster, how it opens and closes."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from itertools import product

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient

from consumer.clock import Deadline
from consumer.config.clients import producer_config
from consumer.config.settings import load_settings, unambiguous_id
from consumer.delivery.answers import AnswerBuilder
from consumer.delivery.at_least_once import AtLeastOnce, CommitReports
from consumer.delivery.exactly_once import ExactlyOnce
from consumer.delivery.guarantee import DeliveryParts, ExactlyOnceGuarantee, guarantee_for
from consumer.errors import ServiceError
from consumer.kafka.embedded import EmbeddedBroker
from consumer.ledger import Ledger
from consumer.ops.listeners import Listeners
from consumer.ops.log_listener import LogListener
from consumer.ops.metrics import Metrics
from consumer.scoring.state_folder import file_name
from schemas.codecs import AvroCodec
from tests.simulation.delivery_bench import refuse
from tests.simulation.memory_clients import Fault, Link, MemoryConsumer, MemoryProducer, retriable
from tests.simulation.memory_kafka import MemoryKafka
from tests.support.factories import STAMP, FakeClock, finished, message, partition, scored

BOTH = ("exactly_once", "at_least_once")


def settings_for(delivery: str, group_id: str = "g", instance_id: str = "w0"):
    return load_settings(
        {
            "VIRNUCPRO_DELIVERY": delivery,
            "VIRNUCPRO_GROUP_ID": group_id,
            "VIRNUCPRO_INSTANCE_ID": instance_id,
            "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "VIRNUCPRO_COMMIT_INTERVAL_MS": "700",
        }
    )


class Consumer(MemoryConsumer):
    closed = False

    def close(self) -> None:
        super().close()
        self.closed = True


class Member:
    """The clients of one process, in memory."""

    def __init__(self, kafka: MemoryKafka) -> None:
        self.kafka, self.link, self.reports = kafka, Link(kafka.clock), CommitReports()
        self.consumer = Consumer(kafka, self.link, self.reports)
        self.producers: list[MemoryProducer] = []

    def parts(self, guarantee) -> DeliveryParts:
        builder = AnswerBuilder("predictions", "sequences.dlq", "g", STAMP, AvroCodec())
        builder.set_partition_counts({"sequences": 1, "predictions": 1, "sequences.dlq": 1})

        def new_producer() -> MemoryProducer:
            name = guarantee.producer_options.get("transactional.id")
            self.producers.append(MemoryProducer(self.kafka, self.link, name, room=100))
            return self.producers[-1]

        listeners = Listeners(Metrics(self.kafka.clock), LogListener())
        return DeliveryParts(
            self.consumer, self.reports, new_producer, builder, Ledger(), listeners, self.kafka.clock
        )


@pytest.fixture
def kafka() -> MemoryKafka:
    return MemoryKafka(FakeClock(), {"sequences": 1, "predictions": 1, "sequences.dlq": 1})


@pytest.mark.parametrize(("name", "kind"), [("exactly_once", ExactlyOnce), ("at_least_once", AtLeastOnce)])
def test_the_settings_choose_the_guarantee_and_its_interval(kafka, name, kind):
    guarantee = guarantee_for(settings_for(name))
    with ExitStack() as stack:
        delivery = guarantee.open(Member(kafka).parts(guarantee), stack)
        assert isinstance(delivery, kind)
        assert delivery.commit_interval_s == 0.7


def test_exactly_once_needs_a_transactional_id_that_a_restart_keeps():
    first, second = (guarantee_for(settings_for("exactly_once")).producer_options for _ in range(2))
    assert first == second
    assert first["transactional.id"] == "g.w0"
    assert guarantee_for(settings_for("at_least_once")).producer_options == {}


def test_no_two_processes_share_a_transactional_id_or_a_state_file_however_their_names_are_put_together():
    names = [
        "".join(parts) for length in (1, 2, 3) for parts in product(("a", ".", "%", "%2E"), repeat=length)
    ]
    pairs = list(product(dict.fromkeys(names), repeat=2))
    ids = {unambiguous_id(group, instance) for group, instance in pairs}
    assert len(ids) == len(pairs)
    assert all(unambiguous_id(group, instance).startswith(f"{group}.") for group, instance in pairs)
    assert len(set(map(file_name, ids))) == len(pairs)
    long = {file_name(f"{'%' * 248}{end}") for end in "ab"}
    assert len(long) == 2
    assert all(len(name) <= 200 for name in long)
    (one, other) = (
        guarantee_for(settings_for("exactly_once", *pair)).producer_options["transactional.id"]
        for pair in (("prod.blue", "w0"), ("prod", "blue.w0"))
    )
    assert one != other


@pytest.mark.parametrize("name", BOTH)
def test_a_client_takes_the_options_of_the_guarantee(name):
    settings = settings_for(name)
    options = guarantee_for(settings).producer_options
    config = producer_config(settings, options)
    assert options.items() <= config.items()
    assert config["enable.idempotence"] is True
    Producer(config)


def test_only_a_broker_with_transactions_gives_exactly_once():
    with EmbeddedBroker({"sequences": 1}) as broker:
        address = broker.bootstrap_servers
        client = AdminClient({"bootstrap.servers": address})
        guarantee_for(settings_for("at_least_once")).check_cluster(client, address)
        with pytest.raises(ServiceError, match="VIRNUCPRO_DELIVERY=at_least_once"):
            guarantee_for(settings_for("exactly_once")).check_cluster(client, address)


def test_the_transactional_id_is_registered_before_the_first_turn_however_often_that_takes(kafka):
    guarantee, member = ExactlyOnceGuarantee("g.w0", 0.1, 30.0), Member(kafka)
    member.link.faults = [Fault("init_transactions", partial(refuse, retriable()))] * 3
    with ExitStack() as stack:
        guarantee.open(member.parts(guarantee), stack)
        assert member.link.calls.count("init_transactions") == 4
        member.producers[0].begin_transaction()


def test_a_transactional_id_without_the_right_to_it_ends_the_start_at_once(kafka):
    guarantee, member = ExactlyOnceGuarantee("g.w0", 0.1, 30.0), Member(kafka)
    error = KafkaError(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
    member.link.faults = [Fault("init_transactions", partial(refuse, error))]
    with ExitStack() as stack, pytest.raises(ServiceError, match="transactional ids"):
        guarantee.open(member.parts(guarantee), stack)
    assert member.link.calls.count("init_transactions") == 1


def test_a_broker_that_registers_no_transactional_id_ends_the_start_in_time_and_the_consumer_is_closed(kafka):
    guarantee, member = ExactlyOnceGuarantee("g.w0", 0.1, 5.0), Member(kafka)

    def time_out() -> None:
        kafka.clock.advance(0.5)
        refuse(retriable())

    member.link.faults = [Fault("init_transactions", time_out)] * 100
    began = kafka.clock()
    with ExitStack() as stack, pytest.raises(ServiceError, match="no transactional id in time"):
        guarantee.open(member.parts(guarantee), stack)
    assert kafka.clock() - began < 7
    assert member.consumer.closed


@pytest.mark.parametrize("name", BOTH)
def test_what_has_finished_is_delivered_while_the_consumer_closes(kafka, name):
    guarantee, member = guarantee_for(settings_for(name)), Member(kafka)
    parts = member.parts(guarantee)
    kafka.write(partition(0), [b"value"])
    with ExitStack() as stack:
        delivery = guarantee.open(parts, stack)
        member.consumer.subscribe(
            ["sequences"],
            on_assign=lambda client, given: client.incremental_assign(given),
            on_revoke=lambda *_: delivery.flush(Deadline.after(5, kafka.clock)),
        )
        assert next(filter(None, (member.consumer.poll(0) for _ in range(9)))).value() == b"value"
        parts.ledger.assign([partition(0)])
        parts.ledger.receive(message(0))
        parts.ledger.finish(finished(0, outcome=scored(10)))
    assert len(kafka.records("predictions")) == 1
    assert kafka.group.committed == {partition(0): 1}
