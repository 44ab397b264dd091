"""The rules by promtool: they are valid, and do what their unit tests say."""

from __future__ import annotations

from tests.deploy.tools import ROOT, passes, run

MONITORING = ROOT / "deploy/monitoring"


def test_rules_are_valid():
    passes("promtool", "check", "rules", "--lint=all", "--lint-fatal", MONITORING / "rules.yaml")


def test_unit_tests():
    passes("promtool", "test", "rules", MONITORING / "rules-test.yaml")


def test_a_rule_that_fires_too_late_would_be_seen(tmp_path):
    text = (MONITORING / "rules.yaml").read_text()
    (tmp_path / "rules.yaml").write_text(text.replace("for: 10m", "for: 10h"))
    (tmp_path / "rules-test.yaml").write_text((MONITORING / "rules-test.yaml").read_text())
    done = run("promtool", "test", "rules", tmp_path / "rules-test.yaml")
    assert done.returncode != 0
    assert "VirnucproAbsent" in done.stdout + done.stderr


def test_composes_configuration_is_valid():
    passes("promtool", "check", "config", "--syntax-only", ROOT / "deploy/compose/prometheus.yaml")
