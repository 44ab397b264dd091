"""The transactional producer, its calls bounded and their errors classed, and replaced when one of them hangs.

librdkafka says of every error what it asks for: the same call again, an abort, or the end of this producer. Each call
is given half a second, so rebalances are answered in time.

One call does not keep to that. `send_offsets_to_transaction` may wait for ever after the broker that coordinates the
group was restarted (librdkafka #5456 and #5511, open in 2.16; tests/chaos meets it at most broker restarts). So it runs
on a thread of its own, and when it has not come back in `HANGS_S` the producer is left to it and a new one takes its
place. That is safe: nothing was committed, registering the same transactional id aborts what the old one left open
and fences it, and the results are still in the ledger. The thread keeps the old producer for as long as the call lasts;
after `HANGS_MOST` of them in a row the process ends instead.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Literal

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from consumer.clock import Clock, monotonic
from consumer.delivery.contract import REBALANCING, RIGHTS, DeliveryObserver, missing_right
from consumer.errors import KafkaFatal, ServiceError

log = structlog.get_logger(__name__)

CALL_S = 0.5
HANGS_S = 5.0
HANGS_MOST = 5
_FENCED = (KafkaError._FENCED, KafkaError._FATAL, KafkaError.INVALID_PRODUCER_EPOCH)

Result = Literal["done", "again", "abort"]
"""What a call came to: it is done, it must be repeated, or the transaction must be aborted."""


class Transactions:
    """Owns the producer of one transactional id; all methods run on the thread that owns the consumer.

    Args:
        make: gives a new producer, each time of the same transactional id.
        observer: told of each commit that did not succeed.

    Every call raises KafkaFatal when the producer is over (fenced, or an error that librdkafka calls fatal), and
    ServiceError when Kafka refuses it for good.
    """

    def __init__(
        self, make: Callable[[], Producer], observer: DeliveryObserver, clock: Clock = monotonic
    ) -> None:
        self._make, self._observer, self._clock = make, observer, clock
        self.producer = make()
        self.registered = False
        self._aside = _Aside()
        self._called_at: float | None = None  # when the call began that is on the way
        self._hangs = 0  # in a row; each leaves a thread and a producer behind

    def register(self) -> Result:
        """Register the transactional id, which aborts what another producer of that id left open."""
        result = self._call(lambda: self.producer.init_transactions(CALL_S))
        self.registered = result == "done"
        return result

    def begin(self) -> Result:
        return self._call(self.producer.begin_transaction)

    def send_offsets(self, offsets: Sequence[TopicPartition], metadata: Callable[[], object]) -> Result:
        """Add input offsets to the transaction; afterwards `registered` is False if the call hung and was left.

        Args:
            metadata: gives the group's metadata; called in this very step.
        """
        if self._called_at is None:
            producer, group = self.producer, metadata()
            self._aside.begin(lambda: producer.send_offsets_to_transaction(list(offsets), group, CALL_S))
            self._called_at = self._clock()
        return self._call(self._aside.result) if self._is_back() else "again"

    def commit(self) -> Result:
        result = self._call(lambda: self.producer.commit_transaction(CALL_S))
        if result == "done":
            self._hangs = 0
        return result

    def abort(self) -> Result:
        """Abort the open transaction, once the call that is on its way has come back or is left."""
        if self._called_at is not None and not self._is_back():
            return "again"
        if not self.registered:
            return "done"
        return self._call(lambda: self.producer.abort_transaction(CALL_S))

    def close(self) -> None:
        """End the thread that this keeps."""
        self._aside.end()

    def _is_back(self) -> bool:
        """Wait a moment for the call on the other thread; replace the producer when it hangs."""
        assert self._called_at is not None
        if self._aside.wait(CALL_S):
            self._called_at = None
            return True
        if self._clock() - self._called_at >= HANGS_S:
            self._observer.committed("hung")
            log.warning(
                "a call of the Kafka client hangs: a new producer takes over",
                call="send_offsets_to_transaction",
            )
            self._hangs += 1
            if self._hangs >= HANGS_MOST:
                raise KafkaFatal("a call of the Kafka client hangs again and again: restart the service")
            self._aside.end()
            self._aside, self._called_at, self.registered = _Aside(), None, False
            self.producer = self._make()
        return False

    def _call(self, call: Callable[[], object]) -> Result:
        """One call of the transactional API, its error classed as librdkafka says."""
        try:
            call()
        except KafkaException as raised:
            error = raised.args[0]
            if error.code() in RIGHTS:
                raise missing_right(error) from raised
            if error.fatal() or error.code() in _FENCED:
                raise over(error) from raised
            if error.txn_requires_abort():
                log.warning("transaction to be aborted", error=error.str(), code=error.name())
                self._observer.committed("rebalancing" if error.code() in REBALANCING else "error")
                return "abort"
            if error.retriable():
                return "again"
            raise ServiceError(
                f"Kafka refuses a transaction ({error.str()}): see the broker's log"
            ) from raised
        return "done"


class _Aside:
    """A daemon thread that makes one call at a time."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._done = threading.Event()
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="transaction", daemon=True).start()

    def begin(self, call: Callable[[], object]) -> None:
        """Make this call; the one before must have come back."""
        self._done.clear()
        self._error = None
        self._calls.put(call)

    def wait(self, timeout: float) -> bool:
        """Has it come back?"""
        return self._done.wait(timeout)

    def result(self) -> None:
        """Raise what the call raised."""
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """End the thread, after the call that it is in if there is one."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001
                self._error = error  # raised again in `result`, on the thread that asked
            del call  # with it goes the producer that hung, if it was one
            self._done.set()


def over(error: KafkaError) -> KafkaFatal:
    """The end of a producer, told to people."""
    return KafkaFatal(
        f"the transactional producer is over ({error.str()}): restart the service, and give each process "
        "its own VIRNUCPRO_INSTANCE_ID"
    )
