"""The transactional producer: its calls bounded, their errors classified, and the producer replaced when a call hangs.

librdkafka says of every error what it asks for: the same call again, an abort, or the end of this producer. Each call
is given half a second, so rebalances are answered in time.

One call does not keep to that. `send_offsets_to_transaction` may never return after the broker that coordinates the
group was restarted (librdkafka #5456 and #5511, open in 2.16; tests/chaos sees it at most broker restarts). So it runs
on its own thread, and when it has not returned in `HANGS_S` the producer is left to it and a new one takes its place.
That is safe: nothing was committed, registering the same transactional id aborts what the old one left open and fences
it, and the results are still in the ledger. The thread keeps the old producer for as long as the call lasts; after
`MAX_HANGS` of them in a row the process ends instead.

Remove `CallThread` and `MAX_HANGS` when librdkafka #5456 and #5511 are fixed; before that, without them
test_calls_that_hang_again_and_again_end_the_process and tests/chaos fail.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Literal

import structlog
from confluent_kafka import KafkaException, Producer, TopicPartition

from consumer.clock import Clock, monotonic
from consumer.delivery.delivery_listener import DeliveryListener
from consumer.errors import KafkaFatal, ServiceError
from consumer.kafka.error_table import Classified, Kind, classify, fenced_error, rejected_client

log = structlog.get_logger(__name__)

CALL_S = 0.5
HANGS_S = 5.0
MAX_HANGS = 5

Result = Literal["done", "retry", "abort"]
"""How a call ended: done, to be repeated, or the transaction is to be aborted."""


class NoTransaction(KafkaFatal):
    """The broker has no open transaction of this producer, which can't be used any more."""


class Transactions:
    """Owns the producer of one transactional id; all methods run on the thread that owns the consumer.

    Args:
        make: gives a new producer, each time of the same transactional id.
        listener: hears of each commit that did not succeed.

    Every call raises KafkaFatal when the producer cannot go on (fenced, or an error that librdkafka calls fatal), and
    ServiceError when the error is permanent.
    """

    def __init__(
        self, make: Callable[[], Producer], listener: DeliveryListener, clock: Clock = monotonic
    ) -> None:
        self._make, self._listener, self._clock = make, listener, clock
        self.producer = make()
        self.registered = False
        self._thread = CallThread()
        # Start of the call in flight.
        self._called_at: float | None = None
        # In a row; each leaves a thread and a producer behind.
        self._hangs = 0

    def register(self) -> Result:
        """Register the transactional id, which aborts what another producer of that id left open."""
        result = self._call(lambda: self.producer.init_transactions(CALL_S))
        self.registered = result == "done"
        return result

    def begin(self) -> Result:
        return self._call(self.producer.begin_transaction)

    def send_offsets(self, offsets: Sequence[TopicPartition], metadata: Callable[[], object]) -> Result:
        """Add input offsets to the transaction; afterwards `registered` is False if the call hung.

        Args:
            metadata: gives the group's metadata; called in this very step.
        """
        if self._called_at is None:
            producer, group = self.producer, metadata()
            self._thread.begin(lambda: producer.send_offsets_to_transaction(list(offsets), group, CALL_S))
            self._called_at = self._clock()
        return self._call(self._thread.result) if self._is_back() else "retry"

    def commit(self) -> Result:
        result = self._call(lambda: self.producer.commit_transaction(CALL_S))
        if result == "done":
            self._hangs = 0
        return result

    def abort(self) -> Result:
        """Abort the open transaction, once the call in flight has returned or its producer was replaced.

        Where the broker has refused every partition of it, the broker knows of no transaction. librdkafka asks for its
        end all the same, and calls the answer fatal; nothing is open then, and a new producer takes over.
        """
        if self._called_at is not None and not self._is_back():
            return "retry"
        if not self.registered:
            return "done"
        try:
            return self._call(lambda: self.producer.abort_transaction(CALL_S))
        except NoTransaction:
            self.replace()
            return "done"

    def replace(self) -> None:
        """Take a new producer, to be registered; the old one has no transaction open."""
        self.registered = False
        self.producer = self._make()

    def close(self) -> None:
        """End the thread that this keeps."""
        self._thread.end()

    def _is_back(self) -> bool:
        """Wait `CALL_S` for the call on the other thread; replace the producer when it hangs."""
        assert self._called_at is not None
        if self._thread.wait(CALL_S):
            self._called_at = None
            return True
        if self._clock() - self._called_at >= HANGS_S:
            self._listener.committed("hung")
            log.warning("producer_replaced", hanging_call="send_offsets_to_transaction", seconds=HANGS_S)
            self._hangs += 1
            if self._hangs >= MAX_HANGS:
                raise KafkaFatal("a call of the Kafka client hangs again and again: restart the service")
            self._thread.end()
            self._thread, self._called_at = CallThread(), None
            self.replace()
        return False

    def _call(self, call: Callable[[], object]) -> Result:
        """One call of the transactional API, its error classified as librdkafka says."""
        try:
            call()
        except KafkaException as raised:
            problem = classify(raised.args[0])
            if problem.kind is Kind.UNAUTHORIZED:
                raise rejected_client(problem) from raised
            if problem.kind is Kind.NO_TRANSACTION:
                raise NoTransaction(str(fenced_error(problem))) from raised
            if problem.fatal or problem.kind is Kind.FENCED:
                raise fenced_error(problem) from raised
            if problem.requires_abort:
                log.warning("transaction_to_abort", error=problem.text, code=problem.name)
                self._listener.committed("rebalancing" if problem.kind is Kind.REBALANCING else "error")
                return "abort"
            if problem.retriable:
                return "retry"
            raise _refused(problem) from raised
        return "done"


class CallThread:
    """A daemon thread that makes one call at a time."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._done = threading.Event()
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="transaction", daemon=True).start()

    def begin(self, call: Callable[[], object]) -> None:
        """Make this call; the one before must have returned."""
        self._done.clear()
        self._error = None
        self._calls.put(call)

    def wait(self, timeout: float) -> bool:
        """True once the call has returned; waits `timeout` seconds for that."""
        return self._done.wait(timeout)

    def result(self) -> None:
        """Raise what the call raised."""
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """End the thread, after the call in flight if there is one."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001
                # Raised again in `result`, on the caller's thread.
                self._error = error
            # The last reference to a producer that hung.
            del call
            self._done.set()


def _refused(problem: Classified) -> ServiceError:
    return ServiceError(f"Kafka refuses a transaction ({problem.text}): {problem.cure}")
