"""What `make audit` makes of pip-audit's reports: silence of the database is not taken for a good answer."""

from __future__ import annotations

import json

import pytest

from requirements.audit import CLEAN, FAILED, UNKNOWN, VULNERABLE, verdict

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
