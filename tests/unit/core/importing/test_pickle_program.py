"""A pickle is a program of whoever wrote it: one that takes more than its size accounts for is refused unread."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.support.checkpoints import fair_esm, save_classifier, trained_classifier, trained_esm2
from virnucpro_core.importing.checkpoints import load_pickled
from virnucpro_core.importing.head_checkpoint import read_head
from virnucpro_core.importing.import_error import CheckpointError
from virnucpro_core.importing.pickle_program import BeyondBounds, globals_of
from virnucpro_core.importing.restricted_unpickler import read_pickled

MOST_MEMORY = 200 * 2**20


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def copies(make: bytes, of: int) -> bytes:
    """A list in the memo, and a function that is given it again and again."""
    return b"\x80\x02]q\x00(" + b"K\x01K\x02\x86" * of + b"e0" + (make + b"h\x00\x85R0") * of + b"N."


PROGRAMS = {
    "a far entry of the memo": b"\x80\x02Nr\xff\xff\xff\x1f.",
    "a far entry of the memo, as text": b"Np1073741824\n.",
    "a long frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
    "a text longer than the file": b"\x80\x02X\xff\xff\xff\xff.",
    "bytes longer than the file": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "tuples in tuples": b"\x80\x02)" + b"\x85" * 20_000 + b".",
    "tuples in tuples as a key": b"\x80\x02})" + b"\x85" * 20_000 + b"Ns.",
    "sets of one list": copies(b"c__builtin__\nset\n", 4000),
    "dictionaries of one list": copies(b"ccollections\nOrderedDict\n", 4000),
    "a list that grows under another name": (
        b"\x80\x02]q\x00(X\x06\x00\x00\x00moduleh\x00tQq\x01(" + b"K\x01K\x02\x86" * 4000 + b"e0"
        + b"ccollections\nOrderedDict\nh\x00\x85R0" * 4000 + b"N."
    ),
    "an opcode that runs a constructor": b"(i__main__\nX\n.",
    "no end": b"\x80\x02N",
    "no values": b"\x80\x02\x85.",
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("read", [read_pickled, load_pickled], ids=["head", "weights"])
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_program_beyond_the_bounds_is_refused_in_one_line(program, read, form, tmp_path):
    path = tmp_path / "model.pth"
    if form == "legacy":
        path.write_bytes(PROGRAMS[program])
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data.pkl", PROGRAMS[program])
    with little_memory(), pytest.raises(CheckpointError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path} is ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


def test_a_pickle_that_is_longer_than_any(monkeypatch):
    monkeypatch.setattr("virnucpro_core.importing.pickle_program.MOST_BYTES", 1000)
    program = pickle.dumps([str(number) for number in range(1000)], protocol=2)
    with pytest.raises(BeyondBounds, match="a pickle of over 1,000 bytes"):
        globals_of(io.BytesIO(program))
    with pytest.raises(BeyondBounds, match="a pickle of over 1,000 bytes"):
        globals_of(io.BytesIO(b"c" + b"a" * 2000 + b"\nb\n."))


def test_a_pickle_of_more_opcodes_than_any(monkeypatch):
    monkeypatch.setattr("virnucpro_core.importing.pickle_program._MOST_OPCODES", 1000)
    globals_of(io.BytesIO(b"\x80\x02" + b"N0" * 400 + b"N."))
    with pytest.raises(BeyondBounds, match="a pickle of over 1,000 opcodes"):
        globals_of(io.BytesIO(b"\x80\x02" + b"N0" * 600 + b"N."))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_a_pickle_asks_for_is_named_and_the_file_is_left_behind_it(protocol):
    content = pickle.dumps({"a": [os.path.join, (1, 2, 3)], "b": {1, 2}, "c": b"x" * 300}, protocol)
    file = io.BytesIO(content + b"rest")
    asked_for = globals_of(file)
    assert "posixpath.join" in asked_for
    assert file.read() == b"rest"
    assert pickletools.dis(content, io.StringIO()) is None


@pytest.mark.parametrize(
    "name",
    ["torch\nTensor", "builtins\nbytearray", "collections\nCounter", "torch\nSize", "_codecs\nencode"],
)
def test_a_global_that_torch_allows_and_no_weights_need_is_refused(name, tmp_path):
    """A bytearray of a number takes as many bytes, and torch's own list of safe globals has it."""
    path = tmp_path / "esm2.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("esm2/data.pkl", f"\x80\x02c{name}\n".encode("latin-1") + b"J\xff\xff\xff\x7f\x85R.")
    with (
        little_memory(),
        pytest.raises(CheckpointError, match="nothing of it was run: it asks for ") as caught,
    ):
        load_pickled(path)
    assert name.replace("\n", ".") in str(caught.value)


def test_entries_that_overlap_or_are_compressed_are_refused(tmp_path):
    whole = tmp_path / "whole.pt"
    torch.save({"a": torch.zeros(1000)}, whole)
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(CheckpointError, match="a compressed entry"):
        load_pickled(packed)
    overlapping = tmp_path / "overlapping.pt"
    with zipfile.ZipFile(overlapping, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02N.")
        archive.writestr("m/data/0", bytes(2000))
        for number in range(1, 10):
            twin = zipfile.ZipInfo(f"m/data/{number}")
            twin.header_offset, twin.CRC = archive.filelist[1].header_offset, archive.filelist[1].CRC
            twin.file_size = twin.compress_size = 2000
            archive.filelist.append(twin)
    with pytest.raises(CheckpointError, match="entries that overlap"):
        load_pickled(overlapping)


def repeated(values: torch.Tensor) -> torch.Tensor:
    return values[:1].expand(10**9)


def test_a_tensor_that_repeats_one_number_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": repeated(torch.zeros(4))}, path)
    from virnucpro_core.importing.checkpoints import read_checkpoint

    with pytest.raises(CheckpointError, match="holds tensors that are larger than the file"):
        read_checkpoint(path)


def test_tensors_that_share_a_storage_many_times_are_refused(tmp_path):
    weights = trained_classifier().state_dict()
    weights |= {f"copy{number}": weights["hidden_layer.weight"] for number in range(3)}
    torch.save(weights, tmp_path / "head.pth")
    with pytest.raises(CheckpointError, match="tensors larger than their storages"):
        read_head(tmp_path / "head.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_what_is_published_stays_far_within_the_bounds(legacy, tmp_path):
    head = save_classifier(trained_classifier(), tmp_path / "head.pth", legacy)
    assert read_head(head).config.hidden == 24
    content = load_pickled(fair_esm(trained_esm2(), tmp_path / "esm2.pt"))
    assert set(content) == {"model", "cfg"}
