"""What `publish` has sent, in a file, so that it goes on there when it is started again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from consumer.cli.error_messages import UserError
from consumer.cli.files.inputs import is_stream
from consumer.clock import Clock, monotonic
from consumer.errors import ExitCode
from consumer.kafka.offset_map import OffsetMap, TooManyGaps
from virnucpro_core.atomic_files import atomic_write

_EVERY_S = 1.0


class Journal:
    """Which records of a run the broker has confirmed, numbered from 0 over all files.

    It is written once a second and at the end, also after an error or Ctrl-C: after a kill, the records that were
    confirmed in the last second are sent again.

    Args:
        path: of the file; one that exists must be of the same run.
        inputs: sequence files; a stream cannot be gone through again.
        target: the broker and the topic.

    Raises:
        UserError: it is of another run, damaged, or an input is a stream.
    """

    def __init__(self, path: Path, inputs: Sequence[str], target: str, clock: Clock = monotonic) -> None:
        if any(is_stream(each) for each in inputs):
            raise UserError(
                "--resume needs files: standard input and pipes cannot be read from the beginning again",
                ExitCode.USAGE,
            )
        self._path, self._clock = path, clock
        self._run = {"target": target, "inputs": [_identity(each) for each in inputs]}
        self._sent = self._read()
        self._saved_at = clock()
        self.skipped = 0

    def is_confirmed(self, number: int) -> bool:
        """Whether an earlier run has sent this record; it is counted then."""
        if not self._sent.is_done(number):
            return False
        self._sent.passed(number, done=True)
        self.skipped += 1
        return True

    def sending(self, number: int) -> None:
        """A record is about to be sent."""
        self._sent.passed(number, done=False)
        if self._clock() - self._saved_at >= _EVERY_S:
            self.save()

    def confirmed(self, number: int) -> None:
        """The broker has confirmed it."""
        self._sent.done(number)

    def save(self) -> None:
        """Write the file. Where too much is under way it is left as it was until the next time."""
        self._saved_at = self._clock()
        with suppress(TooManyGaps):
            position, gaps = self._sent.commit()
            with atomic_write(self._path) as (draft,):
                draft.write_text(json.dumps(self._run | {"confirmed": position, "and": gaps}) + "\n")
            self._sent.settled()

    def _read(self) -> OffsetMap:
        try:
            found: dict[str, Any] = json.loads(self._path.read_text())
            earlier = {name: found[name] for name in self._run}
            sent = OffsetMap.parse(int(found["confirmed"]), str(found["and"]))
        except FileNotFoundError:
            return OffsetMap(0)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._path} is not a file of publish --resume: name another, or remove it"
            ) from error
        if earlier != self._run:
            raise UserError(
                f"{self._path} is of another run, or a file has changed since: give the same files, broker and topic, "
                "or remove it to begin again"
            )
        return sent


def _identity(path: str) -> list[Any]:
    """Enough to see that a file is another one."""
    try:
        found = Path(path).stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check the path") from error
    return [path, found.st_size, found.st_mtime_ns]
