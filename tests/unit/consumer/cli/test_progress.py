"""Progress bars show themselves on a terminal only, and count everywhere."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stderr

import pytest

from consumer.cli.files.inputs import Size
from consumer.cli.progress import byte_bar, epoch_bar, record_bar, waiting
from consumer.cli.verbosity import Verbosity, set_verbosity


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[io.StringIO, Terminal], ids=["file", "terminal"])
def stderr(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream: io.StringIO = request.param()
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    return stream


def is_shown(stderr: io.StringIO, *texts: str) -> None:
    """All of it on a terminal, and nothing at all elsewhere."""
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stderr.getvalue())
    assert [text in shown for text in texts] == [stderr.isatty()] * len(texts)
    assert bool(stderr.getvalue()) is stderr.isatty()


@pytest.mark.parametrize(("size", "counted"), [(Size(2, 1300), "of 2 records"), (None, "2 records")])
def test_records_and_bases(stderr, size, counted):
    with redirect_stderr(stderr), record_bar("scoring", size) as meter:
        meter.add(1000)
        meter.add(300)
    assert (meter.records, meter.bases) == (2, 1300)
    is_shown(stderr, "scoring", counted, "1,300 bases")


def test_bytes(stderr):
    with redirect_stderr(stderr), byte_bar("importing", 2_000_000) as done:
        done(1_500_000)
        done(500_000)
    is_shown(stderr, "importing", "2.0/2.0 MB")


def test_what_cannot_be_counted(stderr):
    with redirect_stderr(stderr), waiting("loading the model nano"):
        pass
    is_shown(stderr, "loading the model nano", "0:00:00")


def test_epochs_with_their_loss(stderr):
    with redirect_stderr(stderr), epoch_bar(2) as done:
        done(1, 0.75)
        done(2, 0.5)
    is_shown(stderr, "training, epoch", "2/2", "loss 0.500")


def test_quiet_shows_no_bar_on_a_terminal_either(monkeypatch):
    stderr = Terminal()
    set_verbosity(Verbosity.QUIET)
    try:
        with redirect_stderr(stderr), record_bar("scoring", None) as meter:
            meter.add(1000)
    finally:
        set_verbosity(Verbosity.NORMAL)
    assert stderr.getvalue() == ""


@pytest.mark.parametrize("columns", ["12", "30", "79"])
def test_a_bar_is_never_wider_than_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    stderr = Terminal()
    with redirect_stderr(stderr), record_bar("scoring", Size(2_000_000, 1_300_000_000)) as meter:
        meter.add(1_000_000_000)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stderr.getvalue()).replace("\r", "\n").split("\n")
    assert max(map(len, lines)) <= int(columns)
    assert "of 2,000,000" in stderr.getvalue() or columns == "12"


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    found = {}
    for value in (None, "1"):
        if value:
            monkeypatch.setenv("NO_COLOR", value)
        else:
            monkeypatch.delenv("NO_COLOR", raising=False)
        stderr = Terminal()
        with redirect_stderr(stderr), record_bar("scoring", Size(2, 1300)) as meter:
            meter.add(1000)
        found[value] = bool(re.search(r"\x1b\[[0-9;]*3[0-9]", stderr.getvalue()))
    assert found == {None: True, "1": False}


def test_an_error_within_ends_the_bar_and_passes(stderr):
    with redirect_stderr(stderr), pytest.raises(KeyError), record_bar("scoring", None):
        raise KeyError
