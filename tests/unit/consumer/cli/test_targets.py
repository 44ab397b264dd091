"""Outputs that cannot be written, or that are inputs, are refused before any work."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from consumer.cli.app import run
from consumer.cli.error_messages import UserError
from consumer.cli.files.outputs import checked_outputs
from consumer.cli.files.targets import answers_target, check_file, check_folder, check_new_folder, writing
from virnucpro_core.evaluation.plots import PLOT_FILES
from virnucpro_core.scoring.report import Format

INPUT = ">a\nACGTTGCA\n"
# Each command line with an input {input} that must survive and an option whose file {output} is written.
COMMANDS = {
    "predict -o": "predict {input} -o {output}",
    "predict jsonl -o": "predict {input} --format jsonl -o {output}",
    "embed -o": "embed {input} -o {output}",
    "evaluate --report": "evaluate {input} --labels other --report {output}",
    "evaluate --report labels": "evaluate other --labels {input} --report {output}",
    "train-head --report": "train-head {input} --labels other -o new --id x --report {output}",
    "train-head --report labels": "train-head other --labels {input} -o new --id x --report {output}",
    "train-head --report compared": "train-head other --labels other --compare {input} -o new --id x --report {output}",
    "train-head --report head": "train-head other --labels other --head {input} -o new --id x --report {output}",
}
INTO_FOLDERS = {
    "predict virnucpro": ("predict {input} --format virnucpro -o {folder}", "prediction_results.txt"),
    "predict virnucpro chunks": (
        "predict {input} --format virnucpro -o {folder}",
        "prediction_results_highestscore.csv",
    ),
    **{
        f"evaluate --plots {name}": ("evaluate other --labels {input} --plots {folder}", name)
        for name in PLOT_FILES
    },
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reads.fasta").write_text(INPUT)
    (tmp_path / "other").write_text(INPUT)
    return tmp_path


def another_name(folder: Path, kind: str) -> str:
    """The input by another name."""
    match kind:
        case "same":
            return "reads.fasta"
        case "absolute":
            return str(folder / "reads.fasta")
        case "by way of a folder":
            (folder / "sub").mkdir()
            return "sub/../reads.fasta"
        case "symbolic link":
            (folder / "link").symlink_to("reads.fasta")
            return "link"
        case "link to a link":
            (folder / "link").symlink_to("reads.fasta")
            (folder / "second").symlink_to("link")
            return "second"
        case "linked folder":
            (folder / "same_folder").symlink_to(folder, target_is_directory=True)
            return "same_folder/reads.fasta"
    (folder / "hard").hardlink_to(folder / "reads.fasta")
    return "hard"


NAMES = (
    "same",
    "absolute",
    "by way of a folder",
    "symbolic link",
    "link to a link",
    "linked folder",
    "hard link",
)


def predict_target(sources: list[str], form: Format, output: Path) -> object:
    return checked_outputs(sources[0], form, output, {}, "verdict", 500).target


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    return line


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_output_is_never_the_input_by_whatever_name(command, kind, folder, capsys):
    name = another_name(folder, kind)
    for read, written in (("reads.fasta", name), (name, "reads.fasta")):
        line = refusal(command.format(input=read, output=written).split(), capsys)
        assert line.startswith(
            f"virnucpro: error: the output {written} is the input {read}: name another file with --"
        )
    assert (folder / "reads.fasta").read_text() == INPUT
    assert not (folder / "new").exists()


@pytest.mark.parametrize("link", [os.link, os.symlink], ids=["hard link", "symbolic link"])
@pytest.mark.parametrize(("command", "name"), INTO_FOLDERS.values(), ids=INTO_FOLDERS)
def test_no_file_in_an_output_folder_is_the_input(command, name, link, folder, capsys):
    (folder / "out").mkdir()
    link(folder / "reads.fasta", folder / "out" / name)
    for read in ("reads.fasta", f"out/{name}"):
        line = refusal(command.format(input=read, folder="out").split(), capsys)
        assert f"the output out/{name} is the input {read}" in line
    assert (folder / "reads.fasta").read_text() == INPUT


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "-", "-o", "reads.fasta"], "the output reads.fasta is the input standard input"),
        (["embed", "-", "-o", "reads.fasta"], "the output reads.fasta is the input standard input"),
    ],
    ids=["predict", "embed"],
)
def test_the_file_behind_standard_input_is_an_input_too(arguments, said, folder):
    with (folder / "reads.fasta").open() as stdin:
        done = subprocess.run(
            [sys.executable, "-m", "consumer.cli.app", *arguments],
            stdin=stdin,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert (folder / "reads.fasta").read_text() == INPUT


def test_standard_output_is_not_appended_to_the_input(folder):
    with (folder / "reads.fasta").open("a") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "consumer.cli.app", "predict", "reads.fasta"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])},
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert "standard output goes to the input reads.fasta: send it to another file" in done.stderr
    assert (folder / "reads.fasta").read_text() == INPUT


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ("predict reads.fasta --bed other", "other"),
        ("predict reads.fasta -o new --bed /dev/{stream}", "/dev/{stream}"),
        ("predict reads.fasta --format virnucpro -o .", "prediction_results.txt"),
        ("evaluate reads.fasta --labels reads.fasta --report link", "link"),
    ],
    ids=["same", "the stream's own name", "in a folder", "link"],
)
def test_the_file_of_a_stream_is_not_replaced(arguments, written, stream, folder):
    (folder / "prediction_results.txt").hardlink_to(folder / "other")
    (folder / "link").symlink_to("other")
    with (folder / "other").open("a") as file:
        done = subprocess.run(
            [sys.executable, "-m", "consumer.cli.app", *arguments.format(stream=stream).split()],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: file},
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])},
            text=True,
            timeout=60,
            check=False,
        )
    said = done.stderr or (folder / "other").read_text().removeprefix(INPUT)
    name = {"stdout": "standard output", "stderr": "standard error"}[stream]
    assert f"{written.format(stream=stream)} is the file that {name} goes to: name another file with" in said
    assert done.returncode == 2
    assert (folder / "other").read_text().startswith(INPUT)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("target", [answers_target, predict_target])
def test_names_of_standard_output_are_written_on(target, name):
    assert not isinstance(target(["reads.fasta"], "tsv", Path(name)), Path)


def test_another_file_a_device_and_what_is_not_there_are_no_inputs(folder):
    check_file(folder / "other", "--output", ["reads.fasta", "no-such-file"])
    check_file(folder / "new", "--output", ["new"])
    check_file(Path("/dev/null"), "--output", ["/dev/null"])
    check_folder(folder / "new", "--plots", ["reads.fasta"], PLOT_FILES)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("-", "--report does not write to standard output: name a file"),
        (".", ". is a folder: name a file with --report"),
        ("no/x", "the folder no does not exist: make it, or name another with --report"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(path, said):
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        check_file(Path(path), "--report", [])


def test_a_pipe_is_refused_where_the_output_has_to_be_seekable(folder):
    os.mkfifo(folder / "pipe")
    check_file(folder / "pipe", "--output", [])
    with pytest.raises(
        UserError, match="is not a regular file: name one with --output, this output cannot be piped"
    ):
        check_file(folder / "pipe", "--output", [], seekable=True)


def test_a_folder_that_cannot_be_written_is_refused(folder):
    with pytest.raises(UserError, match=r"^reads.fasta is a file: name a folder with --plots$"):
        check_folder(Path("reads.fasta"), "--plots", [], PLOT_FILES)
    with pytest.raises(UserError, match="--plots writes 5 files, not to standard output: name a folder"):
        check_folder(Path("-"), "--plots", [], PLOT_FILES)
    with pytest.raises(UserError, match=r"exists already: name a folder that does not$"):
        check_new_folder(folder)


def test_an_error_of_the_system_names_the_target_and_a_closed_pipe_passes():
    with (
        pytest.raises(
            UserError, match=r"^cannot write out.tsv: No space left on device; check the folder's rights"
        ),
        writing("out.tsv"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        pytest.raises(UserError, match=r"^cannot write pictures/roc.png: Is a directory"),
        writing("pictures"),
    ):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), ".roc.png.part", None, "pictures/roc.png")
    with pytest.raises(BrokenPipeError), writing("out.tsv"):
        raise BrokenPipeError
