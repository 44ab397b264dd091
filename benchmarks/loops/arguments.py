"""What all loops are told on their command lines, and what they say when they are ready."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.loops.padded import PaddedModel
from virnucpro_core.bundle.bundle import find_bundle


@dataclass(frozen=True)
class Loop:
    """One loop: where it reads and writes, and how many records it takes at once."""

    bootstrap: str
    group: str
    source: str
    sink: str
    records: int
    model: PaddedModel


def parsed(description: str | None) -> Loop:
    """Read the command line and load the model."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--source", required=True, help="topic")
    parser.add_argument("--sink", required=True, help="topic")
    parser.add_argument("--records", type=int, default=64, help="taken at once")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument(
        "--by-length", action="store_true", help="sort each batch, so that there is less padding"
    )
    options = parser.parse_args()
    model = PaddedModel(Path(find_bundle(options.model)), options.precision, options.by_length)
    return Loop(options.bootstrap, options.group, options.source, options.sink, options.records, model)


def announce() -> None:
    """Say that records are read from now on, as the service does."""
    print(json.dumps({"event": "ready"}), flush=True)
