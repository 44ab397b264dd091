"""What `make audit` makes of pip-audit's reports: silence of the database is not taken for a good answer."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from requirements.advisories import locked
from requirements.audit import CLEAN, FAILED, UNKNOWN, VULNERABLE, from_folder, verdict

FLAW = {"id": "PYSEC-2026-1", "fix_versions": ["1.0.1"], "aliases": [], "description": "a hole"}
GOOD = {"name": "good", "version": "1.0", "vulns": []}
BAD = {"name": "bad", "version": "1.0", "vulns": [FLAW]}
SILENT = {
    "name": "silent",
    "skip_reason": "Dependency not found on PyPI and could not be audited: silent (1.0)",
}
# The end of pip-audit 2.10.1 where no name server knows the database.
NO_DATABASE = """Traceback (most recent call last):
  File "requests/adapters.py", line 729, in send
requests.exceptions.ConnectionError: HTTPSConnectionPool(host='api.osv.dev', port=443): Max retries exceeded
"""


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([GOOD], CLEAN, "1 packages, no known vulnerability"),
        ([GOOD, BAD], VULNERABLE, "bad 1.0: PYSEC-2026-1, fixed in 1.0.1"),
        ([SILENT, SILENT], UNKNOWN, "no answer for any package"),
        ([GOOD, SILENT], UNKNOWN, "no answer for silent"),
        ([BAD, SILENT], VULNERABLE, "no answer for silent"),
        ([BAD | {"vulns": [FLAW | {"fix_versions": []}]}], VULNERABLE, "fixed in no version"),
    ],
)
def test_a_report(packages, status, said):
    found, lines = verdict(json.dumps({"dependencies": packages, "fixes": []}), "")
    assert found == status
    assert said in "\n".join(lines)


@pytest.mark.parametrize(
    ("errors", "status", "said"),
    [
        (NO_DATABASE, UNKNOWN, "no vulnerability database answers"),
        ("pip-audit: error: argument -r: no such file", FAILED, "no such file"),
        ("", FAILED, "it wrote nothing"),
    ],
)
def test_no_report(errors, status, said):
    found, (line,) = verdict("", errors)
    assert found == status
    assert said in line


ENTRY = """
id: PYSEC-2026-7
modified: "2026-11-20T00:00:00Z"
affected:
- package: {name: Some.Package, ecosystem: PyPI}
  ranges:
  - type: GIT
    events: [{introduced: "0"}]
  - type: ECOSYSTEM
    events: [{introduced: "1.0"}, {fixed: "1.2.1"}, {introduced: "2.0"}, {fixed: "2.3"}]
  versions: ["1.0.post1", "0.9rc1"]
"""


def audited(folder, version: str, entry: str = ENTRY, today: str = "2026-12-01") -> tuple[int, str]:
    place = folder / "vulns/some-package"
    place.mkdir(parents=True, exist_ok=True)
    (place / "PYSEC-2026-7.yaml").write_text(entry)
    (folder / "run.txt").write_text(
        f"other==1\nsome_package=={version} ; python_version < '4' \\\n    --hash=sha256:00\n"
    )
    status, lines = from_folder(folder, [str(folder / "run.txt")], date.fromisoformat(today))
    return status, "\n".join(lines)


@pytest.mark.parametrize(
    ("version", "is_affected"),
    [
        *(
            ("0.8", False),
            ("0.9rc1", True),
            ("1.0", True),
            ("1.0.post1", True),
            ("1.2", True),
            ("1.2.0.1", True),
        ),
        *(("1.2.1", False), ("1.10", False), ("2.0", True), ("2.2.9", True), ("2.3", False), ("10.0", False)),
    ],
)
def test_a_database_in_a_folder(tmp_path, version, is_affected):
    status, said = audited(tmp_path, version)
    if is_affected:
        assert (status, said) == (VULNERABLE, f"some-package {version}: PYSEC-2026-7, fixed in 1.2.1, 2.3")
    else:
        assert (status, said) == (CLEAN, "2 packages, no known vulnerability")


def test_an_entry_that_was_withdrawn_does_not_count(tmp_path):
    assert audited(tmp_path, "1.0", ENTRY + 'withdrawn: "2026-11-25T00:00:00Z"\n')[0] == CLEAN


def test_the_last_version_that_is_affected(tmp_path):
    entry = ENTRY.replace('{fixed: "2.3"}', '{last_affected: "2.3"}')
    assert [audited(tmp_path, version, entry)[0] for version in ("2.3", "2.4")] == [VULNERABLE, CLEAN]


def test_an_old_database_knows_no_more_than_it_did(tmp_path):
    status, said = audited(tmp_path, "3.0", today="2027-01-01")
    assert status == UNKNOWN
    assert "by 2026-11-20, when this database was changed last" in said
    assert audited(tmp_path, "1.0", today="2027-01-01")[0] == VULNERABLE


def test_a_folder_that_is_no_database(tmp_path):
    status, (line,) = from_folder(tmp_path, [], date(2026, 12, 1))
    assert status == FAILED
    assert "pypa/advisory-database" in line


def test_every_locked_package_is_looked_up():
    root = Path(__file__).parents[3] / "requirements"
    found = locked([root / "run.txt"])
    assert {"torch", "confluent-kafka", "fastavro"} <= {name for name, _ in found}
    pins = [
        line for line in (root / "run.txt").read_text().splitlines() if "==" in line and line[0] not in " #"
    ]
    assert len(found) == len({line.split()[0] for line in pins}) > 50
