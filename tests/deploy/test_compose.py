"""The Compose file, by Compose's own library (`docker compose config` without Docker)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.tools import ROOT, needed

FILE = ROOT / "deploy/compose/compose.yaml"
ALWAYS = {"kafka", "topics", "virnucpro", "publish"}
PROFILES = {
    (): ALWAYS,
    ("monitoring",): ALWAYS | {"prometheus", "grafana"},
    ("registry",): ALWAYS | {"registry"},
    ("watch", "monitoring", "registry"): ALWAYS | {"watch", "prometheus", "grafana", "registry"},
}
EVERYTHING = max(PROFILES, key=len)


def config(*profiles: str, file: Path = FILE, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [needed("compose-config"), str(file), *profiles],
        env=clean | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def services(*profiles: str, **variables: str) -> dict[str, dict[str, Any]]:
    done = config(*profiles, **variables)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = yaml.safe_load(done.stdout)["services"]
    return found


@pytest.mark.parametrize("profiles", PROFILES, ids="+".join)
def test_a_profile_starts_what_the_guide_says(profiles):
    assert set(services(*profiles)) == PROFILES[profiles]


def test_every_port_is_bound_to_this_machine_and_each_has_a_number_of_its_own():
    ports = [port for each in services(*EVERYTHING).values() for port in each.get("ports", ())]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    published = [port["published"] for port in ports]
    assert len(published) == len(set(published)) == 5


def test_every_file_that_is_mounted_exists_and_is_mounted_read_only():
    mounts = [mount for each in services(*EVERYTHING).values() for mount in each.get("volumes", ())]
    bound = [mount for mount in mounts if mount["type"] == "bind"]
    assert [mount["source"] for mount in bound if not Path(mount["source"]).is_file()] == []
    assert [mount["source"] for mount in bound if not mount.get("read_only")] == []
    assert len(bound) == 5


def test_variables_reach_what_they_are_for():
    found = services(
        *EVERYTHING,
        HTTP_PORT="8080-8083",
        KAFKA_PORT="19999",
        PARTITIONS="12",
        VIRNUCPRO_DELIVERY="at_least_once",
        VIRNUCPRO_IMAGE="mine:1",
        DEVICE="cuda",
    )
    assert found["virnucpro"]["ports"][0]["published"] == "8080-8083"
    assert "OUTSIDE://127.0.0.1:19999" in found["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert found["topics"]["environment"]["PARTITIONS"] == "12"
    assert found["virnucpro"]["environment"]["VIRNUCPRO_DELIVERY"] == "at_least_once"
    assert {found[name]["image"] for name in ("virnucpro", "publish", "watch")} == {"mine:1"}
    assert found["virnucpro"]["build"]["args"]["DEVICE"] == "cuda"


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("stop_grace_period: 40s", "stop_grace: 40s", "stop_grace"),
        ("depends_on: [prometheus]", "depends_on: [promethius]", "promethius"),
        ("volumes: [state:/var/lib/virnucpro]", "volumes: [stat:/var/lib/virnucpro]", "stat"),
        ("<<: *reach", "<<: *rech", "rech"),
        ("${PARTITIONS:-4}", "${PARTITIONS:?}", "PARTITIONS"),
    ],
)
def test_a_slip_would_be_seen(right, wrong, message, tmp_path):
    text = FILE.read_text()
    assert text.count(right) == 1
    (tmp_path / "compose.yaml").write_text(text.replace(right, wrong))
    done = config(*EVERYTHING, file=tmp_path / "compose.yaml")
    assert done.returncode != 0
    assert message in done.stderr
