"""How many cores a process may use: never more than its affinity, and no more than its control groups' quotas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from virnucpro_core.cores import cores

ALLOWED = len(os.sched_getaffinity(0))


@pytest.fixture
def groups(tmp_path: Path):
    """Writes files of control groups; gives the number of cores for a process whose groups are in `own`."""

    def made(own: str, **files: str) -> int:
        for name, text in files.items():
            path = tmp_path / "mount" / name.replace("__", "/").replace("_max", ".max")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "own").write_text(own)
        return cores(tmp_path / "mount", tmp_path / "own")

    return made


def test_without_a_limit_it_is_the_affinity(groups, tmp_path):
    assert cores(tmp_path / "nothing", tmp_path / "nothing") == ALLOWED
    assert groups("0::/\n", cpu_max="max 100000\n") == ALLOWED


@pytest.mark.parametrize(
    ("text", "wanted"), [("100000 100000", 1), ("25000 100000", 1), ("9900000 100000", ALLOWED)]
)
def test_a_quota_in_a_container_of_version_2(groups, text, wanted):
    assert groups("0::/\n", cpu_max=text) == min(wanted, ALLOWED)


def test_a_part_of_a_core_counts_as_one(groups):
    assert groups("0::/\n", cpu_max="110000 100000") == min(2, ALLOWED)


def test_a_group_above_limits_too(groups):
    own = "0::/pod/container\n"
    assert groups(own, pod__container__cpu_max="max 100000", pod__cpu_max="100000 100000") == 1


def test_a_name_of_the_host_that_is_not_there(groups):
    """The container's own group is mounted as the topmost one."""
    assert groups("0::/../../kubepods/pod1\n", cpu_max="100000 100000") == 1


def test_version_1(groups, tmp_path):
    folder = tmp_path / "mount" / "cpu" / "docker"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("50000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    own = "4:memory:/other\n3:cpu,cpuacct:/docker\n"
    assert groups(own) == 1
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert groups(own) == ALLOWED
