"""Any interleaving of receive, finish, fail, revoke, assign and deliver keeps the rules of the ledger.

The model is kept in the plainest way: for each partition the offsets received in this epoch and which of them are
finished or delivered.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consumer.ledger import Ledger, Release
from tests.support.factories import finished, message, partition, refused, scored

PARTITIONS = st.integers(0, 2)


class LedgerMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.ledger = Ledger()
        self.epochs = dict.fromkeys(range(3), 0)
        self.owned: set[int] = set()
        self.received: dict[int, list[int]] = {}
        self.done: dict[int, set[int]] = {}
        self.delivered: dict[int, list[int]] = {}
        self.next_offset = dict.fromkeys(range(3), 0)
        self.release: Release | None = None

    @rule(number=PARTITIONS)
    def assign(self, number: int) -> None:
        self.ledger.assign([partition(number)])
        self.epochs[number] += 1
        self.owned.add(number)
        self.received[number], self.done[number], self.delivered[number] = [], set(), []

    @rule(number=PARTITIONS)
    def drop(self, number: int) -> None:
        self.ledger.drop([partition(number)])
        self.owned.discard(number)

    @precondition(lambda self: self.owned)
    @rule(data=st.data(), gap=st.integers(1, 3))
    def receive(self, data: st.DataObject, gap: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.owned)))
        self.next_offset[number] += gap
        offset = self.next_offset[number]
        self.ledger.receive(message(offset, number=number, epoch=self.epochs[number]))
        self.received[number].append(offset)

    @precondition(lambda self: any(self.received.get(n) for n in self.owned))
    @rule(data=st.data(), fails=st.booleans())
    def finish(self, data: st.DataObject, fails: bool) -> None:
        number = data.draw(st.sampled_from([n for n in sorted(self.owned) if self.received[n]]))
        offset = data.draw(st.sampled_from(self.received[number]))
        outcome = refused() if fails else scored(10)
        entry = self.ledger.finish(finished(offset, number, self.epochs[number], outcome))
        known = offset in self.done[number]
        assert (entry is None) == known, "each message finishes once"
        self.done[number].add(offset)

    @rule(number=PARTITIONS, offset=st.integers(1, 30))
    def finish_stale(self, number: int, offset: int) -> None:
        assert self.ledger.finish(finished(offset, number, self.epochs[number] - 1)) is None

    @rule(limit=st.integers(1, 5))
    def begin_delivery(self, limit: int) -> None:
        self.release = self.ledger.release(lambda p: self.next_offset[p.number] + 1, limit)
        for (_, number), offset in self.release.offsets.items():
            unfinished = [o for o in self.received[number] if o not in self.done[number]]
            assert offset <= min(unfinished, default=offset), "never past a message in flight"
        for number in self.owned:
            sources = [entry.message.source for entry in self.release.entries]
            mine = [source.offset for source in sources if source.partition.number == number]
            waiting = [o for o in self.received[number] if o not in self.delivered[number]]
            assert mine == waiting[: len(mine)], "in offset order, without a gap"
            assert set(mine) <= self.done[number]

    @precondition(lambda self: self.release is not None)
    @rule()
    def end_delivery(self) -> None:
        assert self.release is not None
        for entry in self.release.entries:
            source = entry.message.source
            number = source.partition.number
            current = number in self.owned and source.epoch == self.epochs[number]
            if current and source.offset not in self.delivered[number]:
                self.delivered[number].append(source.offset)
        self.ledger.settle(self.release)
        self.release = None

    @invariant()
    def counts_what_is_in_flight(self) -> None:
        in_flight = sum(len(self.received[n]) - len(self.delivered[n]) for n in getattr(self, "owned", ()))
        if hasattr(self, "ledger"):
            assert self.ledger.records == in_flight
            assert self.ledger.bytes == in_flight * message(0).size


LedgerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase
