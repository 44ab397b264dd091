"""Which mappings of a process are given back: those of libraries that nothing of the process's own is in."""

from __future__ import annotations

from pathlib import Path

import pytest

from virnucpro_core import library_pages
from virnucpro_core.library_pages import _clean_mappings

ENTRY = """\
7f0000000000-7f0000400000 {mode} 00001000 {device} {inode}                  {path}
Size:               4096 kB
Rss:                {rss} kB
Private_Clean:      2048 kB
Anonymous:             {anonymous} kB
Swap:                  {swap} kB
VmFlags: rd mr mw me
"""
CLEAN = {
    "mode": "r-xp",
    "device": "08:01",
    "inode": "1234",
    "path": "/venv/lib/libtorch_cuda.so",
    "rss": "2048",
    "anonymous": "0",
    "swap": "0",
}


@pytest.mark.parametrize("change", [{}, {"mode": "r--p"}, {"path": "/a b/libcublasLt.so.13"}])
def test_what_was_read_of_a_library_is_given_back(change) -> None:
    entry = ENTRY.format(**CLEAN | change)
    assert list(_clean_mappings(entry)) == [(0x7F0000000000, 0x400000)]
    other = ENTRY.format(**CLEAN | {"mode": "rw-p"})
    assert list(_clean_mappings(other + entry + other)) == [(0x7F0000000000, 0x400000)]


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "rw-p"},
        {"mode": "rwxp"},
        {"mode": "r-xs"},
        {"anonymous": "4"},
        {"swap": "4"},
        {"rss": "1000"},
        {"inode": "0"},
        {"path": "/data/reads.fasta"},
        {"path": "[vdso]"},
        {"path": ""},
    ],
)
def test_what_may_hold_anything_of_the_process_is_left_alone(change) -> None:
    assert list(_clean_mappings(ENTRY.format(**CLEAN | change))) == []


@pytest.mark.parametrize("name", ["Anonymous", "Swap"])
def test_an_entry_that_does_not_say_what_is_its_own_is_left_alone(name: str) -> None:
    entry = ENTRY.format(**CLEAN)
    assert list(_clean_mappings(entry.replace(name, "Unknown"))) == []


def test_a_process_that_may_not_read_its_mappings_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc/self/smaps is there, and is refused, for example where the process cannot be dumped."""
    monkeypatch.setattr(library_pages, "_MAPS", tmp_path)  # a folder: reading it fails
    library_pages.release_library_pages()
