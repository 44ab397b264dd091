"""Files that are complete or not there, and that keep the mode of what they replace."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from virnucpro_core.atomic_files import atomic_write


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o777])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "out"
    path.write_text("old")
    path.chmod(mode)
    with atomic_write(path) as (part,):
        part.write_text("new")
    assert (path.read_text(), mode_of(path)) == ("new", mode)
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_mode_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "out") as (part,):
        part.write_text("new")
    assert mode_of(tmp_path / "out") == mode_of(tmp_path / "plain")


def test_each_of_several_files_keeps_its_own_mode(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, mode in zip(paths[:2], (0o600, 0o666), strict=True):
        path.write_text("old")
        path.chmod(mode)
    with atomic_write(*paths) as parts:
        for part in parts:
            part.write_text("new")
    assert [mode_of(path) for path in paths[:2]] == [0o600, 0o666]
    assert [path.read_text() for path in paths] == ["new"] * 3


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "out"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path, tmp_path / "other") as (part, _):
            part.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_symbolic_link_stays_and_its_file_is_replaced_with_its_mode(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    with atomic_write(link) as (part,):
        part.write_text("new")
    assert link.is_symlink()
    assert (real.read_text(), mode_of(real)) == ("new", 0o640)


def test_a_device_is_written_directly():
    with atomic_write(Path(os.devnull)) as (part,):
        assert part == Path(os.devnull)
        part.write_text("gone")
    assert not Path(os.devnull).is_file()
