"""The records of a run: ordinary ones, a hundredth of them poison, and what the publishers of odd things send."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from schemas import Reason, SequenceRecord, encode_record
from tests.chaos.checker import PREDICTION, Headers
from tests.support.noop_service import FAILS

_POISON = 0.01
_SEQUENCE = "ATGGCTAAAGGTCTGCCATTCGACGGTACCGAATGG" * 15
_LARGE_BASES = 1_000_000
_PROTEIN = "MEFILPQZKE"
_OTHER_SCHEMA = b"\xc3\x01" + b"\xee" * 8
_UNPACKED_BYTES = 900_000
_OURS = "vnp-"


@dataclass(frozen=True, slots=True)
class Record:
    """A message to publish, and what must come of it.

    Attributes:
        headers: None where the client cannot send them, for `raw_headers`: names of any bytes, each with the value 1.
    """

    value: bytes
    outcome: str = PREDICTION
    headers: Headers | None = ()
    raw_headers: tuple[bytes, ...] = ()

    @property
    def kept_headers(self) -> Headers:
        """Those that the answer must carry, beside the service's own."""
        return tuple(header for header in self.headers or () if not header[0].startswith(_OURS))


Maker = Callable[[int, random.Random], Record]
"""Makes the record of a number."""


def ordinary(number: int, rng: random.Random) -> Record:
    """A good one, or now and then poison."""
    if rng.random() >= _POISON:
        return good(number, rng)
    return rng.choice((random_bytes, failing))(number, rng)


def good(number: int, _: random.Random) -> Record:
    return Record(encode_record(SequenceRecord(f"r{number}", _SEQUENCE)))


def failing(number: int, _: random.Random) -> Record:
    """The model fails on it."""
    return Record(
        encode_record(SequenceRecord(f"r{number}{FAILS}", _SEQUENCE)), Reason.INFERENCE_FAILED.value
    )


def large(number: int, _: random.Random) -> Record:
    """As long as a sequence may be."""
    sequence = (_SEQUENCE * (_LARGE_BASES // len(_SEQUENCE) + 1))[:_LARGE_BASES]
    return Record(encode_record(SequenceRecord(f"r{number}", sequence)))


def unpacks(number: int, _: random.Random) -> Record:
    """Hardly anything when compressed."""
    return Record(encode_record(SequenceRecord(f"r{number}", _SEQUENCE, "d" * _UNPACKED_BYTES)))


def junk(number: int, rng: random.Random) -> Record:
    """Random bytes and proteins, and a few messages of an unknown schema.

    Few, since that may be the fault of a deployment: when most records have one, the service stops reading on purpose.
    """
    (kind,) = rng.choices((random_bytes, protein, other_schema), (48, 48, 4))
    return kind(number, rng)


def random_bytes(_: int, rng: random.Random) -> Record:
    """The first byte begins neither of the two framings."""
    return Record(b"\x7f" + rng.randbytes(rng.randrange(2000)), Reason.MALFORMED.value)


def protein(number: int, rng: random.Random) -> Record:
    sequence = "".join(rng.choices(_PROTEIN, k=rng.randrange(1, 400))) + "E"
    return Record(encode_record(SequenceRecord(f"r{number}", sequence)), Reason.INVALID_NUCLEOTIDES.value)


def other_schema(_: int, rng: random.Random) -> Record:
    return Record(_OTHER_SCHEMA + rng.randbytes(100), Reason.UNKNOWN_SCHEMA.value)


def odd_headers(number: int, rng: random.Random) -> Record:
    """One form of odd headers after another."""
    value = good(number, rng).value
    match number % 4:
        case 0:
            return Record(value, headers=None, raw_headers=(b"a", b"\xff\xfe", b"caf\xe9"))
        case 1:
            return Record(value, headers=tuple((f"h{n % 200}", b"x" * (n % 7)) for n in range(300)))
        case 2:
            forged: Headers = (
                ("vnp-source", b"other/0/0"),
                ("trace", b"1"),
                ("vnp-source", None),
                ("vnp-dlq-reason", b"malformed"),
                ("vnp-", b""),
            )
            return Record(value, headers=forged)
        case _:
            twice: Headers = (("a", b"1"), ("a", None), ("", b""), ("b", b"\xff\x00"), ("a", b"1"))
            return Record(value, headers=twice)
