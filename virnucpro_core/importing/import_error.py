"""Why a checkpoint cannot be imported."""

from __future__ import annotations

from virnucpro_core.bundle.manifest import BundleError


class CheckpointError(BundleError):
    """A checkpoint is refused; the one-line message names the file, the cause and the cure."""
