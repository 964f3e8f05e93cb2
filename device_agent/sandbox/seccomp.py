# SPDX-License-Identifier: Apache-2.0
"""A filter of system calls (seccomp, mode 2): what it names fails with "not permitted", the rest goes on.

The program is classic BPF over ``struct seccomp_data`` (linux/seccomp.h): number at 0, machine at 4, arguments from 16.
A call by another machine's table ends the process, for its numbers mean other calls.
"""

import ctypes
import errno
import os
import struct
import sys

from device_agent.sandbox import system_calls
from device_agent.sandbox.system_calls import AUDIT_ARCH, BY_ARGUMENT, NEVER, WRITING, Machine

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
#: Numbers from here on are x32's, on x86-64: another table.
_X32 = 0x40000000
_CLONE_THREAD = 0x00010000
_OPENED_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
#: What types on a terminal in its user's place.
_TERMINAL_INPUT = (0x5412, 0x541C)

_SECCOMP = {"x86_64": 317, "aarch64": 277, "arm": 383}
_SET_MODE_FILTER, _GET_ACTION_AVAIL, _TSYNC = 1, 2, 1
_PR_SET_NO_NEW_PRIVS = 38

Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def machine() -> Machine | None:
    """Return whose system calls this process makes, None for a machine that no table is here for."""
    name, bits = os.uname().machine, struct.calcsize("P") * 8
    if sys.byteorder != "little":
        return None
    if bits == 64:
        return "x86_64" if name == "x86_64" else "aarch64" if name == "aarch64" else None
    return "arm" if name == "aarch64" or name.startswith("arm") else None


def available() -> bool:
    """Tell whether the kernel takes such a filter here."""
    here = machine()
    if here is None:
        return False
    action = ctypes.c_uint32(_ERRNO)
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(_SECCOMP[here], _GET_ACTION_AVAIL, 0, ctypes.byref(action)) == 0)


def refuse_calls(*, may_write: bool = False) -> bool:
    """Put the filter on all threads of this process, for good; tell whether the kernel took it."""
    here = machine()
    if here is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    code = b"".join(struct.pack("<HBBI", *step) for step in program(here, os.getpid(), may_write=may_write))
    buffer = ctypes.create_string_buffer(code, len(code))
    given = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.syscall(_SECCOMP[here], _SET_MODE_FILTER, _TSYNC, ctypes.byref(given)) == 0)


def program(here: Machine, pid: int, *, may_write: bool) -> list[Instruction]:
    """Return the filter for a machine and the process ``pid``, whose own threads it may signal."""
    steps: list[Instruction] = [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, AUDIT_ARCH[here]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if here == "x86_64":
        steps += [(_AT_LEAST, 0, 1, _X32), _refuse(errno.EPERM)]
    for table in (NEVER,) if may_write else (NEVER, WRITING):
        for name in table:
            steps += _for(table, name, here, [_refuse(errno.EPERM)])
    for name, body in _by_argument(pid, may_write=may_write).items():
        steps += _for(BY_ARGUMENT, name, here, body)
    return [*steps, (_RETURN, 0, 0, _ALLOW)]


def _by_argument(pid: int, *, may_write: bool) -> dict[str, list[Instruction]]:
    rules = {
        "clone": _unless(_ANY_BIT, 0, (_CLONE_THREAD,)),  # a thread, and no process
        "clone3": [_refuse(errno.ENOSYS)],  # its flags lie in memory; the C library falls back to clone
        "kill": _unless(_EQUAL, 0, (pid,)),
        "tgkill": _unless(_EQUAL, 0, (pid,)),
        "prlimit64": _unless(_EQUAL, 0, (0, pid)),
        "ioctl": [
            _load(1),
            *((_EQUAL, len(_TERMINAL_INPUT) - at, 0, code) for at, code in enumerate(_TERMINAL_INPUT)),
            (_RETURN, 0, 0, _ALLOW),
            _refuse(errno.EPERM),
        ],
    }
    if not may_write:
        rules |= {"open": _if_opened_to_write(1), "openat": _if_opened_to_write(2), "openat2": [_refuse(errno.ENOSYS)]}
    return rules


def _for(
    table: dict[str, "system_calls.Numbers"], name: str, here: Machine, body: list[Instruction]
) -> list[Instruction]:
    number = system_calls.number(table, name, here)
    return [] if number is None else [(_EQUAL, 0, len(body), number), *body]


def _unless(test: int, argument: int, values: tuple[int, ...]) -> list[Instruction]:
    """Allow where the low half of an argument passes the test with one of the values, refuse otherwise."""
    tests = [(test, len(values) - at, 0, value) for at, value in enumerate(values)]
    return [_load(argument), *tests, _refuse(errno.EPERM), (_RETURN, 0, 0, _ALLOW)]


def _if_opened_to_write(argument: int) -> list[Instruction]:
    return [_load(argument), (_ANY_BIT, 0, 1, _OPENED_TO_WRITE), _refuse(errno.EACCES), (_RETURN, 0, 0, _ALLOW)]


def _load(argument: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)


def _refuse(code: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | code)
