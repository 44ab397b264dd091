"""Each target takes its seeds, and for a short time inputs made of them; `make fuzz` goes on for longer."""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.fuzz.targets import MOST_BYTES, TARGETS

BUDGET_S = float(os.environ.get("FUZZ_SECONDS", "1"))
SLOWEST_S = 10.0
"""For one input; far above what any takes, so that a busy machine does not matter."""
SPLICES = (
    b"\0",
    b"\xff\xff\xff\xff",
    b"\x7f",
    b"\x80",
    b"[" * 200,
    b"{}",
    b"\n",
    b"9" * 400,
    b">",
    b"@",
    b"1e999",
)


def altered(seeds: list[bytes], dice: random.Random) -> bytes:
    """A seed with a few bytes changed, put in, taken out, repeated, or replaced by a piece of another."""
    data = bytearray(dice.choice(seeds)[:MOST_BYTES])
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        start = dice.randrange(len(data) + 1)
        end = min(len(data), start + dice.choice((1, 1, 2, 8, 100)))
        piece = bytes(data[start:end])
        match dice.randrange(6):
            case 0 if piece:
                data[start] ^= 1 << dice.randrange(8)
            case 1:
                data[start:end] = dice.randbytes(end - start)
            case 2:
                del data[start:end]
            case 3:
                data[start:start] = piece * dice.choice((1, 3, 50))
            case 4:
                data[start:end] = dice.choice(SPLICES)
            case _:
                other = dice.choice(seeds)
                at = dice.randrange(len(other) + 1)
                data[start:end] = other[at : at + dice.choice((4, 40, 400))]
    return bytes(data)


def run(name: str, data: bytes) -> None:
    begun = time.monotonic()
    try:
        TARGETS[name].run(data)
    except Exception as error:
        error.add_note(f"input of the target {name}: {data!r}")
        raise
    assert time.monotonic() - begun < SLOWEST_S, f"{name} took long for {data!r}"


@pytest.mark.filterwarnings("ignore")  # Python's own, of what stands in a pickle
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_is_worse_than_refused(name):
    seeds = list(TARGETS[name].seeds())
    for seed in seeds:
        run(name, seed)
    dice = random.Random(
        name
    )  # a change is judged by its own faults; `make fuzz` looks for those that are there
    until = time.monotonic() + BUDGET_S
    while time.monotonic() < until:
        run(name, altered(seeds, dice))
