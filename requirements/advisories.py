"""A vulnerability database in a folder, for where no service answers: a clone of github.com/pypa/advisory-database.

It holds one file a vulnerability, `vulns/PACKAGE/ID.yaml` in the OSV format: a version is affected if it is listed, or
lies in a range of kind ECOSYSTEM.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import Version

_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.M)
_MODIFIED = re.compile(r"^modified: ['\"]?(\d{4}-\d\d-\d\d)", re.M)


def locked(requirements: Iterable[Path]) -> list[tuple[str, str]]:
    """(name, version) of each package of the locked files, each once, in order."""
    found = {(canonicalize_name(name), version) for path in requirements for name, version in _pins(path)}
    return sorted(found)


def newest(folder: Path) -> date:
    """When the database was changed last, by its entries.

    Raises:
        ValueError: the folder holds no entry.
    """
    texts = (path.read_text(encoding="utf-8") for path in sorted(folder.glob("vulns/*/*.yaml")))
    dates = [match[1] for text in texts if (match := _MODIFIED.search(text))]
    if not dates:
        raise ValueError(
            f"{folder} holds no vulns/PACKAGE/*.yaml: it takes a clone of github.com/pypa/advisory-database"
        )
    return date.fromisoformat(max(dates))


def report(folder: Path, packages: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """What the database knows of these versions, in the form of pip-audit's report."""
    return {
        "dependencies": [
            {"name": name, "version": version, "vulns": list(_known(folder, name, version))}
            for name, version in packages
        ]
    }


def _pins(path: Path) -> list[tuple[str, str]]:
    return _LOCKED.findall(path.read_text(encoding="utf-8"))


def _known(folder: Path, name: str, version: str) -> Iterable[dict[str, Any]]:
    for path in sorted((folder / "vulns" / name).glob("*.yaml")):
        entry = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        if "withdrawn" in entry:
            continue
        ours = [each for each in entry["affected"] if canonicalize_name(each["package"]["name"]) == name]
        if any(_affects(each, version) for each in ours):
            events = [event for each in ours for event in _events(each)]
            fixes = sorted({event["fixed"] for event in events if "fixed" in event}, key=Version)
            yield {"id": entry["id"], "fix_versions": fixes}


def _affects(affected: Mapping[str, Any], version: str) -> bool:
    return version in affected.get("versions", ()) or any(
        _in_range(events["events"], Version(version))
        for events in affected.get("ranges", ())
        if events["type"] == "ECOSYSTEM"
    )


def _events(affected: Mapping[str, Any]) -> list[Mapping[str, str]]:
    ranges = [each for each in affected.get("ranges", ()) if each["type"] == "ECOSYSTEM"]
    return [event for each in ranges for event in each["events"]]


def _in_range(events: Iterable[Mapping[str, str]], version: Version) -> bool:
    """Whether the version is affected by the last event before it."""
    affected = False
    for event in events:
        if "introduced" in event and version >= Version(event["introduced"]):
            affected = True
        if "fixed" in event and version >= Version(event["fixed"]):
            affected = False
        if "last_affected" in event and version > Version(event["last_affected"]):
            affected = False
    return affected
