# SPDX-License-Identifier: Apache-2.0
"""The Unix socket on which applications reach the inference worker, and the lock that keeps a second agent out."""

import fcntl
import os
import socket
from pathlib import Path

from device_agent.errors import storage_failed
from edgefleet.contracts.errors import ConflictError, SettingError

_BACKLOG = 1024
_PATH_LIMIT_BYTES = 107


def listen(path: Path) -> socket.socket:
    """Listen on a Unix socket that the owner and the group may use; a left-over file is replaced.

    Raises:
        SettingError: the path is too long for a Unix socket.
        StorageError: the socket cannot be made.
    """
    if len(os.fsencode(path)) > _PATH_LIMIT_BYTES:
        raise SettingError(
            f"the socket's path '{path}' is longer than {_PATH_LIMIT_BYTES} bytes",
            hint="set a shorter `socket` in the settings file",
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o660)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise storage_failed(f"listen on '{path}'", error) from error
    return listener


def lock(path: Path) -> int:
    """Take the data folder for this process; the kernel lets go of it when the process ends.

    Raises:
        ConflictError: another agent has it.
        StorageError: the lock file cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise storage_failed(f"open '{path}'", error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConflictError(
            f"another agent is running on '{path.parent}'", hint="stop it first, or choose another folder"
        ) from error
    return descriptor
