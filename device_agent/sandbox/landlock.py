# SPDX-License-Identifier: Apache-2.0
"""Landlock through its three system calls: from then on a process sees the files that it was given, and no others.

The numbers are those of linux/landlock.h; they are the same on all machines. What a kernel is too old for is left out:
version 4 knows TCP, version 6 signals and abstract sockets.
"""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_PR_SET_NO_NEW_PRIVS = 38
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL = 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
#: How many rights on files each version knows.
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_RIGHTS_NOW = 16
_TCP, _SCOPES = 0b11, 0b11


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def version() -> int:
    """Return the kernel's version of Landlock, 0 where it has none."""
    got = int(ctypes.CDLL(None, use_errno=True).syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION))
    return max(got, 0)


def keep_to(readable: Iterable[str | Path], devices: Iterable[str | Path] = ()) -> int:
    """Let this thread, and those that it starts, read some files and folders, and open nothing else, for good.

    ``devices`` may be read, written and controlled as well. Paths that are not there are passed over. Return the
    version that holds now, 0 where the kernel refused.
    """
    known = version()
    if not known:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    handled = (1 << _RIGHTS.get(known, _RIGHTS_NOW)) - 1
    asked = _Ruleset(handled, _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    rules = int(libc.syscall(_CREATE, ctypes.byref(asked), ctypes.c_size_t(size), 0))
    if rules < 0:
        return 0
    try:
        for path in readable:
            _allow(libc, rules, path, _READ_FILE | _READ_DIR)
        for path in devices:
            _allow(libc, rules, path, (_READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL) & handled)
        done = libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 and libc.syscall(_RESTRICT, rules, 0) == 0
    finally:
        os.close(rules)
    return known if done else 0


def _allow(libc: ctypes.CDLL, rules: int, path: str | Path, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not Path(path).is_dir():
            rights &= ~_READ_DIR
        rule = _Beneath(rights, parent)
        libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(parent)
