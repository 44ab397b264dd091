"""Three brokers as one cluster: each partition is on all of them, what is acknowledged on two (min.insync.replicas).

One broker may be away at any time, and nothing else stops; with two away there is no quorum, and nothing goes on until
one is back.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from confluent_kafka import KafkaException

from tests.support.kafka import admin
from tests.support.kafka.kraft import KraftBroker, Node, class_path, nodes

BROKERS = 3
_ANSWER_S = 2.0


class KraftCluster:
    """Brokers from jars, each in its folder. Start it from the main thread: they die with the thread that starts them.

    Raises:
        NoBroker: there is nothing to run them with.
    """

    def __init__(self, folder: Path) -> None:
        jars = class_path(folder)

        def broker(node: Node) -> KraftBroker:
            own = folder / f"broker-{node.number}"
            own.mkdir()
            return KraftBroker(own, jars, node=node)

        with ThreadPoolExecutor(BROKERS) as threads:  # each formats its storage, in a second or two
            self.brokers = list(threads.map(broker, nodes(BROKERS)))
        self.bootstrap_servers = ",".join(broker.bootstrap_servers for broker in self.brokers)

    def start(self) -> KraftCluster:
        """Start all of them, and wait until each serves."""
        with ExitStack() as on_failure:
            on_failure.callback(self.stop)
            for broker in self.brokers:
                broker.spawn()
            for broker in self.brokers:
                broker.wait_ready()
            on_failure.pop_all()
        return self

    def stop(self) -> None:
        """End all of them at once: the last of three could not stop in order, without a quorum."""
        for broker in self.brokers:
            broker.kill()

    def create_topics(self, topics: Mapping[str, int], **config: str) -> None:
        """Create topics, each with its number of partitions and three replicas."""
        admin.create_topics(self.bootstrap_servers, topics, config)

    @property
    def is_whole(self) -> bool:
        """Whether every broker runs, and every replica of every partition is in sync: one may be taken away."""
        if any(broker.has_ended for broker in self.brokers):
            return False
        try:
            return not admin.replicas_behind(self.bootstrap_servers, _ANSWER_S)
        except KafkaException:
            return False
