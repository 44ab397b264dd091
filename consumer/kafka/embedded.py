"""A Kafka broker inside this process, for demos, laptops and tests: librdkafka's own mock cluster.

It is part of the librdkafka that the confluent-kafka wheel brings, and speaks the real protocol on a loopback
port, so clients in other processes reach it too. Its limits:

* **Nothing is kept.** All data is in memory and gone with the process, and of each partition only about the
  newest 5 MiB are held: a publisher far ahead of the readers overwrites what they have not read. So `virnucpro
  publish` waits for the service (consumer/cli/topics/embedded_room.py).
* **No transactions.** It acknowledges them and ignores them, so it can't give exactly-once delivery.
* No authentication, no TLS, one broker.

`python -m consumer.kafka.embedded --topic sequences:4 --topic predictions:4` runs one in its own process.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType

from consumer.errors import ExitCode, ServiceError
from consumer.kafka.librdkafka import ERROR_BYTES, library

_PRODUCER = 0  # rd_kafka_type_t
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
"""Of a thread itself, never of another; faulthandler shows where."""
_REBALANCE_DELAY_MS = 0  # a real broker's 3 s of waiting for more members would only delay every start


class EmbeddedBroker:
    """A broker that runs from the beginning to the end of the `with` block.

    Close the clients of this process before leaving the block: afterwards they would retry for ever.

    Args:
        topics: partitions of each topic. Others are made with 4 partitions when a client asks for them.

    Raises:
        ValueError: a topic without partitions.
        ServiceError: (on entering the block) this build of confluent-kafka hides the mock cluster, or the cluster
            can't be made.
    """

    def __init__(self, topics: Mapping[str, int]) -> None:
        if any(partitions < 1 for partitions in topics.values()):
            # librdkafka would abort the process.
            raise ValueError(f"a topic has at least 1 partition: {dict(topics)}")
        self._topics = dict(topics)
        self._open: ExitStack | None = None
        self._address = ""

    @property
    def bootstrap_servers(self) -> str:
        """`127.0.0.1:PORT`, for any process on this machine."""
        if self._open is None:
            raise RuntimeError("the embedded broker runs only inside its with block")
        return self._address

    def __enter__(self) -> EmbeddedBroker:
        kafka = library()
        with ExitStack() as stack, _signals_blocked():
            handle = _client_handle(kafka)
            stack.callback(kafka.rd_kafka_destroy, handle)
            cluster = kafka.rd_kafka_mock_cluster_new(handle, 1)
            if not cluster:
                raise ServiceError(
                    "the embedded broker can't listen on 127.0.0.1: is the loopback interface up?"
                )
            stack.callback(kafka.rd_kafka_mock_cluster_destroy, cluster)
            kafka.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, _REBALANCE_DELAY_MS)
            for topic, partitions in self._topics.items():
                error = kafka.rd_kafka_mock_topic_create(cluster, topic.encode(), partitions, 1)
                if error:
                    reason = kafka.rd_kafka_err2str(error).decode()
                    raise ServiceError(
                        f"the embedded broker refuses the topic {topic} ({reason}): name another"
                    )
            self._address = kafka.rd_kafka_mock_cluster_bootstraps(cluster).decode()
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            stack, self._open = self._open, None
            stack.close()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Threads that start in the block never receive a signal.

    librdkafka ends the mock cluster's thread, and frees what the thread owns, when a signal interrupts its poll.
    The kernel hands it one while the main thread blocks signals, as Python does while it starts a process.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _client_handle(kafka: ctypes.CDLL) -> int:
    """The librdkafka client that hosts the cluster; it is never used as one."""
    conf = kafka.rd_kafka_conf_new()
    # Without this it writes raw lines to stderr, among the log's JSON.
    kafka.rd_kafka_conf_set_log_cb(conf, None)
    reason = ctypes.create_string_buffer(ERROR_BYTES)
    handle: int | None = kafka.rd_kafka_new(_PRODUCER, conf, reason, ERROR_BYTES)
    if handle is None:
        raise ServiceError(f"the embedded broker can't start: {reason.value.decode()}")
    return handle


def _topic(text: str) -> tuple[str, int]:
    name, _, partitions = text.partition(":")
    if not name or not partitions.isdecimal() or int(partitions) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:PARTITIONS, for example sequences:4")
    return name, int(partitions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a broker until SIGTERM or SIGINT; one line of JSON on stdout says that it is ready, and where."""
    parser = argparse.ArgumentParser(
        prog="python -m consumer.kafka.embedded", description="An in-memory Kafka broker."
    )
    parser.add_argument("--topic", action="append", type=_topic, default=[], metavar="NAME:PARTITIONS")
    topics = dict(parser.parse_args(arguments).topic)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with EmbeddedBroker(topics) as broker:
        print(json.dumps({"event": "ready", "bootstrap": broker.bootstrap_servers}), flush=True)
        stop.wait()
    return ExitCode.OK


if __name__ == "__main__":
    raise SystemExit(main())
