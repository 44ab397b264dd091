"""Break the service on purpose, one mechanism at a time, and see which tests notice.

    python -m tests.mutants                 # every mutant against the tests that are meant to catch it
    python -m tests.mutants transactions    # one of them

Works on a copy of the tree. A mutant that no test notices makes the exit status 1: then a promise of the service
(docs/reliability.md) hangs on nothing. Adding a mechanism means adding its mutant here.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_COPIED = ("consumer", "schemas", "virnucpro_core", "tests", "docs", "pyproject.toml")
_TEST_S = 900


@dataclass(frozen=True)
class Mutant:
    """One mechanism taken out: in `file`, `old` becomes `new`; `tests` are to notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ("tests/unit/test_exactly_once.py", "tests/property/test_loop_properties.py")


MUTANTS = (
    Mutant(
        "transactions",  # offsets are committed beside the transaction, not in it
        "consumer/exactly_once.py",
        "            result = self.transactions.send_offsets(held.offsets, self.consumer.consumer_group_metadata)\n",
        "            self.consumer.commit(offsets=held.offsets, asynchronous=False)\n"
        "            result = self.transactions.send_offsets([], self.consumer.consumer_group_metadata)\n",
    ),
    Mutant(
        "group metadata",  # fetched once and kept, instead of in the step that uses it
        "consumer/transactions.py",
        "producer, group = self.producer, metadata()",
        "producer, group = self.producer, _KEPT.setdefault(id(self), metadata())",
    ),
    Mutant(
        "epoch check",  # a result of an earlier assignment counts for the present one
        "consumer/ledger.py",
        "return entry is not None and entry.message.source == source",
        "return entry is not None",
        ("tests/unit/test_ledger.py", "tests/property"),
    ),
    Mutant(
        "whole groups",  # members of a group are on both sides of the split
        "virnucpro_core/splitting.py",
        '(label.group, "") if label.group else ("", file.record_ids[record])',
        '("", file.record_ids[record])',
        ("tests/unit/test_splitting.py",),
    ),
    Mutant(
        "prefix rule",  # what is finished is released past what is not
        "consumer/ledger.py",
        "            if entry.outcome is None:\n                return\n            yield entry",
        "            if entry.outcome is not None:\n                yield entry",
        ("tests/unit/test_ledger.py", "tests/property"),
    ),
    Mutant(
        "dead letter in the transaction",  # it goes in one of its own, without the offset of its input
        "consumer/exactly_once.py",
        "        self._due = self.clock() + self.commit_interval_s\n        self._transaction =",
        "        if apart := [e for e in release.entries if isinstance(e.outcome, Refused)]:\n"
        "            for entry in apart:\n"
        "                produce(self.transactions.producer, self.builder.build(entry), lambda *_: None)\n"
        "            self.transactions.commit()\n"
        "            self.transactions.begin()\n"
        "            rest = tuple(e for e in release.entries if not isinstance(e.outcome, Refused))\n"
        "            self._transaction = _Transaction(release, deque(rest))\n"
        "            return True\n"
        "        self._due = self.clock() + self.commit_interval_s\n        self._transaction =",
    ),
    Mutant(
        "abort of what went away",  # a transaction goes on with the offsets of a partition that was lost
        "consumer/exactly_once.py",
        "            held.aborting = True\n\n    def on_commit",
        "            pass\n\n    def on_commit",
    ),
    Mutant(
        "results kept until committed",  # settled when they are handed to the client
        "consumer/exactly_once.py",
        "        if not held.offsets_sent:\n            result",
        "        self.ledger.settle(held.release)\n        if not held.offsets_sent:\n            result",
    ),
    Mutant(
        "pause taken back",  # a partition that comes back stays paused
        "consumer/service.py",
        "(consumer.pause if self._paused else consumer.resume)(topic_partitions)",
        "consumer.pause(topic_partitions) if self._paused else None",
        ("tests/unit/test_service.py",),
    ),
    Mutant(
        "where a partition begins",  # it begins at the beginning when the broker keeps the offset back
        "consumer/service.py",
        "        if not self._positions.admits(partition, offset):\n            return\n",
        "",
        ("tests/kafka/test_positions.py",),
    ),
    Mutant(
        "reports before offsets",  # at least once: offsets are committed before the answers are acknowledged
        "consumer/at_least_once.py",
        "if self._unit.waiting or self._unit.in_flight or self._unit.failed:",
        "if self._unit.waiting:",
        ("tests/unit/test_at_least_once.py", "tests/property/test_loop_properties.py"),
    ),
    Mutant(
        "suspects written before the batch",  # a record that kills is never known
        "consumer/inference.py",
        "        self._suspects.entering(jobs)\n",
        "",
        ("tests/unit/test_quarantine.py",),
    ),
)
_IMPORTS = {
    "consumer/exactly_once.py": "from consumer.work import Refused\n",
    "consumer/transactions.py": "_KEPT: dict[int, object] = {}\n",
}


def broken(mutant: Mutant, folder: Path) -> None:
    """Copy the tree and take the mechanism out."""
    for name in _COPIED:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    path = folder / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise SystemExit(f"the mutant {mutant.name!r} no longer fits {mutant.file}: bring it up to date")
    head, rest = text.split("log = structlog", 1) if mutant.file in _IMPORTS else ("", text)
    text = f"{head}{_IMPORTS[mutant.file]}log = structlog{rest}" if head else text
    path.write_text(text.replace(mutant.old, mutant.new))


def first_failure(mutant: Mutant) -> str | None:
    """The name of the first test that notices, None if none does."""
    with tempfile.TemporaryDirectory() as folder:
        broken(mutant, Path(folder))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_TEST_S,
            check=False,
        )
        failed = re.search(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
        if done.returncode == 1 and failed:
            return failed.group(1)
        if done.returncode != 0:
            raise SystemExit(
                f"the tests of {mutant.name!r} did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        return None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    names = parser.parse_args().names
    unnoticed = 0
    for mutant in MUTANTS:
        if names and mutant.name not in names:
            continue
        found = first_failure(mutant)
        unnoticed += found is None
        print(f"{mutant.name:35} {found or 'NOT NOTICED'}", flush=True)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
