"""The identity of a process: an instance id that no other process of its group on this machine has.

Under exactly once two processes of one instance id fence each other. So where VIRNUCPRO_INSTANCE_ID is not set, the
first process of a group on a machine takes the host name, the second `host~1`, and so on: the first number that is
free. A number is held by a lock on a file in the state folder, which the kernel gives back however the process ends, so
that one that starts again gets the number it had. A pod of a StatefulSet is alone on its host, and keeps its bare name.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack
from pathlib import Path

import structlog

from consumer.config.settings import ServiceSettings, unambiguous_id
from consumer.errors import ServiceError
from consumer.scoring.state_folder import DISK_FULL, StateFolder, file_name, unusable

log = structlog.get_logger(__name__)

MOST = 1000
_HELD = (errno.EAGAIN, errno.EACCES)


def with_own_instance(settings: ServiceSettings, stack: ExitStack) -> ServiceSettings:
    """The settings with an instance id that is this process's own until `stack` is unwound; a set one is kept.

    Raises:
        ServiceError: the state folder cannot be used, or more than `MOST` processes of the group run here.
    """
    if "instance_id" in settings.model_fields_set:
        return settings
    host = settings.instance_id
    folder = StateFolder(Path(settings.state_dir))
    try:
        for number in range(MOST):
            name = f"{host}~{number}" if number else host
            if _claim(folder, f"{file_name(unambiguous_id(settings.group_id, name))}.lock", stack):
                break
        else:
            raise ServiceError(
                f"{MOST} processes of group {settings.group_id} run here: set VIRNUCPRO_INSTANCE_ID"
            )
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise unusable(settings.state_dir, error) from error
        name = f"{host}~pid{os.getpid()}"
    finally:
        folder.close()
    if name != host:
        log.info("instance_id_chosen", instance_id=name)
    return settings.model_copy(update={"instance_id": name})


def _claim(folder: StateFolder, name: str, stack: ExitStack) -> bool:
    """Lock a file until `stack` is unwound; False if another process holds it."""
    file = folder.open(name)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if error.errno in _HELD:
            return False
        raise
    # Never removed: another process could have the removed file open, and lock it beside a new one of this name.
    stack.callback(os.close, file)
    return True
