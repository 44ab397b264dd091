"""Shell completion for bash, by bash itself: the script that `--show-completion` prints, sourced and asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash not found")

ASK = """
source "$1"
COMP_WORDS=({words}); COMP_CWORD={last}
_virnucpro_completion virnucpro
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The completion script, and an environment in which `virnucpro` is this checkout's."""
    folder = tmp_path_factory.mktemp("completion")
    command = folder / "virnucpro"
    root = Path(__file__).parents[2]
    command.write_text(
        f'#!/bin/sh\nPYTHONPATH="{root}" exec "{sys.executable}" -c "from consumer.cli.app import main; main()" "$@"\n'
    )
    command.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["virnucpro", "--show-completion", "bash"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    script = folder / "completion.sh"
    script.write_text(done.stdout)
    return script, environment


def completed(shell: tuple[Path, dict[str, str]], *words: str) -> set[str]:
    script, environment = shell
    quoted = " ".join(f"'{word}'" for word in words)
    ask = ASK.format(words=quoted, last=len(words) - 1)
    done = subprocess.run(
        ["bash", "-c", ask, "bash", str(script)], env=environment, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_commands_and_options_are_completed(shell):
    assert completed(shell, "virnucpro", "pub") == {"publish"}
    assert {"topics", "train-head"} <= completed(shell, "virnucpro", "t")
    assert completed(shell, "virnucpro", "dlq", "re") == {"replay"}
    assert {"--rate", "--resume"} <= completed(shell, "virnucpro", "publish", "--r")
