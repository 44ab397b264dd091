"""While input waits, batches are full: the reader, preparation and the device in virtual time.

The parts that decide are the service's own (`Backpressure`, `Batcher`, `Staging`); a reader, one preparation thread
and a device are simulated around them, a millisecond a step. Preparation is faster than the device, otherwise no policy
could fill its batches.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import dropwhile

from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from consumer.config.settings import ServiceSettings
from consumer.intake.backpressure import Backpressure
from consumer.runtime import BATCHES_WAITING
from consumer.scoring.batcher import Batch, Batcher, RecordJob
from consumer.scoring.staging import Staging
from consumer.types import InFlight, Level, Partition
from tests.support.factories import FakeClock, partition, prepared_record, source

_STEP_S = 0.001
_MESSAGE_BYTES = 1000
_BATCHES = 20
_RECORDS_PER_S = 5000  # more than a process answers, whatever its device


@dataclass
class World:
    """What a run is drawn from.

    Attributes:
        frames: of one record.
        frame_tokens: of one frame.
        read_ms: messages that the reader gets in a millisecond.
        refetch_s: seconds that reading needs after a pause, which throws away what was fetched ahead.
        prepare_lead: how many times faster than the device preparation is.
        deliver_s: seconds from a record's last frame to its commit.
    """

    partitions: int
    budget: int
    batch_s: float
    frames: int
    frame_tokens: int
    read_ms: int
    refetch_s: float
    prepare_lead: float
    deliver_s: float
    batches: list[Batch] = field(default_factory=list)

    @property
    def records_per_s(self) -> float:
        """Of the device."""
        return self.budget / (self.batch_s * self.frames * self.frame_tokens)


def run(world: World) -> None:
    """Simulate; the batches are left in `world.batches`."""
    clock = FakeClock(0.0)
    limits = ServiceSettings()
    backpressure = Backpressure(
        limits.max_inflight_records, limits.max_inflight_bytes, BATCHES_WAITING * world.budget, clock=clock
    )
    staging = Staging(clock)
    inbox: deque[Partition] = deque()
    state = {"device": 0.0, "prepared_by": 0.0, "fetch_at": 0.0}
    level: Level = "open"
    running: Batch | None = None
    ahead: Batch | None = None
    held: Counter[Partition] = Counter()
    delivering: deque[tuple[float, Partition]] = deque()
    batcher = Batcher(
        world.budget,
        limits.max_wait_ms / 1000,
        BATCHES_WAITING * world.budget,
        preparing=lambda: bool(inbox),
        device_idle=lambda: running is None,
        clock=clock,
    )
    tokens = world.frames * world.frame_tokens
    prepare_s = world.batch_s / world.budget * tokens / world.prepare_lead
    offset = 0

    def amounts() -> dict[Partition, InFlight]:
        waiting = Counter(batcher.tokens_by_partition())
        for each in inbox:
            waiting[each] += tokens
        every = (partition(number) for number in range(world.partitions))
        return {each: InFlight(held[each], held[each] * _MESSAGE_BYTES, waiting[each]) for each in every}

    while len(world.batches) < _BATCHES:
        assert clock.now < 2 * _BATCHES * world.batch_s + 1
        clock.advance(_STEP_S)
        # The reader.
        before, level = level, backpressure.level(amounts())
        if before == "pause" and level == "open":
            state["fetch_at"] = clock.now + world.refetch_s
        if level == "open" and clock.now >= state["fetch_at"]:
            for _ in range(world.read_ms):
                readable = [
                    each
                    for each in map(partition, range(world.partitions))
                    if each not in backpressure.blocked
                ]
                if not readable:
                    break
                chosen = readable[offset % len(readable)]
                offset += 1
                held[chosen] += 1
                inbox.append(chosen)
                if backpressure.level(amounts()) != "open":
                    break
        # Preparation.
        if not inbox or not batcher.has_room(inbox[0]):
            state["prepared_by"] = clock.now
        while inbox and batcher.has_room(inbox[0]) and state["prepared_by"] + prepare_s <= clock.now:
            state["prepared_by"] += prepare_s
            owner = inbox.popleft()
            offset += 1
            prepared = prepared_record(*[world.frame_tokens] * world.frames)
            batcher.put(RecordJob(prepared, source(offset, owner.number), clock.now))
        # The device.
        if running is not None and clock.now >= state["device"]:
            staging.ended(running.tokens, running.tokens * world.batch_s / world.budget)
            for slot in running.slots:
                job = slot.record
                job.missing -= 1
                if not job.missing:
                    delivering.append((clock.now + world.deliver_s, job.source.partition))
            running = None
        if ahead is None and (staging._due is not None) and clock.now >= staging._due:
            ahead = batcher.next_batch(0)
            if ahead is not None:
                assert staging.wait(0)
                world.batches.append(ahead)
        if running is None and ahead is not None:
            running, ahead = ahead, None
            state["device"] = clock.now + running.tokens * world.batch_s / world.budget
            staging.begins(running.tokens)
        while delivering and delivering[0][0] <= clock.now:
            held[delivering.popleft()[1]] -= 1


worlds = st.builds(
    World,
    partitions=st.sampled_from([1, 2, 16]),
    budget=st.sampled_from([3072, 16_384]),
    batch_s=st.sampled_from([0.05, 0.2, 0.6]),
    frames=st.sampled_from([1, 4]),
    frame_tokens=st.sampled_from([35, 100]),
    read_ms=st.sampled_from([20, 50]),
    refetch_s=st.sampled_from([0.05, 0.3]),
    prepare_lead=st.sampled_from([1.5, 3.0]),
    deliver_s=st.sampled_from([0.01, 0.15]),
).filter(lambda world: world.records_per_s < _RECORDS_PER_S)


@settings(max_examples=6, phases=[Phase.explicit, Phase.generate])
@example(World(1, 3072, 0.6, 1, 35, 20, 0.3, 1.5, 0.15))  # every hold lasts until it is a pause
@given(worlds)
def test_while_input_waits_batches_are_full(world: World) -> None:
    run(world)
    # The first ones grow: the device does not wait for them to fill.
    steady = list(dropwhile(lambda batch: batch.closed_by != "full", world.batches))
    assert len(steady) >= _BATCHES / 2
    assert [batch.tokens for batch in steady if batch.tokens < 0.95 * world.budget] == []
