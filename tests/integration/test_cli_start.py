"""The commands for a laptop start without torch, those for files without Kafka, and every command explains itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from consumer.cli.app import run
from tests.support.models_fixture import random_bundle
from virnucpro_core import __version__

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "serve",
    "publish",
    "watch",
    "predict",
    "evaluate",
    "frames",
    "embed",
    "train-head",
    "demo",
    "version",
)
GROUPS = {
    "topics": ("ensure", "check", "describe"),
    "dlq": ("inspect", "export", "replay"),
}
HEAVY = ("torch", "esm", "safetensors")

_THEN_LIST_MODULES = """
import json, sys
from consumer.cli.app import run
code = run(json.loads(sys.argv[1]))
print(json.dumps({"code": code, "modules": sorted(sys.modules)}), file=sys.stderr)
"""


def imported_by(*arguments: str) -> tuple[int, set[str], str]:
    """Exit code, modules and stderr of a command line in a fresh process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VIRNUCPRO_")}
    done = subprocess.run(
        [sys.executable, "-c", _THEN_LIST_MODULES, json.dumps(arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    report = json.loads(done.stderr.splitlines()[-1])
    return report["code"], set(report["modules"]), done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["version"], 0),
        *(([command, "--help"], 0) for command in COMMANDS),
        (["publish", "no-such-file.fasta", "--bootstrap", "127.0.0.1:1"], 1),
        (["watch", "--bootstrap", "127.0.0.1:1", "--timeout", "0.3"], 1),
        (["frames", "consumer/data/sample.fasta"], 0),
        (["serve", "--print-config"], 0),
        (["models", "list"], 0),
        (["models", "show"], 0),
        (["models", "path", "nano"], 0),
        (["models", "import", "--help"], 0),
        (["models", "verify", "--help"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_starts_without_torch(arguments, code):
    exit_code, modules, stderr = imported_by(*arguments)
    assert exit_code == code, stderr
    assert not modules.intersection(HEAVY)


def test_help_loads_nothing_that_only_work_needs():
    _, modules, _ = imported_by("--help")
    assert not modules.intersection({"numpy", "pydantic", "tokenizers", "fastavro", "confluent_kafka"})


_RUN_ALL = """
import json, sys
from consumer.cli.app import run
for arguments in json.loads(sys.argv[1]):
    code = run(arguments)
    loaded = [name for name in sys.modules if name.startswith("confluent_kafka")]
    print(json.dumps({"command": arguments[0], "code": code, "kafka": loaded}), file=sys.stderr)
"""
WRONG_FOR_THE_SERVICE = {
    "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVER": "misspelt:9092",
    "VIRNUCPRO_KAFKA_SASL_PASWORD": "misspelt",
    "VIRNUCPRO_DELIVERY": "sometimes",
    "VIRNUCPRO_HTTP_PORT": "none",
    "VIRNUCPRO_DEVICE": "cpu",
}


def test_the_commands_for_files_load_no_kafka_and_no_service_setting_stops_them(tmp_path):
    sample, truth = (str(ROOT / "consumer" / "data" / name) for name in ("sample.fasta", "sample_truth.tsv"))
    one, features = tmp_path / "one.fasta", str(tmp_path / "features.safetensors")
    one.write_text(">a\n" + "ACGTTGCA" * 70 + "\n")
    commands = [
        ["frames", str(one)],
        ["predict", str(one)],
        ["models", "verify", "nano"],
        ["models", "show"],
        ["divergence", "--format", "json"],
        ["embed", sample, "-o", features],
        [
            "train-head",
            features,
            "--labels",
            truth,
            "-o",
            str(tmp_path / "mine"),
            "--id",
            "mine",
            "--epochs",
            "1",
        ],
        ["evaluate", sample, "--labels", truth, "--json"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", _RUN_ALL, json.dumps(commands)],
        cwd=ROOT,
        env=os.environ | WRONG_FOR_THE_SERVICE,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    found = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert found == [{"command": arguments[0], "code": 0, "kafka": []} for arguments in commands], done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_an_example(command, capsys):
    assert run([command, "--help"]) == 0
    text = capsys.readouterr().out.split("Usage:")[1].split("\n", 1)[1]
    assert "virnucpro " in text


@pytest.mark.parametrize(("group", "command"), [(group, name) for group in GROUPS for name in GROUPS[group]])
def test_help_of_a_group_names_an_example(group, command, capsys):
    assert run([group, command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"virnucpro {group} {command} " in " ".join(out.split("Example:")[1].split())


def test_what_replays_loads_no_torch():
    code = "import sys, consumer.cli.dlq.replay, consumer.cli.dlq.rule, consumer.cli.dlq.outlet; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(HEAVY).intersection(done.stdout.split())


def test_help_lists_every_command(capsys):
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f" {command} " in out for command in (*COMMANDS, *GROUPS))


def test_no_command_shows_the_help_and_is_a_usage_error(capsys):
    assert run([]) == 2
    out, err = capsys.readouterr()
    assert "Usage: virnucpro" in out + err
    assert "error" not in err


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"virnucpro-stream {__version__}\n"
    assert run(["version"]) == 0
    assert capsys.readouterr().out.startswith(f"virnucpro-stream {__version__}\npython ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["publish"],
        ["frames", "x", "--nonsense"],
        ["watch", "--count", "0"],
        ["watch", "--from", "2"],
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments, capsys):
    assert run(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("virnucpro: error: ")
    assert line.endswith(" --help)")


def test_checking_a_bundle_needs_no_torch(tmp_path):
    written = random_bundle(tmp_path / "bundle").path
    code = (
        "import sys; from virnucpro_core.bundle.bundle import Bundle; from pathlib import Path;"
        f"b = Bundle.load(Path({str(written)!r})); b.tokenizer(); print(b.manifest.id, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["random-0", "False"]


_ONE_CORE = """
import os, torch
from virnucpro_core.models.device import use_threads
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
use_threads(None)
print(torch.get_num_threads())
"""


def test_torchs_threads_do_not_keep_a_core_busy_while_they_wait_and_are_no_more_than_the_cores():
    """As GNU's OpenMP itself says when it is loaded, unless the user decides."""
    for given, shown, threads in (
        ({}, "PASSIVE", 1),
        ({"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "2"}, "ACTIVE", 2),
    ):
        done = subprocess.run(
            [sys.executable, "-c", "import virnucpro_core.models" + _ONE_CORE],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
            | {"OMP_DISPLAY_ENV": "TRUE"}
            | given,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert f"OMP_WAIT_POLICY = '{shown}'" in done.stderr
        assert int(done.stdout) == threads
