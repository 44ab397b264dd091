"""How a row of any width is cut into the powers of two that Triton's blocks must have."""

from __future__ import annotations


def two_parts(width: int) -> tuple[int, int]:
    """Two powers of two that cover `width` (>= 2) with the least beyond it; ESM-2's widths are covered exactly.

    2560 is 2048 + 512, where one block would be 4096 with a third of it idle.
    """
    first = 1 << (width.bit_length() - 1)
    if first == width:
        return width // 2, width // 2
    return first, 1 << (width - first - 1).bit_length()
