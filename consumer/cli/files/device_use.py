"""What one device has done in a run: so many frames, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from virnucpro_core.sequence.prepare import PreparedFrame


@dataclass(slots=True)
class DeviceUse:
    """Counts of one device.

    Attributes:
        device: as torch names it, with its product name on a GPU.
        frames, tokens: that were asked of it, and protein tokens of these; those that equal frames had given too.
        seconds: in which it computed.
        reused: frames that were not computed, since equal ones had been.
        lost: why it did not last until the end of the run; None if it did.
    """

    device: str
    frames: int = 0
    tokens: int = 0
    seconds: float = 0.0
    reused: int = 0
    lost: str | None = None

    @property
    def tokens_per_s(self) -> float:
        """Protein tokens a second, while it computed."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def add(self, frames: Sequence[PreparedFrame], seconds: float) -> None:
        """Count a batch."""
        self.frames += len(frames)
        self.tokens += sum(frame.tokens for frame in frames)
        self.seconds += seconds

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "device": self.device,
            "frames": self.frames,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(self.tokens_per_s),
            "lost": self.lost,
        }

    def __str__(self) -> str:
        end = f"; lost: {self.lost}" if self.lost else ""
        return (
            f"{self.device}: {self.frames:,} frames, {self.tokens:,} tokens in {self.seconds:.1f} s, "
            f"{self.tokens_per_s:,.0f} tokens a second{end}"
        )
