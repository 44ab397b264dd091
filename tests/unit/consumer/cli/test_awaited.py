"""Each awaited record gets its own answer, whatever comes in between and in whatever order."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from consumer.cli.topics.awaited import Awaited
from consumer.clock import Deadline
from schemas import DeadLetter, Prediction, Reason, Verdict, encode_dead_letter, encode_prediction
from schemas.codecs import AvroCodec
from tests.support.factories import STAMP

LETTER = DeadLetter(
    Reason.MALFORMED, "bad", "decode", b"x", None, False, None, "in", 0, 0, None, "g", 1, "0.1.0", 1
)


def answer(number: int, offset: int, dead: bool) -> SimpleNamespace:
    if dead:
        value = encode_dead_letter(replace(LETTER, source_offset=offset))
    else:
        value = encode_prediction(Prediction(f"r{number}", 9, Verdict.NO_OPEN_FRAME, None, None, (), STAMP))
    header = ("vnp-source", f"in/0/{offset}".encode())
    return SimpleNamespace(
        topic=lambda: "dlq" if dead else "out", value=lambda: value, headers=lambda: [header]
    )


class Messages:
    """Gives messages one by one, then nothing."""

    def __init__(self) -> None:
        self.waiting: list[SimpleNamespace] = []

    def read(self, timeout: float) -> SimpleNamespace | None:
        return self.waiting.pop(0) if self.waiting else None


@given(st.lists(st.sampled_from(["predicted", "dead", "never"]), max_size=12), st.integers())
def test_answers_come_in_order_and_what_has_none_is_named(fates, seed):
    chance, messages, written = random.Random(seed), Messages(), []
    awaited = Awaited(messages, "in", "dlq", written.append, AvroCodec())  # type: ignore[arg-type]
    numbers = range(len(fates))
    for number in numbers:
        awaited.expect(number, f"r{number}")
    coming = [answer(n, 100 + n, fates[n] == "dead") for n in numbers if fates[n] != "never"]
    coming += chance.sample(coming, len(coming) // 2)  # as at least once may send them twice
    coming += [answer(99, 7, dead=False)]  # of another publisher
    chance.shuffle(coming)
    for number in chance.sample(numbers, len(numbers)):
        messages.waiting += coming[:2]
        del coming[:2]
        awaited.take()  # before the broker's confirmation comes
        place = SimpleNamespace(partition=lambda: 0, offset=lambda number=number: 100 + number)
        awaited.confirmed(number, None, place)  # type: ignore[arg-type]
        awaited.settled()
    messages.waiting += coming
    missing = awaited.wait(Deadline.after(0.01))
    assert [each.id for each in written] == [f"r{n}" for n in numbers if fates[n] == "predicted"]
    assert awaited.predicted == fates.count("predicted")
    kinds = {"dead": "dead_letter", "never": "no_answer"}
    assert [(each.record_id, each.kind) for each in missing] == [
        (f"r{n}", kinds[fates[n]]) for n in numbers if fates[n] in kinds
    ]
