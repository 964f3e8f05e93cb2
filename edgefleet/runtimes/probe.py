# SPDX-License-Identifier: Apache-2.0
"""Load and run a model once in a child process, because a hostile or damaged one can kill the interpreter.

LiteRT verifies a flatbuffer's structure, so that almost every damaged file ends in an error. One that is well formed
and lies about itself still ends in SIGSEGV or SIGFPE while it loads or runs: in the digits model the one bit that turns
MAX_POOL_2D into SPLIT does it. A bundle's hashes keep damage out; for a model from elsewhere there are none.
Whoever takes a model from outside calls :func:`probe_model` before it loads that model in a process that must live.
"""

import contextlib
import ctypes
import math
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import msgspec

from edgefleet.contracts.errors import EdgeFleetError, MissingExtraError, ModelFailedError, UnsupportedModelError
from edgefleet.runtimes.litert import Kernels
from edgefleet.runtimes.process_end import describe_end

_REFUSED = 3
_KNOWN: tuple[type[EdgeFleetError], ...] = (UnsupportedModelError, ModelFailedError, MissingExtraError)
_HINT = "the file is damaged or not made by a converter: get it again from where it was made"
_TOO_LONG = "make the model or its input smaller; if it was small, the file is damaged: get it again"
#: Seconds of processor time for loading and one inference: these, and more for each byte and each input value.
_TIME_S = 4.0
_BYTES_A_SECOND = 1 << 20
_VALUES_A_SECOND = 1 << 14
#: Seconds on the clock after which a machine that is busy otherwise is not waited for.
_DEADLINE_S = 60.0
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_LEAST_MEMORY_BYTES = 1 << 30
_ONE_THREAD = 1


class _Refusal(msgspec.Struct, frozen=True):
    """What the child says where the model is refused in an orderly way."""

    code: str
    message: str
    hint: str


def probe_model(model: bytes, *, kernels: Kernels = "production", deadline_s: float = _DEADLINE_S) -> None:
    """Load ``model`` and run it once on zeros in a child process; return where that went well.

    Besides ``deadline_s`` seconds on the clock it may take some seconds of processor time (four, and more for a larger
    file or input), and half of the memory that this machine has to spare.

    Raises:
        UnsupportedModelError: the runtime cannot load it.
        ModelFailedError: it failed, killed the interpreter, or took more than that.
        MissingExtraError: the runtime is not installed.
    """
    _import_runtime()
    if _threads() == _ONE_THREAD:
        probe_in_fork(model, kernels=kernels, deadline_s=deadline_s)
        return
    command = [sys.executable, "-P", "-m", "edgefleet.runtimes.probe", kernels]
    try:
        done = subprocess.run(command, input=model, capture_output=True, timeout=deadline_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise _too_slow(deadline_s) from error
    _judge(done.returncode, done.stdout, deadline_s)


def probe_in_fork(model: bytes, *, kernels: Kernels = "production", deadline_s: float = _DEADLINE_S) -> None:
    """Do as :func:`probe_model` in a fork of this process: a tenth of the time, and only where nothing runs in threads.

    Raises:
        UnsupportedModelError, ModelFailedError, MissingExtraError: as :func:`probe_model`.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _answer_in_fork(model, kernels, deadline_s, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as stream:
            document = stream.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException:  # such as Ctrl-C: nobody waits for the answer
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    _judge(status, document, deadline_s)


def _answer_in_fork(model: bytes, kernels: Kernels, deadline_s: float, writing: int) -> NoReturn:
    """Say what came of it, and end the fork without running anything else of this process."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # LiteRT's own lines
            os.dup2(nowhere, stream)
        signal.setitimer(signal.ITIMER_REAL, deadline_s)
        refusal = _refusal(model, kernels)
        os.write(writing, b"" if refusal is None else msgspec.json.encode(refusal))
        os._exit(0 if refusal is None else _REFUSED)
    finally:
        os._exit(1)  # whatever was raised, no other code of this process may run in the fork


def _judge(status: int, document: bytes, deadline_s: float) -> None:
    """Turn what a child ended with into an error, unless that was well."""
    if status == -signal.SIGALRM:
        raise _too_slow(deadline_s)
    if status == -signal.SIGPROF:
        raise ModelFailedError("the model takes too long for a single inference, or never ends", hint=_TOO_LONG)
    if status == _REFUSED:
        raise _as_error(document)
    if status:
        raise ModelFailedError(f"the model killed the interpreter ({describe_end(status)})", hint=_HINT)


def _import_runtime() -> None:
    """Load what takes long to load: once for all forks, and before time is counted."""
    with contextlib.suppress(ImportError):  # the interpreter says so in a sentence
        import ai_edge_litert.interpreter  # noqa: F401


def _threads() -> int:
    """Return how many threads this process has, those that Python does not know of as well; 0 where nothing tells."""
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    except OSError:
        return 0


def _limit_means(model: bytes) -> None:
    """Give this child its share of memory and processor time, and let it end with its parent."""
    signal.setitimer(signal.ITIMER_PROF, _TIME_S + len(model) / _BYTES_A_SECOND)
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGKILL))
    with contextlib.suppress(OSError, ValueError, KeyError):  # another system, or a lower limit that stands already
        used, spare = _memory_bytes()
        limit = used + max(spare // 2, _LEAST_MEMORY_BYTES)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _memory_bytes() -> tuple[int, int]:
    """Return the addresses that this process has taken, and the memory that this machine has to spare."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return pages * resource.getpagesize(), int(facts["MemAvailable"].split()[0]) * 1024


def _too_slow(deadline_s: float) -> ModelFailedError:
    return ModelFailedError(f"the model did not answer once within {deadline_s:g} s", hint=_HINT)


def _as_error(document: bytes) -> EdgeFleetError:
    refusal = msgspec.json.decode(document, type=_Refusal)
    kind = next((known for known in _KNOWN if known.code == refusal.code), ModelFailedError)
    return kind(refusal.message, hint=refusal.hint)


def _refusal(model: bytes, kernels: Kernels) -> _Refusal | None:
    """Load and run a model in this process, and return how it was refused, if it was."""
    import numpy as np

    from edgefleet.runtimes.litert import LiteRtInterpreter

    _import_runtime()
    _limit_means(model)
    try:
        interpreter = LiteRtInterpreter(model, kernels=kernels)
        values = sum(math.prod(spec.shape) for spec in interpreter.inputs)
        left_s = signal.getitimer(signal.ITIMER_PROF)[0]
        signal.setitimer(signal.ITIMER_PROF, min(left_s + values / _VALUES_A_SECOND, _DEADLINE_S))
        interpreter.invoke([np.zeros(spec.shape, spec.dtype) for spec in interpreter.inputs])
    except EdgeFleetError as error:
        return _Refusal(error.code, error.message, error.hint)
    except MemoryError:
        return _Refusal(ModelFailedError.code, "the model needs more memory than this machine has", _HINT)
    return None


def _child(kernels: Kernels) -> int:
    refusal = _refusal(sys.stdin.buffer.read(), kernels)
    if refusal is None:
        return 0
    sys.stdout.buffer.write(msgspec.json.encode(refusal))
    return _REFUSED


if __name__ == "__main__":
    sys.exit(_child("reference" if sys.argv[1:] == ["reference"] else "production"))
