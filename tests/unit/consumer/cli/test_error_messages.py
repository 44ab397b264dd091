"""Bad input on the command line: one line with the cause and the cure, an exit code, no traceback."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from consumer.cli import app as app_module
from consumer.cli.app import run
from consumer.cli.error_messages import UserError, exit_code_of, failure_in_the_log, known_errors, print_error
from consumer.config.settings import SettingsError
from consumer.errors import KafkaFatal, ServiceError
from virnucpro_core.errors import DeviceLost, OutOfMemory, SequenceFileWarning
from virnucpro_core.sequence.fasta import SequenceFileError


def _files(folder: Path) -> dict[str, Path]:
    (folder / "a_folder").mkdir()
    (folder / "empty.fasta").write_bytes(b"")
    (folder / "garbage.fasta").write_text("this is not a sequence file\n")
    (folder / "binary.fasta").write_bytes(bytes(range(128, 256)) * 10)
    (folder / "cut.fasta.gz").write_bytes(gzip.compress(b">a\n" + b"ACGTTGCA" * 5000)[:-20])
    names = ("missing.fasta", "a_folder", "empty.fasta", "garbage.fasta", "binary.fasta", "cut.fasta.gz")
    return {name: folder / name for name in names}


BAD = ["missing.fasta", "a_folder", "empty.fasta", "garbage.fasta", "binary.fasta", "cut.fasta.gz"]


# For `predict` an empty file is not a bad one: tests/integration/test_cli_outputs.py.
@pytest.mark.parametrize(
    ("command", "name"),
    [
        (command, name)
        for command in ("frames", "predict", "publish")
        for name in BAD
        if (command, name) != ("predict", "empty.fasta")
    ],
)
def test_a_bad_file(tmp_path, capsys, command, name):
    path = _files(tmp_path)[name]
    options = ["--bootstrap", "127.0.0.1:1"] if command == "publish" else []
    assert run([command, str(path), *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("virnucpro: error: ")
    assert name in line


def test_exit_codes():
    assert exit_code_of(UserError("x")) == 1
    assert exit_code_of(SequenceFileError("x")) == 1
    assert exit_code_of(ServiceError("x")) == 1
    assert exit_code_of(SettingsError("x")) == 2
    assert exit_code_of(DeviceLost("x")) == 3
    assert exit_code_of(KafkaFatal("x")) == 4


def test_an_error_without_a_message_for_users_is_not_hidden():
    assert not issubclass(KeyError, known_errors())
    assert issubclass(OutOfMemory, known_errors())


def test_several_wrong_settings_are_a_line_each(monkeypatch, capsys):
    monkeypatch.setenv("VIRNUCPRO_DEVICE_X", "1")
    monkeypatch.setenv("VIRNUCPRO_TOKEN_BUDGET", "many")
    assert run(["watch", "--bootstrap", "127.0.0.1:1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("virnucpro: error: ") for line in lines)
    assert any("VIRNUCPRO_TOKEN_BUDGET" in line for line in lines)


def test_report_never_prints_nothing(capsys):
    print_error("")
    assert capsys.readouterr().err == "virnucpro: error: unknown error\n"


@pytest.mark.parametrize(
    ("error", "lines", "code"),
    [
        (SettingsError("one\ntwo"), [("one", None), ("two", None)], 2),
        (KafkaFatal("fenced"), [("fenced", None)], 4),
        (ZeroDivisionError("a defect"), [(None, True)], 1),
        (OSError("no room"), [(None, True)], 1),
    ],
)
def test_the_end_of_a_service_is_in_its_log_with_the_exit_code(error, lines, code, capsys):
    with capture_logs() as logged, pytest.raises(SystemExit) as ended, failure_in_the_log():
        raise error
    assert ended.value.code == code
    assert [(line.get("error"), line.get("exc_info")) for line in logged] == lines
    assert {(line["event"], line["log_level"], line["exit_code"]) for line in logged} == {
        ("service_failed", "critical", code)
    }
    assert capsys.readouterr().err == ""


def test_a_file_that_is_read_twice_is_warned_of_once(monkeypatch, capsys):
    def read_twice_around_an_import(*_: object, **__: object) -> None:
        for _ in range(2):
            warnings.warn("reads.fasta is empty", SequenceFileWarning, stacklevel=1)
            warnings.filterwarnings("ignore", message="what torch does when it is imported")
        warnings.warn("more.fasta is empty", SequenceFileWarning, stacklevel=1)

    monkeypatch.setattr(app_module, "app", read_twice_around_an_import)
    assert run([]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "virnucpro: warning: reads.fasta is empty",
        "virnucpro: warning: more.fasta is empty",
    ]
