"""What a model can fail with, as types that callers without torch can catch."""

from __future__ import annotations


class CoreError(RuntimeError):
    """A failure of the model or its device; the message is one line."""


class OutOfMemory(CoreError):
    """The batch did not fit into the device's memory; a smaller one may."""


class DeviceLost(CoreError):
    """The device or its context cannot be recovered in this process; only a restart helps."""


class NotFinite(CoreError):
    """A score came out as NaN or infinite."""


class SequenceFileWarning(UserWarning):
    """A sequence file was read, but not every byte of it was used; the message is one line that names the file."""
