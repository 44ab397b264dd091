"""The science of VirNucPro: from a nucleotide sequence to its prediction, without Kafka, settings or metrics."""

from __future__ import annotations

from virnucpro_core._version import __version__

__all__ = ["__version__"]
