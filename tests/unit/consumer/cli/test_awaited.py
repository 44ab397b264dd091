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
from virnucpro_client.parts import Part

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


def part_answer(part: Part, offset: int, fate: str) -> SimpleNamespace:
    found = answer(0, offset, fate == "dead")
    if fate != "dead":
        size = 500 if fate == "predicted" else 499  # which does not reach the next part
        prediction = Prediction("big", size, Verdict.NO_OPEN_FRAME, None, None, (), STAMP)
        found.value = lambda: encode_prediction(prediction)
    return found


@given(
    st.lists(st.sampled_from(["predicted", "dead", "never", "unfit"]), min_size=2, max_size=5), st.integers()
)
def test_the_parts_of_a_record_make_one_answer_and_the_first_that_has_none_is_named(fates, seed):
    chance, messages, written = random.Random(seed), Messages(), []
    awaited = Awaited(messages, "in", "dlq", written.append, AvroCodec())  # type: ignore[arg-type]
    awaited.expect(0, "big")
    count = len(fates)
    parts = [Part("0" * 32, n + 1, count, 500 * n, 500 * count, 500) for n in range(count)]
    coming = [
        part_answer(part, part.number, fate)
        for part, fate in zip(parts, fates, strict=True)
        if fate != "never"
    ]
    coming += chance.sample(coming, len(coming) // 2)
    chance.shuffle(coming)
    for part in chance.sample(parts, count):
        messages.waiting += coming[:1]
        del coming[:1]
        awaited.take()
        place = SimpleNamespace(partition=lambda: 0, offset=lambda number=part.number: number)
        awaited.confirmed(0, part, place)  # type: ignore[arg-type]
    awaited.settled()
    messages.waiting += coming
    missing = awaited.wait(Deadline.after(0.01))
    if set(fates) == {"predicted"}:
        assert [(each.id, each.length) for each in written] == [("big", 500 * count)]
        assert (missing, awaited.predicted) == ([], 1)
        return
    assert (written, awaited.predicted) == ([], 0)
    ((kind, why),) = [(each.kind, each.why) for each in missing]
    if "dead" in fates:
        assert kind == "dead_letter"
        assert why in {f"part {n + 1} of {count}: malformed: bad" for n in range(count) if fates[n] == "dead"}
    elif "never" in fates:
        first = fates.index("never") + 1
        assert (kind, why) == ("no_answer", f"part {first} of {count}: in/0/{first} has no answer yet")
    else:
        assert (kind, why) == ("no_answer", "its parts do not make a whole record: publish it again")


def test_a_part_that_is_not_delivered_is_named_and_the_answers_of_the_others_are_no_matter():
    messages, written = Messages(), []
    awaited = Awaited(messages, "in", "dlq", written.append, AvroCodec())  # type: ignore[arg-type]
    parts = [Part("0" * 32, n, 2, 500 * (n - 1), 1000, 500) for n in (1, 2)]
    awaited.expect(0, "big")
    awaited.not_delivered(0, parts[1], "too large")
    awaited.confirmed(0, parts[0], SimpleNamespace(partition=lambda: 0, offset=lambda: 1))  # type: ignore[arg-type]
    awaited.settled()
    messages.waiting.append(part_answer(parts[0], 1, "predicted"))
    awaited.take()
    assert [(each.kind, each.why) for each in awaited.wait(Deadline.after(0))] == [
        ("not_delivered", "part 2 of 2: too large")
    ]
