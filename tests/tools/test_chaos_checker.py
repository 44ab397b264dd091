"""The judge of the chaos runs must itself complain of each broken promise, and of nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.checker import PREDICTION, Answer, Checker, Expected, Topic
from tests.chaos.faults import KINDS, draw, duration
from tests.chaos.injector import Kill
from tests.chaos.reader import Sighting
from tests.chaos.report import Options, Report, recovery
from tests.chaos.stream import PARTITIONS, Stream
from tests.chaos.workers import Exit

EXPECTED = [
    Expected(0, PREDICTION),
    Expected(1, PREDICTION),
    Expected(0, "malformed"),
    Expected(0, PREDICTION),
    Expected(1, "inference_failed"),
    Expected(0, PREDICTION),
]


def right_answers() -> list[Answer]:
    """What a service that keeps its promise writes; offsets with the gaps that transactions leave."""
    answers = []
    for number, expected in enumerate(EXPECTED):
        topic: Topic = "predictions" if expected.outcome == PREDICTION else "dead letters"
        answers.append(Answer(number, topic, expected.partition, 2 * number, expected.outcome))
    return answers


def complaints(answers: list[Answer], *, repeats_allowed: bool = False) -> list[str]:
    checker = Checker(EXPECTED, repeats_allowed=repeats_allowed)
    seen = [violation for answer in answers for violation in checker.see(answer)]
    return [violation.kind for violation in [*seen, *checker.missing()]]


def test_no_complaint_about_the_right_answers():
    assert complaints(right_answers()) == []


def test_partitions_and_topics_have_no_order_among_them():
    answers = right_answers()
    assert complaints([answers[1], answers[4], answers[2], answers[0], answers[3], answers[5]]) == []


@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_a_lost_record(number):
    answers = right_answers()
    del answers[number]
    assert complaints(answers) == ["lost"]


@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_a_doubled_record(number):
    answers = right_answers()
    assert complaints([*answers, replace(answers[number], offset=90)]) == ["twice"]


def test_a_doubled_record_counts_but_is_allowed_at_least_once():
    answers = right_answers()
    again = [replace(answer, offset=90 + answer.offset) for answer in answers[3:]]
    checker = Checker(EXPECTED, repeats_allowed=True)
    assert [v for answer in [*answers, *again] for v in checker.see(answer)] == []
    assert checker.repeats == 3


def test_swapped_records_are_out_of_order():
    answers = right_answers()
    answers[0], answers[3] = answers[3], answers[0]
    assert complaints(answers) == ["out_of_order"]


def test_order_at_least_once_is_that_of_first_answers():
    first, last = right_answers()[0], right_answers()[5]
    others = right_answers()[1:5]
    going_back = [first, *others, last, replace(first, offset=90), replace(last, offset=91)]
    assert complaints(going_back, repeats_allowed=True) == []
    assert complaints([last, *others, first], repeats_allowed=True) == ["out_of_order", "out_of_order"]


def test_a_record_in_both_topics():
    answers = right_answers()
    both = Answer(0, "dead letters", 0, 90, "inference_failed")
    assert complaints([*answers, both]) == ["both_topics"]
    assert complaints([*answers, both], repeats_allowed=True) == ["both_topics"]


@pytest.mark.parametrize(("number", "outcome"), [(0, "quarantined"), (2, "unknown_schema"), (4, PREDICTION)])
def test_another_answer_than_expected(number, outcome):
    answers = right_answers()
    topic: Topic = "predictions" if outcome == PREDICTION else "dead letters"
    answers[number] = replace(answers[number], topic=topic, outcome=outcome)
    assert complaints(answers) == ["wrong_answer"]


def test_another_partition_than_the_inputs():
    answers = right_answers()
    answers[5] = replace(answers[5], partition=1)
    assert complaints(answers) == ["wrong_partition"]


@pytest.mark.parametrize("number", [-1, len(EXPECTED)])
def test_an_answer_to_nothing(number):
    assert complaints([*right_answers(), Answer(number, "predictions", 0, 90, PREDICTION)]) == ["unknown"]


def test_a_complaint_names_its_place():
    checker = Checker(EXPECTED, repeats_allowed=False)
    answer = right_answers()[3]
    checker.see(answer)
    (violation,) = checker.see(replace(answer, offset=77))
    assert str(violation) == "twice: record 3 at predictions 0@77, after predictions 0@6"


def test_a_report_passes_only_without_problems():
    options = Options(seed=1)
    assert Report(options).as_dict()["passed"]
    checker = Checker(EXPECTED, repeats_allowed=False)
    broken = [
        Report(options, violations=checker.missing()),
        Report(options, hanging=["predictions 0: read to 3 of 4"]),
        Report(options, uncommitted={2: 7}),
        Report(options, exits=[Exit("worker-0", 1, "nothing", right=False, said="")]),
        Report(options, repeats=4, repeats_bound=3),
    ]
    assert [report.as_dict()["passed"] for report in broken] == [False] * len(broken)
    assert Report(options, repeats=3, repeats_bound=3).as_dict()["passed"]


def test_recovery_counts_only_what_another_process_wrote():
    kill = Kill("worker-0", 10.0, 5, (0,), floors={("predictions", 0): 40})
    before = Sighting(10.5, ("predictions", 0), 39)
    elsewhere = Sighting(11.0, ("predictions", 1), 99)
    after = Sighting(16.5, ("predictions", 0), 40)
    assert recovery(kill, [before, elsewhere, after]) == 6.5
    assert recovery(kill, [before, elsewhere]) is None


def test_a_seed_decides_everything_that_is_drawn():
    assert draw(7, 20, 10.0, 3) == draw(7, 20, 10.0, 3) != draw(8, 20, 10.0, 3)
    assert Stream(7, 500).expected == Stream(7, 500).expected != Stream(8, 500).expected


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_of_fault_comes_in_time(seed):
    faults = draw(seed, 8, 10.0, 3)
    assert {fault.kind for fault in faults} == set(KINDS)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert faults[-1].at < duration(faults, 10.0)


def test_the_stream_has_a_little_of_each_poison_in_every_partition():
    stream = Stream(1, 20_000)
    counts = dict.fromkeys((PREDICTION, "malformed", "inference_failed"), 0)
    for expected in stream.expected:
        counts[expected.outcome] += 1
    assert 50 < counts["malformed"] < 150
    assert 50 < counts["inference_failed"] < 150
    assert {expected.partition for expected in stream.expected} == set(range(PARTITIONS))
