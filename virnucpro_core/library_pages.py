"""Give back the memory of shared libraries that only their loading has touched.

Importing torch reads hundreds of MB of the libraries of CUDA, of which a run on a processor needs next to nothing. They
count as this process's memory, for example for a scheduler that ends jobs by it, until the system is short of memory.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_MAPS = Path("/proc/self/smaps")
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p [0-9a-f]+ \S+ [1-9]\d* +/.*\.so")
_DONTNEED = 4
_LEAST = 1 << 20
"""Bytes of memory below which a mapping is left alone."""


def release_library_pages() -> None:
    """Unmap what lies in memory of this process's libraries: what is read again comes from the system's file cache.

    Only of mappings that cannot be written and hold no page of this process's own, so that nothing is lost. Does
    nothing where the system does not say which these are, or does not let this process read it.
    """
    if sys.platform != "linux":
        return
    try:
        smaps = _MAPS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    madvise = ctypes.CDLL(None).madvise
    for start, size in _clean_mappings(smaps):
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _DONTNEED)


def _clean_mappings(smaps: str) -> Iterator[tuple[int, int]]:
    """Address and bytes of the mappings of libraries that cannot be written and have no pages of their own, neither in
    memory ("Anonymous", for example what relocation has written) nor in swap: those too would be read from the file."""
    for entry in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", smaps, flags=re.MULTILINE):
        if mapping := _MAPPING.match(entry):
            kilobytes = {
                name: int(value) for name, value in re.findall(r"^(\w+): +(\d+) kB$", entry, re.MULTILINE)
            }
            own = (kilobytes.get("Anonymous"), kilobytes.get("Swap"))
            if own == (0, 0) and kilobytes.get("Rss", 0) * 1024 >= _LEAST:
                start, end = (int(address, 16) for address in mapping.groups())
                yield start, end - start
