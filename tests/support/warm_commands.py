"""Runs many commands from one process that has imported everything: each is a fork of it, in its own folder.

    python -m tests.support.warm_commands SOCKET

listens; `WarmCommands.program` stands for `virnucpro` in a shell, with its arguments, environment, folder, streams and
signals. What runs is the installed program's `main`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tests.support.harness import ROOT, environment

_CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({socket!r})
asked = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
server.sendall(asked)
answers = server.makefile()
process = int(answers.readline())
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(process, number))
code = int(answers.readline())
with open({codes!r}, "a") as codes:
    print(code, file=codes)
sys.exit(code)
"""


class WarmCommands:
    """The program that stands for `virnucpro`, and the exit codes of its calls."""

    def __init__(self, folder: Path) -> None:
        self._codes, self._socket = folder / "codes", folder / "socket"
        self.program = folder / "virnucpro"
        self.program.write_text(
            _CLIENT.format(python=sys.executable, socket=str(self._socket), codes=str(self._codes))
        )
        self.program.chmod(0o755)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm_commands", str(self._socket)],
            cwd=ROOT,
            env=environment(OMP_NUM_THREADS="1"),
        )
        deadline = time.monotonic() + 120
        while not self._socket.exists():
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def start(self, arguments: list[str], folder: Path, **variables: str) -> tuple[int, TextIO]:
        """A call with the streams of this process: its process id, and the stream that its exit code comes on."""
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self._socket))
        asked = json.dumps([["virnucpro", *arguments], str(folder), environment(**variables)]).encode()
        socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(asked)
        answers = server.makefile()
        server.close()
        return int(answers.readline()), answers

    def codes(self) -> list[int]:
        """The exit codes of the calls that have ended since the last call of this."""
        found = [int(code) for code in self._codes.read_text().split()] if self._codes.exists() else []
        self._codes.write_text("")
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def warm_commands(folder: Path) -> Iterator[WarmCommands]:
    """Within this context the program in `folder` works."""
    commands = WarmCommands(folder)
    try:
        yield commands
    finally:
        commands.close()


def _serve(address: str) -> None:
    import torch  # noqa: F401 - what commands import later is there already

    import virnucpro_core.evaluation.plots
    import virnucpro_core.models.engine  # noqa: F401
    from consumer.cli import app

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address + ".new")
    listener.listen(16)
    Path(address + ".new").rename(address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, also by children
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _run_one(connection, app.main)
        connection.close()


def _run_one(connection: socket.socket, main: object) -> None:
    length, streams, _, _ = socket.recv_fds(connection, 8, 3)
    asked = b""
    while len(asked) < int.from_bytes(length, "big"):
        asked += connection.recv(1 << 16)
    child = os.fork()
    if child:
        for stream in streams:
            os.close(stream)
        connection.sendall(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        connection.sendall(f"{code if code >= 0 else 128 - code}\n".encode())
        os._exit(0)
    connection.close()
    arguments, folder, variables = json.loads(asked)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # The old ones have looked at what their numbers were before.
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = arguments
    try:
        assert callable(main)
        main()
    except SystemExit as ended:
        sys.stdout.flush()
        os._exit(ended.code if isinstance(ended.code, int) else int(ended.code is not None))


if __name__ == "__main__":
    _serve(sys.argv[1])
