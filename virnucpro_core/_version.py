"""The one place that holds the package's version."""

from __future__ import annotations

__version__ = "0.1.0"
