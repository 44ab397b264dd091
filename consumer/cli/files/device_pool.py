"""The devices of one file: a process each, batches to whichever is free, and the work of a lost one to the others.

The parent reads, prepares and packs; it holds neither the model nor torch. A frame's row does not depend on the device
among devices of one kind, so others are refused: the outputs have the same bytes as those of one device.
"""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from consumer.cli.error_messages import UserError, warn
from consumer.cli.files.device_use import DeviceUse
from consumer.cli.files.device_worker import Failed, Lost, Ready, Refused, Scored, work
from consumer.cli.streams import signals_held
from consumer.config.settings import ModelSettings
from consumer.errors import ExitCode
from virnucpro_core.errors import DeviceLost, OutOfMemory
from virnucpro_core.scoring.computing import Rows
from virnucpro_core.scoring.model import EngineInfo, FloatArray
from virnucpro_core.sequence.prepare import PreparedFrame
from virnucpro_core.sequence.tokens import DnaTokenizer

_WITH_EACH = 2
"""Batches that a process has: one that it computes, and one that is there when it has."""
_AHEAD_OF_EACH = _WITH_EACH + 1
"""Batches that are begun, for each device."""
_MOST_LOSSES = 2
"""Processes that may end over one batch before the run does: the batch may be the cause."""
_END_S = 5.0
"""What a process has to end before it is killed."""


@dataclass(slots=True)
class Device:
    """One device: its process, and what it has done."""

    name: str
    pipe: Connection
    process: BaseProcess
    use: DeviceUse


@dataclass(slots=True)
class _Task:
    frames: list[PreparedFrame]
    rows: Future[FloatArray] = field(default_factory=Future)
    losses: int = 0


class DevicePool:
    """A `virnucpro_core.scoring.computing.Computing` over several processes; a context, which ends them.

    Args:
        names: of devices; a processor may be named more than once.
        settings: of the model; the device that they name is not used.
        threads: of each process on a processor; None shares the cores out.

    Attributes:
        info: what computes; its device names all.

    Raises:
        UserError: a device cannot load the model, or the devices would not give the same bytes.
    """

    def __init__(self, names: Sequence[str], settings: ModelSettings, threads: int | None) -> None:
        self.ahead = _AHEAD_OF_EACH * len(names)
        self._changing = threading.Lock()
        self._closing = False
        # At most `ahead` tasks, and those of lost devices.
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self.devices: list[Device] = []
        self._threads: list[threading.Thread] = []
        try:
            for name in names:
                self.devices.append(_started(name, settings, threads))
            ready = [_hello(device, len(names)) for device in self.devices]
            for device, each in zip(self.devices, ready, strict=True):
                device.use.device = each.info.device
            self.info = common_info(names, [each.info for each in ready])
        except BaseException:
            self._end(now=True)
            raise
        self.default_token_budget: int = ready[0].default_token_budget
        self.tokenizer: DnaTokenizer = ready[0].tokenizer
        for device in self.devices:
            thread = threading.Thread(
                target=self._run, args=(device,), name=f"device {device.name}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    @property
    def uses(self) -> Sequence[DeviceUse]:
        return [device.use for device in self.devices]

    @property
    def expected_length(self) -> int:
        """Bases in a full chunk."""
        return self.info.expected_length

    def __enter__(self) -> DevicePool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end(now=kind is not None)

    def begin(self, frames: Sequence[PreparedFrame]) -> Rows:
        """Hand a batch to the device that is free first; its rows raise DeviceLost when no device is left."""
        task = _Task(list(frames))
        with self._changing:
            if all(device.use.lost for device in self.devices):
                task.rows.set_exception(self._nothing_left())
            else:
                self._tasks.put(task)
        return partial(_rows_of, task)

    # ---- one thread a device --------------------------------------------------------------------------------------

    def _run(self, device: Device) -> None:
        given: deque[_Task] = deque()
        try:
            self._serve(device, given)
        except BaseException as error:
            self._lose(device, given, f"{type(error).__name__}: {error}")
            raise

    def _serve(self, device: Device, given: deque[_Task]) -> None:
        """Keep a device supplied and take its answers, until the end or until it is lost.

        Args:
            given: the batches that the device has.
        """
        while self._supply(device, given):
            try:
                answer = device.pipe.recv()
            except (EOFError, OSError):
                device.process.join(_END_S)
                answer = Lost(f"its process ended with exit code {device.process.exitcode}")
            if isinstance(answer, Lost):
                self._lose(device, given, answer.message)
                return
            task = given.popleft()
            if isinstance(answer, Scored):
                device.use.add(task.frames, answer.seconds)
                device.use.reused += answer.reused
                task.rows.set_result(answer.rows)
            else:
                task.rows.set_exception(_error_of(answer))

    def _supply(self, device: Device, given: deque[_Task]) -> bool:
        """Give a device as many batches as it takes; waits for one if it has none. False if it has none at the end."""
        while len(given) < _WITH_EACH:
            try:
                task = self._tasks.get(block=not given)
            except queue.Empty:
                break
            if task is None:
                self._tasks.put(None)  # for the other threads, and for this one's next turn
                break
            given.append(task)
            with suppress(OSError):  # its process has ended, which the next answer shows
                device.pipe.send(task.frames)
        return bool(given)

    def _lose(self, device: Device, given: deque[_Task], why: str) -> None:
        """Leave the batches of a lost device to the others; the oldest may be the cause."""
        suspect = given.popleft() if given else None
        with self._changing:
            device.use.lost = why
            left = [other.name for other in self.devices if not other.use.lost]
            if self._closing:
                return
            if not left:
                self._fail_all([*([suspect] if suspect else []), *given])
                return
            for task in given:
                self._tasks.put(task)
            if suspect is not None:
                self._try_again(suspect, device)
        warn(f"warning: {device.name} is lost ({why}): its work goes to {', '.join(left)}")

    def _try_again(self, suspect: _Task, device: Device) -> None:
        suspect.losses += 1
        if suspect.losses < _MOST_LOSSES:
            self._tasks.put(suspect)
            return
        suspect.rows.set_exception(
            DeviceLost(
                f"{suspect.losses} devices were lost over one batch, the last one {device.name} ({device.use.lost})"
            )
        )

    def _fail_all(self, tasks: list[_Task]) -> None:
        """Fail these and those that wait: no device is left."""
        with suppress(queue.Empty):
            while (waiting := self._tasks.get_nowait()) is not None:
                tasks.append(waiting)
        for task in tasks:
            task.rows.set_exception(self._nothing_left())

    def _nothing_left(self) -> DeviceLost:
        return DeviceLost(
            f"every device is lost: {'; '.join(f'{each.name}: {each.use.lost}' for each in self.devices)}"
        )

    # ---- the end --------------------------------------------------------------------------------------------------

    def _end(self, now: bool) -> None:
        """End the processes: at once, or when they have answered what was asked of them."""
        with self._changing:
            self._closing = True
        self._tasks.put(None)
        if now:
            for device in self.devices:
                device.process.terminate()
        for thread in self._threads:
            thread.join(_END_S)
        for device in self.devices:
            device.pipe.close()
            device.process.join(_END_S)
            if device.process.is_alive():
                device.process.kill()
                device.process.join(_END_S)


def _started(name: str, settings: ModelSettings, threads: int | None) -> Device:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=work,
        args=(theirs, settings.model_copy(update={"device": name}), threads),
        name=f"virnucpro {name}",
        daemon=True,
    )
    with signals_held():
        process.start()
    # The child's end is open in the child alone, so that its death shows here.
    theirs.close()
    return Device(name, ours, process, DeviceUse(name))


def _hello(device: Device, of: int) -> Ready:
    """Wait until a device, one of so many, has loaded the model."""
    answer: Ready | Refused
    try:
        answer = device.pipe.recv()
    except (EOFError, OSError):
        device.process.join(_END_S)
        answer = Refused(
            f"its process ended with exit code {device.process.exitcode} while it loaded the model",
            ExitCode.DEVICE_LOST,
        )
    if isinstance(answer, Refused):
        name = f"{device.name}: " if of > 1 else ""
        raise UserError(f"{name}{answer.message}", ExitCode(answer.exit_code))
    return answer


def common_info(names: Sequence[str], infos: Sequence[EngineInfo]) -> EngineInfo:
    """What computes, the same on every device but for its number; `device` names all.

    Raises:
        UserError: two devices differ in anything else.
    """
    first = infos[0]
    for name, other in zip(names[1:], infos[1:], strict=True):
        theirs = other.as_dict() | {"device": other.kind_of_device}
        for what, value in (first.as_dict() | {"device": first.kind_of_device}).items():
            if value != theirs[what]:
                raise UserError(
                    f"--devices: {names[0]} and {name} differ in {what} ({value}, {theirs[what]}), so an answer would "
                    "depend on which of them gave it: name devices of one kind",
                    ExitCode.USAGE,
                )
    return replace(first, device=", ".join(info.device for info in infos))


def _rows_of(task: _Task) -> FloatArray:
    return task.rows.result()


def _error_of(answer: Failed) -> Exception:
    """The exception of another process, under its own name and without its tensors."""
    if answer.out_of_memory:
        return OutOfMemory(answer.message)
    named: type[RuntimeError] = type(answer.error, (RuntimeError,), {})
    return named(answer.message)
