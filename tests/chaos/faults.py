"""What goes wrong in a run, and when: a row for each kind of fault, and the faults of a run, drawn from a seed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum, auto

SESSION_S = 6.0


class Kind(StrEnum):
    """The kinds of faults, by what they are done to."""

    SIGKILL = auto()
    SIGTERM = auto()
    SIGSTOP = auto()
    ADD_WORKER = auto()
    NODE_KILL = auto()
    NODE_RESTART = auto()
    NODES_KILL = auto()
    INPUT_CUT = auto()
    INPUT_RECREATED = auto()
    ANSWERS_RECREATED = auto()
    GROWN = auto()
    COMPACTED = auto()
    JUNK = auto()
    ODD_HEADERS = auto()
    LARGE_RECORD = auto()
    UNPACKS = auto()


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of fault.

    Attributes:
        does: what it does.
        expects: what the checker expects of it, beside that every record is answered once and in order.
        weight: how often it is drawn, against the others.
        pause: seconds from its beginning to its end, drawn between these.
        slot_s: how much longer than others it takes until the next fault may begin.
    """

    does: str
    expects: str
    weight: int
    pause: tuple[float, float]
    slot_s: float = 0.0


ROWS: Mapping[Kind, Row] = {
    Kind.SIGKILL: Row(
        "a worker is killed, and started again before its session has ended, or after",
        "its records are answered by another process, none of them `quarantined`",
        6,
        (0.5, 8.0),
    ),
    Kind.SIGTERM: Row("a worker is stopped, and started again", "it ends with code 0", 3, (0.0, 3.0)),
    Kind.SIGSTOP: Row(
        "a worker is frozen for longer than its session, with or without an open transaction",
        "it goes on, or ends with code 4",
        4,
        (SESSION_S + 1.5, SESSION_S + 7.0),
    ),
    Kind.ADD_WORKER: Row(
        "a worker joins, and leaves some seconds later", "it ends with code 0", 2, (4.0, 9.0)
    ),
    Kind.NODE_KILL: Row(
        "one of the three brokers is killed, and started again",
        "the others take over; a worker may end with code 4",
        4,
        (0.0, 5.0),
        2.0,
    ),
    Kind.NODE_RESTART: Row(
        "one broker is stopped in order, and started again",
        "the others take over; a worker may end with code 4",
        2,
        (0.0, 3.0),
        2.0,
    ),
    Kind.NODES_KILL: Row(
        "two brokers are killed at once and started again: no quorum for some seconds",
        "nothing goes on until one is back; a worker may end with code 4",
        1,
        (0.0, 2.0),
        6.0,
    ),
    Kind.INPUT_CUT: Row(
        "a worker is killed, and a part of the backlog of its partitions is deleted meanwhile, as by retention",
        "the records without an answer are exactly the offsets that `records_skipped` names",
        3,
        (0.5, 3.0),
        2.0,
    ),
    Kind.INPUT_RECREATED: Row(
        "the input topic is deleted with or without a backlog, created again and filled at once",
        "of the old topic the last records of a partition may be missing, if `topic_recreated` was logged; all of the "
        "new one are answered",
        2,
        (0.0, 0.0),
        4.0,
    ),
    Kind.ANSWERS_RECREATED: Row(
        "the output or the dead-letter topic is deleted and created again, with nothing in flight",
        "later answers are in the new topic",
        1,
        (0.0, 0.0),
        5.0,
    ),
    Kind.GROWN: Row(
        "the three topics get one more partition each, while records are published",
        "answers are in the partition of their input's number, those of the new partitions too",
        1,
        (0.0, 0.0),
        1.0,
    ),
    Kind.COMPACTED: Row(
        "the output or the dead-letter topic is compacted, a worker is started, and the policy is set back",
        "that worker ends with code 1 and names the topic; started again afterwards, it joins",
        1,
        (3.0, 6.0),
    ),
    Kind.JUNK: Row(
        "a publisher of junk sends 150 messages to one partition at once: random bytes, proteins, an unknown schema",
        "each becomes a dead letter with its reason and its raw bytes; the breaker never opens",
        2,
        (0.0, 0.0),
    ),
    Kind.ODD_HEADERS: Row(
        "24 good records with odd headers: names that are not UTF-8, three hundred headers, forged `vnp-*` headers, "
        "names that stand twice or are empty, values that are null",
        "predictions, each with one `vnp-source`, the true one, and the other headers as they were, or without any "
        "where a name is not UTF-8",
        2,
        (0.0, 0.0),
    ),
    Kind.LARGE_RECORD: Row(
        "two records of 1,000,000 bases, the default limit, among the small ones",
        "predictions",
        1,
        (0.0, 0.0),
    ),
    Kind.UNPACKS: Row(
        "200 records of 0.9 MB each that are some kilobytes on the broker's disk, to workers that have 1 GiB of memory",
        "predictions, and no worker runs out of memory",
        1,
        (0.0, 0.0),
        3.0,
    ),
}
"""What each kind does, and what must come of it."""

WITHOUT_TOPICS: tuple[Kind, ...] = (
    Kind.SIGKILL,
    Kind.SIGTERM,
    Kind.SIGSTOP,
    Kind.ADD_WORKER,
    Kind.NODE_KILL,
    Kind.NODE_RESTART,
)
"""The kinds that kill and start processes only."""

_AIMED = 0.5


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        at: seconds from the beginning.
        prefer: the order in which workers, or brokers, are its victim.
        pause: seconds until it is over.
        aimed: at the worse moment, where there are two: a kill or a freeze in the middle of a transaction, an input
            topic that is deleted with its backlog.
        share: how much of what there is it takes, 0 to 1, or which of two.
    """

    kind: Kind
    at: float
    prefer: tuple[int, ...]
    pause: float
    aimed: bool
    share: float


def draw(
    seed: int, count: int, every: float, workers: int, kinds: Sequence[Kind] = tuple(Kind)
) -> list[Fault]:
    """So many faults, one in every `every` seconds: each kind once, as far as they go, then by their weights."""
    rng = random.Random(f"faults {seed}")
    drawn = rng.sample(kinds, len(kinds))[:count]
    drawn += rng.choices(kinds, [ROWS[kind].weight for kind in kinds], k=count - len(drawn))
    rng.shuffle(drawn)
    begins = itertools.accumulate((_slot(kind, every) for kind in drawn), initial=0.0)
    return [
        Fault(
            kind,
            begin + every * rng.uniform(0.0, 0.6),
            tuple(rng.sample(range(workers), workers)),
            rng.uniform(*ROWS[kind].pause),
            rng.random() < _AIMED,
            rng.random(),
        )
        for kind, begin in zip(drawn, begins, strict=False)
    ]


def duration(faults: list[Fault], every: float) -> float:
    """Seconds that these faults take, and what comes of the last."""
    return sum(_slot(fault.kind, every) for fault in faults)


def _slot(kind: Kind, every: float) -> float:
    return every + ROWS[kind].slot_s
