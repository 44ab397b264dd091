"""Signals that are held while a process is started."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from consumer.cli.streams import signals_held

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    pass


@contextmanager
def handled(number: signal.Signals, handler: object) -> Iterator[None]:
    before = signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.signal(number, before)


def stop(number: int, _: object) -> None:
    raise Stopped(number)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_takes_effect_when_the_block_ends(number: signal.Signals) -> None:
    seen = []

    def start() -> None:
        with signals_held():
            signal.raise_signal(number)
            seen.append("the rest of the block")
        seen.append("what follows")

    with handled(number, stop), pytest.raises(Stopped) as stopped:
        start()
    assert seen == ["the rest of the block"]
    assert stopped.value.args == (number,)


@pytest.mark.parametrize("number", STOPPING)
def test_an_error_of_the_block_does_not_lose_the_signal(number: signal.Signals) -> None:
    def start() -> None:
        with signals_held():
            signal.raise_signal(number)
            raise OSError

    with handled(number, stop), pytest.raises(Stopped) as stopped:
        start()
    assert isinstance(stopped.value.__context__, OSError)


@pytest.mark.parametrize("number", STOPPING)
def test_what_is_ignored_stays_so_in_a_process_that_is_started(number: signal.Signals) -> None:
    look = f"import signal; print(signal.getsignal({int(number)}) is signal.SIG_IGN)"
    with handled(number, signal.SIG_IGN), signals_held():
        signal.raise_signal(number)
        assert subprocess.check_output([sys.executable, "-c", look], text=True) == "True\n"
