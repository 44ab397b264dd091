"""Looks locked versions up in a database of known vulnerabilities, by pip-audit, and says what that is worth.

    python -m requirements.audit PIP_AUDIT [REQUIREMENTS...]

pip-audit alone ends with 0 where an index has no answer for any package ("skipped"), as a mirror has none. Exit status:
0, the database answered for every package and knows nothing; 1, vulnerabilities are known, and named; 2, pip-audit
failed; 3, the database did not answer for some packages, so that the run says nothing about them.

Read from the environment: AUDIT_SERVICE, osv (api.osv.dev, the default) or pypi; OSV_URL, another address of the first;
AUDIT_DATABASE, a folder with a clone of PyPA's database, which is read in place of a service
(requirements/advisories.py). One that was not changed for a month does not know the latest: where it knows nothing, the
exit status is 3.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

CLEAN, VULNERABLE, FAILED, UNKNOWN = 0, 1, 2, 3
_LIMIT_S = 900
_UNREACHABLE = re.compile(
    r"(Connection|Proxy|SSL|HTTP|Service)Error|Time(d )?out|Could not connect|NameResolution"
)
_CURE = (
    "run it where the database can be reached, or name another by AUDIT_SERVICE, OSV_URL or AUDIT_DATABASE"
)
_FILES = ("requirements/run.txt", "requirements/dev.txt")
_FRESH_DAYS = 31


def verdict(report: str, errors: str) -> tuple[int, list[str]]:
    """The exit status and the lines to show.

    Args:
        report: what pip-audit wrote in its format json; empty if it ended without one.
        errors: what it wrote to stderr.
    """
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        *_, last = errors.strip().splitlines() or ["it wrote nothing"]
        if _UNREACHABLE.search(errors):
            return UNKNOWN, [
                f"no vulnerability database answers, so nothing is known ({last[:300]}): {_CURE}"
            ]
        return FAILED, [f"pip-audit failed: {last[:300]}"]
    found = [
        f"{package['name']} {package['version']}: {flaw['id']}, fixed in "
        + (", ".join(flaw["fix_versions"]) or "no version")
        for package in packages
        for flaw in package.get("vulns", ())
    ]
    silent = [package["name"] for package in packages if "skip_reason" in package]
    lines = [*found]
    if silent:
        which = "any package" if len(silent) == len(packages) else ", ".join(silent)
        lines.append(
            f"the vulnerability database has no answer for {which}, so nothing is known of it: {_CURE}"
        )
    if found:
        return VULNERABLE, lines
    if silent:
        return UNKNOWN, lines
    return CLEAN, [f"{len(packages)} packages, no known vulnerability"] if packages else ["no package"]


def from_folder(folder: Path, requirements: Sequence[str], today: date) -> tuple[int, list[str]]:
    """As `verdict`, by a database in a folder."""
    # Of the tools of development: not needed where pip-audit asks a service.
    from requirements.advisories import locked, newest, report

    try:
        changed = newest(folder)
    except ValueError as error:
        return FAILED, [str(error)]
    packages = locked(Path(file) for file in requirements)
    status, lines = verdict(json.dumps(report(folder, packages)), "")
    if status == CLEAN and (today - changed).days > _FRESH_DAYS:
        text = f"{lines[0]} by {changed}, when this database was changed last: nothing is known of what was found since"
        return UNKNOWN, [text]
    return status, lines


def main(pip_audit: str, *requirements: str) -> int:
    """Run pip-audit, or look into the folder, and print the verdict; returns the exit status."""
    if folder := os.environ.get("AUDIT_DATABASE"):
        return _shown(*from_folder(Path(folder), requirements or _FILES, date.today()))
    command = [
        pip_audit,
        "--format",
        "json",
        "--progress-spinner",
        "off",
        "--disable-pip",
        "--require-hashes",
    ]
    command += ["--vulnerability-service", os.environ.get("AUDIT_SERVICE") or "osv"]
    if url := os.environ.get("OSV_URL"):
        command += ["--osv-url", url]
    for file in requirements or _FILES:
        command += ["--requirement", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    return _shown(*verdict(done.stdout, done.stderr))


def _shown(status: int, lines: list[str]) -> int:
    for line in lines:
        print(f"audit: {line}", file=sys.stdout if status == CLEAN else sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
