"""Commands under odd conditions: other locales, streams that are closed or full, terminals, signals."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.models_fixture import random_bundle
from tests.support.warm_commands import WarmCommands

VIRNUCPRO = (sys.executable, "-m", "consumer.cli.app")
IDS = ["ümläut-Ωμέγα-病毒", "a\x1b]0;PWNED\x07b", "abc\u202etxt", "z\x9b2Jz", 'q"uo"te']
LOCALES = {
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    "C without UTF-8 mode": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "ASCII streams": {"PYTHONIOENCODING": "ascii"},
    "Latin-1 streams without UTF-8 mode": {"PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"},
}


def environment(**extra: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("VIRNUCPRO_", "PYTHON", "LC_", "LANG"))
    }
    return kept | {"COLUMNS": "80", "OMP_NUM_THREADS": "1"} | extra


def virnucpro(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    options = {"env": environment(), "stdin": subprocess.DEVNULL} | options
    return subprocess.run([*VIRNUCPRO, *arguments], capture_output=True, timeout=120, check=False, **options)


def redirected(redirection: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", *VIRNUCPRO, *arguments]
    return subprocess.run(shell, capture_output=True, timeout=120, check=False, env=environment())


@pytest.fixture
def reads(tmp_path: Path) -> Path:
    path = tmp_path / "läsningar.fasta"
    path.write_text("".join(f">{name}\nGCATTCGACCGA\n" for name in IDS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(random_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path)


@pytest.mark.parametrize("locale", LOCALES)
def test_text_is_utf8_whatever_the_locale_says(reads: Path, locale: str) -> None:
    done = virnucpro("frames", str(reads), env=environment(**LOCALES[locale]))
    assert (done.returncode, done.stderr) == (0, b"")
    assert {json.loads(line)["record"] for line in done.stdout.decode().splitlines()} == set(IDS)
    missing = virnucpro("frames", str(reads.with_name("inte_här.fasta")), env=environment(**LOCALES[locale]))
    assert "inte_här.fasta cannot be read" in missing.stderr.decode()
    assert missing.returncode == 1


@pytest.mark.parametrize("locale", LOCALES)
def test_help_prints_in_every_locale(locale: str) -> None:
    done = virnucpro("predict", "--help", env=environment(**LOCALES[locale]))
    assert (done.returncode, done.stderr) == (0, b"")
    assert "FASTA" in done.stdout.decode()


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">&-", 1, "Bad file descriptor"),
        ("> /dev/full", 1, "No space left on device"),
        ("2>&-", 0, ""),
        ("2> /dev/full", 0, ""),
        ("<&-", 0, ""),
        ("<&- >&- 2>&-", 1, ""),
    ],
)
def test_streams_that_are_closed_or_full(reads: Path, redirection: str, code: int, said: str) -> None:
    for arguments in (["frames", str(reads)], ["models", "list"], ["--help"], ["version"]):
        done = redirected(redirection, *arguments)
        error = done.stderr.decode()
        assert "Traceback" not in error
        assert "Exception ignored" not in error
        assert said in error
        assert done.returncode == code, (arguments, error)
        assert error.count("\n") == bool(said)


def test_a_closed_standard_input_is_an_error_for_who_reads_it() -> None:
    done = redirected("<&-", "frames", "-")
    assert done.returncode == 1
    assert done.stderr.decode().startswith("virnucpro: error: standard input cannot be read: ")


def test_a_file_does_not_take_the_number_of_a_closed_stream(reads: Path, tmp_path: Path, bundle: str) -> None:
    output = tmp_path / "out.tsv"
    done = redirected(
        "<&- >&- 2>&-", "predict", str(reads), "-o", str(output), "--model", bundle, "--device", "cpu"
    )
    assert done.returncode == 0
    lines = output.read_text(encoding="utf-8").split("\n")
    assert [line.split("\t")[0] for line in lines] == ["id", *IDS, ""]


def on_terminal(*arguments: str, **variables: str) -> bytes:
    """What a command writes to a terminal that both its outputs are."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*VIRNUCPRO, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(TERM="xterm", **variables),
    ) as process:
        os.close(theirs)
        written = b""
        with suppress(OSError):  # the terminal's end
            while data := os.read(ours, 65536):
                written += data
        os.close(ours)
        assert process.wait(120) == 0
    return written


def test_a_terminal_gets_ids_escaped(reads: Path, bundle: str) -> None:
    for arguments in (
        ["predict", str(reads), "--model", bundle, "--device", "cpu"],
        ["predict", str(reads), "--model", bundle, "--device", "cpu", "--format", "jsonl"],
        ["frames", str(reads)],
    ):
        written = on_terminal(*arguments)
        for harmful in ("\x1b]0;PWNED", "\u202e", "\x9b"):
            assert harmful.encode() not in written
        assert "ümläut-Ωμέγα-病毒".encode() in written
        assert b"a\\u001b]0;PWNED\\u0007b" in written


@pytest.mark.parametrize("arguments", [["predict"], ["predict", "--format", "virnucpro"], ["embed"]])
def test_a_disk_that_takes_no_more_is_blamed_and_leaves_nothing(
    tmp_path: Path, bundle: str, arguments: list[str]
) -> None:
    path = tmp_path / "many.fasta"
    path.write_text("".join(f">r{number}\nGCATTCGACCGA\n" for number in range(400)))
    target = tmp_path / "results"
    before = set(tmp_path.rglob("*"))
    # A limit on the size of files: the device /dev/full cannot stand for a regular file.
    shell = ["sh", "-c", 'ulimit -f 4; exec "$@"', "sh", *VIRNUCPRO, *arguments, str(path), "-o", str(target)]
    done = subprocess.run(
        [*shell, "--model", bundle, "--device", "cpu"],
        capture_output=True,
        timeout=120,
        check=False,
        # Nor may Python's own caches be cut.
        env=environment(VIRNUCPRO_SELF_TEST="off", PYTHONDONTWRITEBYTECODE="1"),
    )
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"virnucpro: error: cannot write {target}")
    assert set(tmp_path.rglob("*")) == before


@pytest.fixture
def genome(tmp_path: Path) -> Path:
    path = tmp_path / "genome.fasta"
    path.write_text(">g\n" + "GCATTCGACCGA" * 800_000 + "\n")
    return path


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
@pytest.mark.parametrize("command", ["tsv", "virnucpro", "embed"])
def test_a_signal_leaves_no_files_and_no_folders(
    warm: WarmCommands, genome: Path, bundle: str, command: str, number: signal.Signals, code: int
) -> None:
    target = genome.parent / "results" / "inner"
    if command == "embed":
        target.parent.mkdir()
        arguments = ["embed", str(genome), "-o", str(target)]
    elif command == "tsv":
        target.parent.mkdir()
        arguments = ["predict", str(genome), "-o", str(target)]
    else:
        arguments = ["predict", str(genome), "--format", "virnucpro", "-o", str(target)]
    before = set(genome.parent.rglob("*"))
    with subprocess.Popen(
        [str(warm.program), *arguments, "--model", bundle, "--device", "cpu"],
        env=environment(VIRNUCPRO_SELF_TEST="off", VIRNUCPRO_TOKEN_BUDGET="4000"),
        stderr=subprocess.PIPE,
    ) as process:
        until(lambda: any(path.name.endswith(".part") for path in genome.parent.rglob("*")))
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
    assert process.returncode == code, error.decode()
    assert b"Traceback" not in error
    assert set(genome.parent.rglob("*")) == before


TURNED = """
import os, signal, sys, time
from consumer.cli import app

def run():
    try:
        os.kill(os.getpid(), signal.{name})
        time.sleep(60)
    except BaseException as stop:
        raise {error} from stop

app.run = run
app.main()
"""


@pytest.mark.parametrize(
    "error", ["SystemError('of a library')", "SystemExit(1)", "OSError('in the cleanup')"]
)
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_has_its_exit_code_whatever_a_library_makes_of_it(name: str, code: int, error: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TURNED.format(name=name, error=error)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, b"")


TIDYING = """
import atexit, os, signal, time
from consumer.cli import app

def tidy():
    os.kill(os.getpid(), signal.{name})
    time.sleep(60)

atexit.register(tidy)
app.run = lambda: 0
app.main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_while_python_tidies_up_is_no_traceback(name: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TIDYING.format(name=name)], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (code, b"")


INTERRUPTED_IMPORT = """
import sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "consumer.cli.options":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
from consumer.cli.entry import main
main()
"""


def test_ctrl_c_before_the_command_line_is_imported_is_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (130, b"")


def test_predict_ends_quietly_when_its_reader_goes_away(tmp_path: Path, bundle: str) -> None:
    """The reader takes one line; the rest is more than a pipe holds."""
    path = tmp_path / "many.fasta"
    path.write_text("".join(f">record_{number}_{'x' * 900}\nGCATTCGACCGA\n" for number in range(300)))
    done = subprocess.run(
        [
            "sh",
            "-c",
            '"$@" | head -1',
            "sh",
            *VIRNUCPRO,
            "predict",
            str(path),
            "--model",
            bundle,
            "--device",
            "cpu",
        ],
        capture_output=True,
        timeout=120,
        check=True,
        env=environment(VIRNUCPRO_SELF_TEST="off"),
    )
    assert done.stdout.startswith(b"id\tlength\t")
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


@pytest.mark.parametrize(
    "locale", [{}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, {"NO_COLOR": "1"}], ids=str
)
def test_a_bar_is_on_the_terminal_and_never_in_a_file(
    reads: Path, bundle: str, tmp_path: Path, locale: dict[str, str]
) -> None:
    out = tmp_path / "out.tsv"
    arguments = ["predict", str(reads), "--model", bundle, "--device", "cpu", "-o", str(out)]
    shown = on_terminal(*arguments, **locale)
    assert b"scoring" in shown
    assert b"scored 5 records" in shown
    assert b"Traceback" not in shown
    assert b"\x1b" not in out.read_bytes().replace(b"a\x1b]0;PWNED\x07b", b"")


def test_quiet_shows_nothing_on_a_terminal_nor_elsewhere(reads: Path, bundle: str, tmp_path: Path) -> None:
    arguments = ["predict", str(reads), "--model", bundle, "--device", "cpu", "-o", str(tmp_path / "out.tsv")]
    quiet = virnucpro(*arguments, "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, b"", b"")
    assert on_terminal(*arguments, "--quiet") == b""
