"""The charts' figures: nothing that happened is lost or counted twice while it is within the window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consumer.ops.history import SLOT_S, SLOTS, History

steps = st.lists(st.tuples(st.integers(0, 3 * SLOT_S), st.integers(0, 100), st.booleans()), max_size=60)


@given(steps)
def test_the_slots_add_up_to_what_happened(happened):
    now, history = 1000.0, History(1000.0)
    for seconds, tokens, dead in happened:
        now += seconds
        history.add_answer(now, tokens, dead)
        history.add_batch(now, 0.5)
    now += SLOT_S
    view = history.view(now)
    assert sum(view.records) == len(happened)
    assert sum(view.tokens) == sum(tokens for _, tokens, _ in happened)
    assert sum(view.dead_letters) == sum(dead for *_, dead in happened)
    assert sum(view.busy_s) == 0.5 * len(happened)
    assert len(view.records) == (now // SLOT_S) - (1000 // SLOT_S)


@given(steps, st.integers(0, 10 * SLOTS * SLOT_S))
def test_it_is_bounded_and_empty_after_its_window(happened, idle):
    now, history = 50.0, History(50.0)
    for seconds, tokens, dead in happened:
        now += seconds
        history.add_answer(now, tokens, dead)
        history.set_lag(now, 3, 1.0)
    view = history.view(now + idle)
    assert len({len(series) for series in (view.records, view.tokens, view.busy_s, view.lag_s)}) == 1
    assert len(view.records) <= SLOTS
    assert 0 <= view.ended_s < SLOT_S
    if idle > (SLOTS + 2) * SLOT_S:
        assert not any(view.records)
        assert set(view.lag_records) == {None}, "a lag that was not measured is unknown, not 0"
