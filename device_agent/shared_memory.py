# SPDX-License-Identifier: Apache-2.0
"""Shared memory between one application and the worker: how it is laid out, and how each side wakes the other.

The worker makes a memory file of a fixed size and seals it, so that nobody can shrink it under the other's feet. It
holds, in native byte order::

    u32 at   0   number of the last request: written last, by the application
    u32 at   4   1 while the application sleeps, and wants a ring over the socket when its answer is there
    u32 at  64   number of the last request that was answered: written last, by the worker
    u32 at  68   1 while the worker sleeps, and wants a ring over the socket when there is a request
    u32 at 128   size of the request's area, and at 132 that of the answer's
    256          the request's area: u32 length, then the body of a frame
    256 + size of the request's area: the answer's area, likewise; length 0xFFFFFFFF: the answer comes by the socket

Rules that both sides keep:

1. One request at a time. Whoever reads copies first and looks then, for the other side may write at any time.
2. Looking instead of sleeping is for machines with two processors and with stores that others see in order (x86-64),
   and only just after traffic. Elsewhere each side rings always: the socket's locks order the memory.
3. Who goes to sleep says so and looks once more. The application looks again after :data:`SECOND_LOOK_S`, and rings
   in case it has not: the worker's word and its request may have crossed.
"""

import errno
import fcntl
import mmap
import os
import platform
import struct

HEAD_BYTES = 256
AREA_LIMIT_BYTES = 16 << 20
BY_SOCKET = 0xFFFFFFFF
SECOND_LOOK_S = 0.002
LENGTH = struct.Struct("=I")
#: Places of the words, in words.
REQUESTED, CLIENT_SLEEPS, ANSWERED, WORKER_SLEEPS, REQUEST_SIZE, ANSWER_SIZE = 0, 1, 16, 17, 32, 33
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_ORDERED = ("x86_64", "AMD64", "i686")


def looks() -> bool:
    """Tell whether looking into the memory may take the place of ringing on this machine."""
    return platform.machine() in _ORDERED and len(os.sched_getaffinity(0)) > 1


class SharedMemory:
    """One side's view of the memory file behind a descriptor, which this takes over."""

    def __init__(self, descriptor: int, request_bytes: int, answer_bytes: int) -> None:
        self.request_at = HEAD_BYTES
        self.answer_at = HEAD_BYTES + request_bytes
        self.request_bytes = request_bytes - LENGTH.size
        self.answer_bytes = answer_bytes - LENGTH.size
        try:
            self._map = mmap.mmap(descriptor, HEAD_BYTES + request_bytes + answer_bytes)
        finally:
            os.close(descriptor)
        self.view = memoryview(self._map)
        self.words = self.view[:HEAD_BYTES].cast("I")

    @property
    def size_bytes(self) -> int:
        """The memory that it takes."""
        return len(self._map)

    def close(self) -> None:
        """Let go of the memory."""
        self.words.release()
        self.view.release()
        self._map.close()


def rounded(size_bytes: int) -> int:
    """Return the size of an area that holds a body: whole pages."""
    return (size_bytes + LENGTH.size + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE


def create(request_bytes: int, answer_bytes: int) -> tuple[SharedMemory, int]:
    """Make a sealed memory file with room for bodies of these sizes; return this side's view and a descriptor to pass.

    Raises:
        OSError: the system has no room for it.
    """
    areas = rounded(request_bytes), rounded(answer_bytes)
    descriptor = os.memfd_create("edgefleet-inference", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, HEAD_BYTES + sum(areas))
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        memory = SharedMemory(os.dup(descriptor), *areas)
    except OSError:
        os.close(descriptor)
        raise
    memory.words[REQUEST_SIZE], memory.words[ANSWER_SIZE] = areas
    memory.words[WORKER_SLEEPS] = 1
    return memory, descriptor


def attach(descriptor: int) -> SharedMemory:
    """Map the memory file that the worker passed, and take its descriptor over.

    Raises:
        OSError: it cannot be mapped, smaller than its head says, or not sealed: shrunk, it would end who reads it.
    """
    try:
        areas = _areas(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return SharedMemory(descriptor, *areas)


def _areas(descriptor: int) -> tuple[int, int]:
    """Return the sizes of both areas, which are there and will be."""
    head = os.pread(descriptor, HEAD_BYTES, 0).ljust(HEAD_BYTES, b"\0")
    request_bytes, answer_bytes = struct.unpack_from("=II", head, 4 * REQUEST_SIZE)
    sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    whole = os.fstat(descriptor).st_size >= HEAD_BYTES + request_bytes + answer_bytes
    if not (sealed and whole) or min(request_bytes, answer_bytes) < LENGTH.size:
        raise OSError(errno.EINVAL, "the shared memory is not as its head says")
    return request_bytes, answer_bytes
