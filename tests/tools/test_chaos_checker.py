"""The judge of the chaos runs must itself complain of each broken promise, and of nothing else."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace

import pytest

from schemas import MalformedMessage, decode_record
from tests.chaos import records
from tests.chaos.checker import PREDICTION, Answer, Checker, Deleted, Expected, Skip, Topic, own_headers
from tests.chaos.faults import ROWS, WITHOUT_TOPICS, Kind, draw, duration
from tests.chaos.injector import Kill
from tests.chaos.journal import Journal
from tests.chaos.reader import Sighting
from tests.chaos.report import Options, Report, recovery
from tests.chaos.worker_log import read_events
from tests.chaos.workers import Exit
from virnucpro_core.sequence.validation import InvalidSequence, validate

TRACE = (("trace", b"1"),)
EXPECTED = [
    Expected(0, PREDICTION, offset=0),
    Expected(1, PREDICTION, offset=0, headers=TRACE),
    Expected(0, "malformed", offset=1, value=b"junk"),
    Expected(0, PREDICTION, offset=2),
    Expected(1, "inference_failed", offset=1, value=b"bad"),
    Expected(0, PREDICTION, offset=3),
]


def answer_to(number: int, expected: Expected) -> Answer:
    """What a service that keeps its promise writes; offsets with the gaps that transactions leave."""
    topic: Topic = "predictions" if expected.outcome == PREDICTION else "dead letters"
    return Answer(
        number,
        topic,
        expected.partition,
        2 * number,
        expected.outcome,
        (expected.partition, expected.offset),
        own_headers(expected.outcome),
        expected.headers,
        expected.value,
    )


def right_answers() -> list[Answer]:
    return [answer_to(number, expected) for number, expected in enumerate(EXPECTED)]


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
    both = replace(answers[0], topic="dead letters", offset=90, outcome="inference_failed")
    assert complaints([*answers, both]) == ["both_topics"]
    assert complaints([*answers, both], repeats_allowed=True) == ["both_topics"]


@pytest.mark.parametrize(
    ("number", "outcome", "kind"),
    [
        (0, "quarantined", "good_quarantined"),
        (0, "inference_failed", "good_dead_lettered"),
        (2, "unknown_schema", "wrong_answer"),
        (4, "quarantined", "wrong_answer"),
        (4, PREDICTION, "wrong_answer"),
    ],
)
def test_another_answer_than_expected(number, outcome, kind):
    answers = right_answers()
    answers[number] = replace(
        answers[number],
        topic="predictions" if outcome == PREDICTION else "dead letters",
        outcome=outcome,
        own=own_headers(outcome),
    )
    assert complaints(answers) == [kind]


def test_a_dead_letter_without_the_raw_value():
    answers = right_answers()
    answers[2] = replace(answers[2], value=b"jun")
    assert complaints(answers) == ["wrong_answer"]


@pytest.mark.parametrize("source", [None, (0, 1), (1, 0)])
def test_another_source_than_its_messages(source):
    answers = right_answers()
    answers[0] = replace(answers[0], source=source)
    assert complaints(answers) == ["wrong_source"]


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (1, {"headers": ()}),
        (1, {"headers": (*TRACE, *TRACE)}),
        (0, {"headers": TRACE}),
        (0, {"own": own_headers("malformed")}),
        (2, {"own": ()}),
        (2, {"own": own_headers("quarantined")}),
    ],
)
def test_other_headers_than_expected(number, change):
    answers = right_answers()
    answers[number] = replace(answers[number], **change)
    assert complaints(answers) == ["wrong_headers"]


def test_another_partition_than_the_inputs():
    answers = right_answers()
    answers[5] = replace(answers[5], partition=1)
    assert complaints(answers) == ["wrong_partition"]


@pytest.mark.parametrize("number", [-1, len(EXPECTED)])
def test_an_answer_to_nothing(number):
    assert complaints([*right_answers(), replace(right_answers()[0], number=number)]) == ["unknown"]


def test_a_complaint_names_its_place():
    checker = Checker(EXPECTED, repeats_allowed=False)
    answer = right_answers()[3]
    checker.see(answer)
    (violation,) = checker.see(replace(answer, offset=77))
    assert str(violation) == "twice: record 3 at predictions 0@77, after predictions 0@6"


# ---- what was deleted ---------------------------------------------------------------------------------------------

CUT = [Expected(0, PREDICTION, offset=offset) for offset in range(8)]
"""Of this partition, offsets 2 to 4 are deleted before they are read."""
BEFORE = {(0, 0): 5}


def after(expected: list[Expected], unanswered: set[int], deleted: Deleted, **options: bool) -> list[str]:
    """What is complained of when all but these are answered."""
    checker = Checker(expected, repeats_allowed=options.get("repeats_allowed", False))
    for number, each in enumerate(expected):
        if number not in unanswered:
            assert checker.see(answer_to(number, each)) == []
    found = sorted(Counter(violation.kind for violation in checker.missing(deleted)).items())
    assert checker.skipped == len(unanswered) - sum(
        count for kind, count in found if kind in ("lost", "skipped_without_event")
    )
    return [f"{kind} {count}" for kind, count in found]


def test_what_was_deleted_and_reported_is_not_missed():
    assert after(CUT, {2, 3, 4}, Deleted(BEFORE, [Skip(0, 0, 2, 4)])) == []
    assert after(CUT, {2, 3, 4}, Deleted(BEFORE, [Skip(0, 0, 3, 4), Skip(0, 0, 2, 3)])) == []


def test_what_was_deleted_and_not_reported_is_skipped_without_an_event():
    assert after(CUT, {2, 3, 4}, Deleted(BEFORE)) == ["skipped_without_event 3"]
    assert after(CUT, {2, 3, 4}, Deleted(BEFORE, [Skip(0, 0, 3, 3)])) == ["skipped_without_event 2"]
    assert after(CUT, {2, 3, 4}, Deleted(BEFORE, [Skip(0, 1, 2, 4)])) == [
        "not_skipped 1",
        "skipped_without_event 3",
    ]


def test_what_was_not_deleted_is_lost_whatever_is_reported():
    assert after(CUT, {2, 3, 4, 5}, Deleted(BEFORE, [Skip(0, 0, 2, 4)])) == ["lost 1"]
    assert after(CUT, {2, 3, 4, 5}, Deleted(BEFORE, [Skip(0, 0, 2, 5)])) == ["lost 1", "not_skipped 1"]


def test_what_was_reported_as_skipped_must_not_be_answered():
    reported = Deleted(BEFORE, [Skip(0, 0, 1, 4)])
    assert after(CUT, {2, 3, 4}, reported) == ["not_skipped 1"]
    assert after(CUT, {2, 3, 4}, reported, repeats_allowed=True) == []


RECREATED = [
    *(Expected(0, PREDICTION, offset=offset) for offset in range(4)),
    *(Expected(0, PREDICTION, incarnation=1, offset=offset) for offset in range(3)),
]


def test_the_end_of_a_topic_may_go_with_it_if_that_is_reported():
    assert after(RECREATED, {2, 3}, Deleted(incarnations=2, reported=frozenset({0}))) == []
    assert after(RECREATED, {2, 3}, Deleted(incarnations=2)) == ["skipped_without_event 2"]


def test_of_a_topic_that_went_only_the_end_may_be_missing():
    assert after(RECREATED, {1, 3}, Deleted(incarnations=2, reported=frozenset({0}))) == ["lost 1"]


def test_nothing_of_the_new_topic_may_be_missing():
    reported = Deleted(incarnations=2, reported=frozenset({0, 1}))
    assert after(RECREATED, {4}, reported) == ["lost 1"]
    assert after(RECREATED, {6}, reported) == ["lost 1"]


def test_offsets_of_the_old_topic_say_nothing_of_the_new_one():
    deleted = Deleted({(0, 0): 3}, [Skip(0, 0, 1, 2)], incarnations=2)
    assert after(RECREATED, {1, 2}, deleted) == []
    assert after(RECREATED, {4, 5}, replace(deleted, skips=())) == ["lost 2"]


# ---- the journal, and what workers log ----------------------------------------------------------------------------


def test_the_journal_knows_the_offset_of_each_record():
    journal = Journal(2)
    numbers = [journal.add(Expected(partition, PREDICTION)) for partition in (0, 1, 0)]
    journal.recreated()
    numbers += [journal.add(Expected(partition, PREDICTION)) for partition in (0, 0)]
    assert numbers == [0, 1, 2, 3, 4]
    places = [(each.incarnation, each.partition, each.offset) for each in journal.expected]
    assert places == [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)]


def test_events_belong_to_the_topic_that_was_there(tmp_path, monkeypatch):
    journal = Journal(1)
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.0)  # 2027-01-15T08:00:00Z
    journal.recreated()
    journal.cut[1, 0] = 5
    lines = [
        {"event": "records_skipped", "partition": 0, "from": 1, "to": 2, "timestamp": "2027-01-15T07:59:50Z"},
        {"event": "topic_recreated", "topic": "in", "timestamp": "2027-01-15T08:00:01.5Z"},
        {"event": "topic_recreated", "topic": "out", "timestamp": "2027-01-15T07:00:01.5Z"},
        {"event": "records_skipped", "partition": 0, "from": 3, "to": 4, "timestamp": "2027-01-15T08:00:09Z"},
        {"event": "breaker_opened"},
    ]
    log = tmp_path / "worker-0.log"
    text = "".join(json.dumps(line) + "\n" for line in lines)
    log.write_text("Traceback\n" + text[:-1] + '\n{"event": "records_skip{"event": "ready"}\n')
    events = read_events([log], "in")
    assert journal.deleted(events) == Deleted(
        {(1, 0): 5}, [Skip(0, 0, 1, 2), Skip(1, 0, 3, 4)], incarnations=2, reported=frozenset({0})
    )
    assert len(events.breaker_opened) == 1
    assert events.unreadable == 1


def test_a_report_passes_only_without_problems():
    options = Options(seed=1)
    assert Report(options).as_dict()["passed"]
    checker = Checker(EXPECTED, repeats_allowed=False)
    broken = [
        Report(options, violations=checker.missing()),
        Report(options, hanging=["predictions 0: read to 3 of 4"]),
        Report(options, uncommitted={2: 7}),
        Report(options, breaker_opened=["worker-0: breaker_opened"]),
        Report(options, exits=[Exit("worker-0", 1, "nothing", right=False, said="")]),
        Report(options, repeats=4, repeats_bound=3),
    ]
    assert [report.as_dict()["passed"] for report in broken] == [False] * len(broken)
    assert Report(options, repeats=3, repeats_bound=3).as_dict()["passed"]


def test_a_report_counts_each_kind_of_broken_promise():
    quarantined = replace(
        right_answers()[0], topic="dead letters", outcome="quarantined", own=own_headers("quarantined")
    )
    refused = replace(
        right_answers()[3], topic="dead letters", outcome="malformed", own=own_headers("malformed")
    )
    checker = Checker(EXPECTED, repeats_allowed=False)
    seen = [quarantined, right_answers()[5], refused, right_answers()[1], right_answers()[1]]
    seen.append(replace(right_answers()[2], headers=TRACE))
    violations = [violation for answer in seen for violation in checker.see(answer)]
    violations += checker.missing(Deleted({(0, 1): 2}))
    report = Report(Options(seed=1), violations=violations, hanging=["x"]).as_dict()
    counts = ("twice", "good_quarantined", "good_dead_lettered", "skipped_without_event", "other_violations")
    assert {name: report[name] for name in counts} == dict.fromkeys(counts, 1)
    assert report["hanging"] == 1
    assert not report["passed"]


def test_recovery_counts_only_what_another_process_wrote():
    kill = Kill("worker-0", 10.0, 5, (0,), floors={("predictions", 0): 40})
    recreated = Sighting(9.0, ("predictions", 0), 90)  # of the topic that was there before
    before = Sighting(10.5, ("predictions", 0), 39)
    elsewhere = Sighting(11.0, ("predictions", 1), 99)
    after = Sighting(16.5, ("predictions", 0), 40)
    assert recovery(kill, [recreated, before, elsewhere, after]) == 6.5
    assert recovery(kill, [before, elsewhere]) is None


# ---- what is drawn ------------------------------------------------------------------------------------------------


def test_a_seed_decides_everything_that_is_drawn():
    assert draw(7, 20, 10.0, 3) == draw(7, 20, 10.0, 3) != draw(8, 20, 10.0, 3)
    drawn = [[records.ordinary(n, random.Random(seed)) for n in range(50)] for seed in (7, 7)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kinds", [tuple(Kind), WITHOUT_TOPICS])
def test_every_kind_of_fault_comes_in_time(seed, kinds):
    faults = draw(seed, len(kinds) + 4, 10.0, 3, kinds)
    assert {fault.kind for fault in faults} == set(kinds)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert faults[-1].at < duration(faults, 10.0)


def test_every_kind_has_its_row():
    assert set(ROWS) == set(Kind)


def outcome_of(record: records.Record) -> str:
    """What the service makes of a message: its own decoder and check, and the model that fails when it is told to."""
    try:
        decoded = decode_record(record.value)
        validate(decoded.id, decoded.sequence, 1_000_000)
    except MalformedMessage as error:
        return error.reason.value
    except InvalidSequence as error:
        return error.kind
    return "inference_failed" if decoded.id.endswith("!fails") else PREDICTION


def test_about_a_hundredth_of_the_records_is_poison_of_either_kind():
    rng = random.Random(1)
    counts = Counter(records.ordinary(number, rng).outcome for number in range(20_000))
    assert counts.keys() == {PREDICTION, "malformed", "inference_failed"}
    assert 50 < counts["malformed"] < 150
    assert 50 < counts["inference_failed"] < 150


@pytest.mark.parametrize(
    ("maker", "count"),
    [
        (records.ordinary, 400),
        (records.junk, 400),
        (records.odd_headers, 8),
        (records.large, 2),
        (records.unpacks, 2),
    ],
)
def test_each_record_is_what_it_says(maker, count):
    rng = random.Random(2)
    made = [maker(number, rng) for number in range(count)]
    assert [record.outcome for record in made] == [outcome_of(record) for record in made]


def test_junk_is_mostly_what_says_nothing_about_the_service():
    rng = random.Random(3)
    counts = Counter(records.junk(number, rng).outcome for number in range(2000))
    assert counts.keys() == {"malformed", "invalid_nucleotides", "unknown_schema"}
    assert counts["unknown_schema"] < 200


def test_of_odd_headers_the_answer_keeps_what_is_not_the_services():
    raw, many, forged, odd = (records.odd_headers(number, random.Random(4)) for number in range(4))
    assert (raw.headers, raw.kept_headers, b"\xff\xfe" in raw.raw_headers) == (None, (), True)
    assert many.headers == many.kept_headers
    assert len(many.kept_headers) == 300
    assert forged.kept_headers == TRACE
    assert odd.headers == odd.kept_headers
