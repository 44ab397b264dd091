"""Reads what a pickle would do, and does none of it: which globals it asks for, and whether it stays within bounds.

A pickle is a program for a stack machine, and a few bytes of it can fill the memory or end the process: an index of
the memo makes a table of that length, a tuple in a tuple in a tuple overflows the stack when it is hashed, and a
container that is copied by every second opcode takes time and memory by the square of the file's size. The opcodes
are run here on descriptions of the values. What `torch.save` writes stays far below every bound. Needs no torch.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from virnucpro_core.wording import one_line

MOST_BYTES = 16 * 2**20
"""Of one pickle, without the values of its tensors; that of the largest ESM-2 has 0.2 MB."""
_MOST_OPCODES = 200_000
"""That of the largest ESM-2 has about 25,000."""
_MOST_COPIES = 10_000_000
"""Elements that functions, classes and storages are given in all; each may copy what it gets."""
_MOST_NESTED_TUPLES = 100
_MOST_ARGUMENTS = 16
_NAME_LETTERS = 200
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_INTO = {"APPEND": 1, "APPENDS": 1, "SETITEM": 1, "SETITEMS": 2, "ADDITEMS": 1}
"""Opcodes that put what is above a container into it, and how many values make an element."""
_NOT_WRITTEN = {
    *("INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"),
}
"""Opcodes that torch.save does not write, and that no reader here needs."""


class BeyondBounds(pickle.UnpicklingError):
    """A pickle that would take more than any checkpoint needs."""


@dataclass(eq=False, slots=True)
class _Value:
    """A value on the stack.

    Attributes:
        length: elements of a container, letters of a text.
        depth: tuples within each other, itself included; 0 for what is not a tuple.
        items: of a short tuple.
        name: a short text, which may become the name of a global.
    """

    length: int = 0
    depth: int = 0
    items: tuple[_Value, ...] = ()
    name: str = ""


_MARK = _Value(name="mark")


def globals_of(file: IO[bytes]) -> frozenset[str]:
    """Read one pickle to its end; the file is then behind it.

    Returns:
        the globals that it asks for, as `module.name`.

    Raises:
        BeyondBounds: it is not within the bounds above.
        pickle.UnpicklingError: it is not a pickle, or damaged.
    """
    machine = _Machine()
    try:
        for opcode, argument in _opcodes(file):
            machine.run(opcode, argument)
    except pickle.UnpicklingError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise pickle.UnpicklingError(one_line(error) or type(error).__name__) from error
    return frozenset(machine.globals)


class _Bounded:
    """Gives a file's next bytes, up to `MOST_BYTES` in all."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, MOST_BYTES

    def read(self, size: int) -> bytes:
        return self._take(self._file.read(size) if size <= self._left else None)

    def readline(self) -> bytes:
        return self._take(self._file.readline(self._left + 1))

    def _take(self, data: bytes | None) -> bytes:
        if data is None or len(data) > self._left:
            raise BeyondBounds(f"a pickle of over {MOST_BYTES:,} bytes")
        self._left -= len(data)
        return data


def _opcodes(file: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    program = pickletools.genops(_Bounded(file))  # type: ignore[arg-type]
    for count, (opcode, argument, _) in enumerate(program, start=1):
        if count > _MOST_OPCODES:
            raise BeyondBounds(f"a pickle of over {_MOST_OPCODES:,} opcodes")
        yield opcode, argument


class _Machine:
    """Runs opcodes on `_Value`s."""

    def __init__(self) -> None:
        self.globals: set[str] = set()
        self._stack: list[_Value] = []
        self._memo: dict[int, _Value] = {}
        self._copies = 0

    def run(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        name = opcode.name
        if name in _NOT_WRITTEN:
            raise BeyondBounds(f"an opcode {name}, which torch.save does not write")
        if name in _PUTS:
            if argument > _MOST_OPCODES:
                raise BeyondBounds(f"an entry {argument} of the memo")
            self._memo[argument] = self._stack[-1]
        elif name == "FRAME" and argument > MOST_BYTES:
            raise BeyondBounds(f"a frame of {argument:,} bytes")
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in _GETS:
            self._stack.append(self._memo[argument])
        elif name == "DUP":
            self._stack.append(self._stack[-1])
        elif name == "MARK":
            self._stack.append(_MARK)
        elif name in _INTO:
            self._put_in(self._pop(opcode), _INTO[name])
        else:
            self._push(opcode, argument, self._pop(opcode))

    def _pop(self, opcode: pickletools.OpcodeInfo) -> list[_Value]:
        """What an opcode takes from the stack, without a mark: the lowest first."""
        taken: list[_Value] = []
        below = list(opcode.stack_before)
        if pickletools.markobject in below:
            while (value := self._stack.pop()) is not _MARK:
                taken.append(value)
            below = below[: below.index(pickletools.markobject)]
        taken += [self._stack.pop() for _ in below]
        return taken[::-1]

    def _put_in(self, taken: list[_Value], values: int) -> None:
        container, *new = taken
        container.length += len(new) // values
        self._stack.append(container)

    def _push(self, opcode: pickletools.OpcodeInfo, argument: Any, taken: list[_Value]) -> None:
        name = opcode.name
        if name == "GLOBAL":
            self._ask_for(argument.replace(" ", "."))
        elif name == "STACK_GLOBAL":
            self._ask_for(".".join(value.name or "?" for value in taken))
        elif name in ("REDUCE", "NEWOBJ"):
            self._stack.append(_Value(length=self._given(taken[1])))
        elif name == "BUILD":
            self._given(taken[1])
            self._stack.append(taken[0])
        elif name == "BINPERSID":
            self._given(taken[0])
            # For torch's old format a reference may stand for its second part: a class.
            self._stack.append(taken[0].items[1])
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE"):
            self._stack.append(_tuple(taken))
        elif opcode.stack_after:
            text = argument if isinstance(argument, str | bytes | bytearray) else ""
            name = text if isinstance(text, str) and len(text) <= _NAME_LETTERS else ""
            self._stack.append(_Value(len(text) + len(taken), name=name))

    def _ask_for(self, name: str) -> None:
        self.globals.add(name)
        self._stack.append(_Value())

    def _given(self, value: _Value) -> int:
        """Count what a function, a class or a storage is given; returns how many elements that is."""
        count = value.length + sum(item.length + len(item.items) for item in value.items)
        self._copies += 1 + count
        if self._copies > _MOST_COPIES:
            raise BeyondBounds(f"over {_MOST_COPIES:,} elements copied")
        return count


def _tuple(items: list[_Value]) -> _Value:
    depth = 1 + max((item.depth for item in items), default=0)
    if depth > _MOST_NESTED_TUPLES:
        raise BeyondBounds(f"tuples nested over {_MOST_NESTED_TUPLES} levels deep")
    return _Value(len(items), depth, tuple(items) if len(items) <= _MOST_ARGUMENTS else ())
