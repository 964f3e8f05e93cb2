# SPDX-License-Identifier: Apache-2.0
"""What the agent's child processes do to themselves at their start: die with the parent, limits, no network."""

import ctypes
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path

#: Environment of a child that runs models: the interpreter has its own threads, those of numpy's libraries would only
#: cost memory and time at the start.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
#: Where the worker finds the accelerator's settings, whose options are nobody else's: arguments are shown to all users.
ACCELERATOR_VARIABLE = "EDGEFLEET_WORKER_ACCELERATOR"
_PR_SET_PDEATHSIG = 1
_MADV_DONTNEED = 4
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_TO_DIE_S = 5


def die_with_parent(parent_pid: int) -> None:
    """Let the kernel kill this process when its parent ends; end now if the parent is gone already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def leave_network() -> bool:
    """Move this process into a network namespace of its own, without any interface; tell whether that worked.

    An unprivileged process may do so only in a user namespace of its own, where the kernel allows these at all.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    return any(libc.unshare(flags) == 0 for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET))


def limit_resources(*, cpu_s: int, open_files: int, memory_bytes: int) -> None:
    """Bound this process: processor seconds, private memory, open files, no core dump, no file written.

    Processor seconds end in SIGXCPU, which says what for, unlike the SIGKILL that follows.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + _TO_DIE_S))
    for kind, limit in (
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_NOFILE, open_files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def allow_open_files(wanted: int) -> int:
    """Raise this process's own limit of open files as far as is wanted and allowed, and return what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < wanted:  # below zero: without limit
        soft = min(wanted, hard) if hard >= 0 else wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft if soft >= 0 else wanted


def leave_no_core() -> None:
    """Let no core dump be made of this process, which holds what applications sent, and whose end must not wait for it.

    One byte is what stops it even where the system takes core dumps through a pipe (core(5)).
    """
    highest = resource.getrlimit(resource.RLIMIT_CORE)[1]
    limit = min(highest, 1) if highest >= 0 else 1  # below zero: without limit
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def half_of_memory_bytes() -> int:
    """Return half of what this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def be_first_to_go() -> None:
    """Where memory runs out all the same, let the kernel end this process rather than one that serves."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def rss_bytes(pid: int | None = None) -> int:
    """Return the resident memory of a process (this one), 0 if it is gone."""
    try:
        pages = Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def private_bytes() -> int:
    """Return the resident memory that is this process's alone, without files and shared memory."""
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def peak_rss_bytes() -> int:
    """Return the largest resident memory that this process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def let_go_of_start_up_code() -> int:
    """Take the libraries' code out of this process's memory, and return how many bytes that were.

    Most of it served a start that is over. What is still needed comes back from the page cache when it is next run, a
    few pages at a time. Only code that nothing was written into is let go: nothing is lost.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    total = 0
    for start, end in _pure_code():
        if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED) == 0:
            total += end - start
    with suppress(AttributeError):  # glibc's alone
        libc.malloc_trim(ctypes.c_size_t(0))
    return total


def _pure_code() -> list[tuple[int, int]]:
    """Return the mappings of files that can be run and hold no page of this process's own (proc(5), smaps)."""
    found: list[tuple[int, int]] = []
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        return found
    candidate: tuple[int, int] | None = None
    for line in lines:
        words = line.split()
        if not words[0].endswith(":"):
            start, _, end = words[0].partition("-")
            is_code = words[1] == "r-xp" and len(words) > 5 and words[5].startswith("/")
            candidate = (int(start, 16), int(end, 16)) if is_code else None
        elif words[0] == "Anonymous:" and candidate is not None and words[1] == "0":
            found.append(candidate)
    return found
