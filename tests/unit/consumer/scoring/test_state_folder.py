"""The state folder where other users may write: nothing of theirs is used, and nothing of a third's is touched."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from consumer.errors import ServiceError
from consumer.scoring.quarantine import Quarantine
from consumer.scoring.state_folder import StateFolder

OTHER_USER = 65534
FILES = ("n.running", "n.running.next", "n.suspects")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


def refusal(folder: Path) -> str:
    with pytest.raises(ServiceError) as caught:
        Quarantine(folder, "n")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"the state folder {folder} can't be used (")
    assert "set VIRNUCPRO_STATE_DIR to" in message
    return message


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_the_folder_and_its_files_are_made_for_their_owner_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        Quarantine(tmp_path / "state", "n").close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert {path.name for path in (tmp_path / "state").iterdir()} == set(FILES)
    for path in (tmp_path / "state").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    Quarantine(tmp_path / "state", "n").close()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_in_place_of_a_file_is_refused_and_its_target_stays(
    tmp_path: Path, victim: Path, name: str, link: Callable[[Path, Path], None]
) -> None:
    (tmp_path / "state").mkdir(0o700)
    link(victim, tmp_path / "state" / name)
    message = refusal(tmp_path / "state")
    assert name in message
    assert "link" in message
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", FILES)
def test_a_link_to_nothing_is_refused_and_makes_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "state").mkdir(0o700)
    (tmp_path / "state" / name).symlink_to(tmp_path / "absent")
    assert "symbolic link" in refusal(tmp_path / "state")
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.timeout(20)
def test_what_is_not_a_regular_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "state").mkdir(0o700)
    os.mkfifo(tmp_path / "state" / name, 0o600)
    assert "not a regular file" in refusal(tmp_path / "state")


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state" / FILES[0]).mkdir(parents=True)
    refusal(tmp_path / "state")


@pytest.mark.parametrize("there", [True, False])
def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "another").mkdir(0o700)
    (tmp_path / "state").symlink_to(tmp_path / "another")
    assert "it is a symbolic link" in refusal(tmp_path / "state")
    assert not there or list((tmp_path / "another").iterdir()) == []


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o770, 0o777, 0o1777])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(mode)
    assert f"it may be written by other users, mode {mode:o}" in refusal(tmp_path / "state")
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755, 0o2700])
def test_a_folder_that_others_may_read_is_used(tmp_path: Path, mode: int) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(mode)
    Quarantine(tmp_path / "state", "n").close()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_to_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    Quarantine(tmp_path / "state", "n").close()
    (tmp_path / "state" / name).chmod(mode)
    assert f"the file {name} in it may be written by other users" in refusal(tmp_path / "state")


@as_root
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(0o700)
    os.chown(tmp_path / "state", OTHER_USER, OTHER_USER)
    assert f"it belongs to user {OTHER_USER}, not to 0" in refusal(tmp_path / "state")


@as_root
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_user_is_refused(tmp_path: Path, name: str) -> None:
    Quarantine(tmp_path / "state", "n").close()
    os.chown(tmp_path / "state" / name, OTHER_USER, OTHER_USER)
    assert f"the file {name} in it belongs to user {OTHER_USER}" in refusal(tmp_path / "state")


def test_a_link_in_place_of_the_draft_is_removed_not_followed(tmp_path: Path, victim: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    folder.replace("file", b"first")
    (tmp_path / "state" / "file.part").symlink_to(victim)
    folder.replace("file", b"second")
    assert folder.read("file") == b"second"
    assert victim.read_text() == "precious"
    folder.close()


def test_a_folder_exchanged_while_it_is_open_changes_nothing(tmp_path: Path, victim: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    folder.replace("file", b"ours")
    (tmp_path / "state").rename(tmp_path / "moved")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "file").symlink_to(victim)
    assert folder.read("file") == b"ours"
    folder.replace("file", b"still ours")
    assert (tmp_path / "moved" / "file").read_bytes() == b"still ours"
    assert victim.read_text() == "precious"
    folder.close()


def test_a_refused_folder_leaves_no_descriptor_open(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(0o700)
    (tmp_path / "state" / "n.running").symlink_to("absent")
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208 - Path.iterdir would hold one itself
    for _ in range(3):
        refusal(tmp_path / "state")
    assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208


def test_a_file_of_absurd_size_is_not_read_into_memory(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    os.close(folder.open("file"))
    os.truncate(tmp_path / "state" / "file", 1 << 40)
    with pytest.raises(ValueError, match="more than"):
        folder.read("file")
    folder.close()
