"""The instance id of a process that is given none: the same after a restart, and no other process's meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from consumer.config.settings import ServiceSettings, load_settings
from consumer.errors import ServiceError
from consumer.ops import instance
from consumer.ops.instance import with_own_instance

HOST = socket.gethostname()


def settings(tmp_path, **variables: str) -> ServiceSettings:
    return load_settings({"VIRNUCPRO_STATE_DIR": str(tmp_path / "state")} | variables)


def test_each_process_of_a_group_has_its_own_and_a_restart_the_one_it_had(tmp_path):
    chosen = settings(tmp_path)
    with ExitStack() as first, ExitStack() as second:
        assert with_own_instance(chosen, first).instance_id == HOST
        assert with_own_instance(chosen, second).instance_id == f"{HOST}~1"
        with ExitStack() as third:
            assert with_own_instance(chosen, third).instance_id == f"{HOST}~2"
        first.close()
        with ExitStack() as again:
            assert with_own_instance(chosen, again).instance_id == HOST


def test_groups_do_not_share_numbers(tmp_path):
    with ExitStack() as stack:
        for group in ("a", "b"):
            chosen = settings(tmp_path, VIRNUCPRO_GROUP_ID=group)
            assert with_own_instance(chosen, stack).instance_id == HOST


def test_an_id_that_is_set_is_kept_and_needs_no_folder(tmp_path):
    chosen = settings(tmp_path, VIRNUCPRO_INSTANCE_ID="w0")
    with ExitStack() as stack:
        assert [with_own_instance(chosen, stack).instance_id for _ in range(2)] == ["w0", "w0"]
    assert not (tmp_path / "state").exists()


def test_a_process_that_is_killed_gives_its_number_back(tmp_path):
    code = (
        "import os, sys, time; from contextlib import ExitStack; from consumer.config.settings import load_settings;"
        "from consumer.ops.instance import with_own_instance; stack = ExitStack();"
        "print(with_own_instance(load_settings(os.environ), stack).instance_id, flush=True); time.sleep(60)"
    )
    variables = {name: value for name, value in os.environ.items() if not name.startswith("VIRNUCPRO_")}
    variables["VIRNUCPRO_STATE_DIR"] = str(tmp_path / "state")
    with subprocess.Popen([sys.executable, "-c", code], env=variables, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().decode().strip() == HOST
            with ExitStack() as stack:
                assert with_own_instance(settings(tmp_path), stack).instance_id == f"{HOST}~1"
        finally:
            process.send_signal(signal.SIGKILL)
    with ExitStack() as stack:
        assert with_own_instance(settings(tmp_path), stack).instance_id == HOST


def test_a_folder_that_others_may_write_to_ends_the_start(tmp_path):
    chosen = settings(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    with ExitStack() as stack, pytest.raises(ServiceError, match="VIRNUCPRO_STATE_DIR"):
        with_own_instance(chosen, stack)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_on_a_full_disk_it_is_unique_though_not_kept(tmp_path, monkeypatch, code):
    def full(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    chosen = settings(tmp_path)
    monkeypatch.setattr("consumer.scoring.state_folder.os.open", full)
    with ExitStack() as stack:
        assert with_own_instance(chosen, stack).instance_id == f"{HOST}~pid{os.getpid()}"


def test_there_is_an_end_to_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(instance, "MOST", 2)
    chosen = settings(tmp_path)
    with ExitStack() as stack:
        with_own_instance(chosen, stack)
        with_own_instance(chosen, stack)
        with pytest.raises(ServiceError, match="VIRNUCPRO_INSTANCE_ID"):
            with_own_instance(chosen, stack)
