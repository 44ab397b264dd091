"""Reads a pickled PyTorch module or state dict as inert data. Nothing that the pickle asks for is imported or run.

A pickle is a program, and `torch.load` of a whole module runs it. Here every name that it asks for is looked up
in a closed list and replaced: classes of modules become records, tensors become references to their storage.
Any other name ends the reading. Needs no torch.
"""

from __future__ import annotations

import math
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.importing.import_error import CheckpointError
from virnucpro_core.importing.pickle_program import globals_of
from virnucpro_core.importing.storages import DTYPES, StorageRef, is_zip, read_legacy_storages, zip_content
from virnucpro_core.regular_files import UnusableFile
from virnucpro_core.wording import one_line, shown

CLASSIFIER = "MLPClassifier"
"""VirNucPro's own class. It was pickled from a script, so the module that it claims to be in means nothing."""
_MODULES = {
    ("torch.nn.modules.linear", "Linear"),
    ("torch.nn.modules.batchnorm", "BatchNorm1d"),
    ("torch.nn.modules.activation", "ReLU"),
    ("torch.nn.modules.dropout", "Dropout"),
}
_CONTAINERS: dict[tuple[str, str], type] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,  # what pickle's protocol 2 calls it
}
# What a damaged pickle makes of the unpickler's stack and of our own functions' arguments.
_DAMAGED = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError,
    MemoryError, RecursionError, struct.error,
)  # fmt: skip
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MOST_NUMBERS = 17
"""Offset, size and stride of a tensor of eight dimensions."""


class TensorRef(NamedTuple):
    """A tensor as the pickle describes it: elements of a storage, their first, and size and stride by dimension."""

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Record:
    """A pickled module as data.

    Attributes:
        kind: the name of its class.
        state: its attributes by name, as they were pickled.
    """

    __slots__ = ("state",)
    kind: ClassVar[str]
    state: dict[str, Any]

    def __new__(cls) -> Record:
        record = super().__new__(cls)
        record.state = {}
        return record

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a module without a dictionary of attributes")
        self.state = state


class Pickled:
    """What was read.

    Attributes:
        root: the pickled object: dictionaries, lists, sets, numbers, text, `Record` and `TensorRef`.
    """

    def __init__(self, path: Path, root: Any, storages: Mapping[str, bytes]) -> None:
        self.root, self._path, self._storages = root, path, storages

    def arrays(self, tensors: Mapping[str, TensorRef]) -> dict[str, NDArray[Any]]:
        """The values of tensors by name, copied. Each value of a storage is copied once at most.

        Raises:
            CheckpointError: one reaches beyond its storage, or they have more values than their storages.
        """
        stored = sum(storage.elements for storage in {tensor.storage for tensor in tensors.values()})
        if sum(math.prod(tensor.size) for tensor in tensors.values()) > stored:
            raise _damaged(self._path, ValueError("tensors larger than their storages"))
        return {name: self.array(tensor) for name, tensor in tensors.items()}

    def array(self, tensor: TensorRef) -> NDArray[Any]:
        """A tensor's values, copied.

        Raises:
            CheckpointError: it reaches beyond its storage.
        """
        try:
            values = np.frombuffer(self._storages[tensor.storage.key], DTYPES[tensor.storage.kind])
            reach = [(size - 1) * stride for size, stride in zip(tensor.size, tensor.stride, strict=True)]
            if min(*tensor.size, *tensor.stride, tensor.offset, 1) < 0:
                raise ValueError("a negative size")
            empty = 0 in tensor.size
            last = tensor.offset + (0 if empty else sum(reach) + 1)
            if last > len(values) or int(np.prod(tensor.size, dtype=object)) > len(values):
                raise ValueError("a tensor larger than its storage")
            strides = [stride * values.itemsize for stride in tensor.stride]
            window: NDArray[Any] = np.lib.stride_tricks.as_strided(
                values[tensor.offset :], tensor.size, strides
            )
            return window.copy()
        except _DAMAGED as error:
            raise _damaged(self._path, error) from error


def read_pickled(path: Path) -> Pickled:
    """Read a file written by `torch.save`, of the zip format or the one before it.

    Raises:
        CheckpointError: the pickle asks for a name that is not on the list (the message says which), or it is
            damaged, or no pickle, or not a regular file, or would take more than any classifier needs.
        OSError: the file cannot be read.
    """
    try:
        if is_zip(path):
            with zip_content(path) as (pickled, storage):
                unpickler = _Unpickler(path, pickled)
                root = unpickler.load()
                storages = {ref.key: storage(ref) for ref in unpickler.storages.values()}
        else:
            with path.open("rb") as file:
                root, storages = _read_legacy(path, file)
    except CheckpointError:
        raise
    except UnusableFile as error:
        raise CheckpointError(f"{path} {error}") from error
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    return Pickled(path, root, storages)


def _read_legacy(path: Path, file: IO[bytes]) -> tuple[Any, dict[str, bytes]]:
    """Five pickles one after the other (magic number, protocol, system, object, storage keys), then the storages."""
    if _Unpickler(path, file).load() != _LEGACY_MAGIC or _Unpickler(path, file).load() != _LEGACY_PROTOCOL:
        raise pickle.UnpicklingError("not written by torch.save")
    system = _Unpickler(path, file).load()
    if system["little_endian"] is not True:
        raise pickle.UnpicklingError("written on a big-endian machine")
    unpickler = _Unpickler(path, file)
    root = unpickler.load()
    keys = _Unpickler(path, file).load()
    return root, read_legacy_storages(file, keys, unpickler.storages)


class _Unpickler(pickle.Unpickler):
    def __init__(self, path: Path, file: IO[bytes]) -> None:
        super().__init__(file)
        self._path, self._file = path, file
        self.storages: dict[str, StorageRef] = {}

    def load(self) -> Any:
        """The next object of the file, whose program is checked first."""
        start = self._file.tell()
        globals_of(self._file)
        self._file.seek(start)
        return super().load()

    def find_class(self, module: str, name: str) -> Any:
        """Every name that a pickle asks for comes through here; nothing is ever imported."""
        if name == CLASSIFIER or (module, name) in _MODULES:
            # A new class each time: whatever the pickle does to it is gone with it.
            return type(name, (Record,), {"__slots__": (), "kind": name})
        if (module, name) in _CONTAINERS:
            return _CONTAINERS[module, name]
        if module == "torch" and name in DTYPES:
            return name
        if (module, name) in _FUNCTIONS:
            return _Inert(_FUNCTIONS[module, name])
        raise CheckpointError(
            f"{self._path} is refused, and nothing of it was run: it asks for {one_line(f'{module}.{name}')}, which no "
            "classifier of VirNucPro needs; take the file from its publisher again"
        )

    def persistent_load(self, pid: Any) -> Any:
        """A storage, or (in the old format) a class together with its source code, which is left out."""
        what, *details = pid
        if what == "module" and isinstance(details[0], type) and issubclass(details[0], Record):
            return details[0]
        if what != "storage":
            raise pickle.UnpicklingError(f"an unknown reference {shown(what)}")
        kind, key, _, count = details[:4]
        if details[4:] not in ([], [None]):
            raise pickle.UnpicklingError("a view of a storage")
        if not (isinstance(key, str) and kind in DTYPES and isinstance(count, int)):
            raise pickle.UnpicklingError("a storage without key, type and size")
        ref = StorageRef(key, kind, count)
        if self.storages.setdefault(key, ref) != ref:
            raise pickle.UnpicklingError(f"two descriptions of storage {shown(key)}")
        return ref


class _Inert:
    """Stands for one of torch's functions. It can be called, not altered."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a function with attributes")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> TensorRef:
    numbers = (offset, *size, *stride)
    if (
        not isinstance(storage, StorageRef)
        or len(numbers) > _MOST_NUMBERS
        or not all(type(number) is int for number in numbers)
    ):
        raise pickle.UnpicklingError("a tensor without storage, offset, size and stride")
    return TensorRef(storage, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *_: Any) -> TensorRef:
    if not isinstance(data, TensorRef):
        raise pickle.UnpicklingError("a parameter that is not a tensor")
    return data


_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


def _damaged(path: Path, error: Exception) -> CheckpointError:
    why = one_line(error, 120) or type(error).__name__
    return CheckpointError(f"{path} is damaged, or was not written by torch.save ({why}): fetch it again")
