# SPDX-License-Identifier: Apache-2.0
"""Load and run a model once in a child process, because a hostile or damaged one can kill the interpreter.

LiteRT verifies a flatbuffer's structure, so that almost every damaged file ends in an error. One that is well formed
and lies about itself still ends in SIGSEGV or SIGFPE while it loads or runs: in the digits model the one bit that turns
MAX_POOL_2D into SPLIT does it. A bundle's hashes keep damage out; for a model from elsewhere there are none.
Whoever takes a model from outside calls :func:`probe_model` before it loads that model in a process that must live.
"""

import os
import signal
import subprocess
import sys

import msgspec

from edgefleet.contracts.errors import EdgeFleetError, MissingExtraError, ModelFailedError, UnsupportedModelError
from edgefleet.runtimes.litert import Kernels

_REFUSED = 3
_KNOWN: tuple[type[EdgeFleetError], ...] = (UnsupportedModelError, ModelFailedError, MissingExtraError)
_HINT = "the file is damaged or not made by a converter: get it again from where it was made"


class _Refusal(msgspec.Struct, frozen=True):
    """What the child says where the model is refused in an orderly way."""

    code: str
    message: str
    hint: str


def probe_model(model: bytes, *, kernels: Kernels = "production", deadline_s: float = 60.0) -> None:
    """Load ``model`` and run it once on zeros in a child process; return where that went well.

    Raises:
        UnsupportedModelError: the runtime cannot load it.
        ModelFailedError: it failed, killed the interpreter, or did not answer within ``deadline_s`` seconds.
        MissingExtraError: the runtime is not installed.
    """
    command = [sys.executable, "-P", "-m", "edgefleet.runtimes.probe", kernels]
    try:
        done = subprocess.run(command, input=model, capture_output=True, timeout=deadline_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise _too_slow(deadline_s) from error
    if done.returncode == _REFUSED:
        raise _as_error(done.stdout)
    if done.returncode:
        raise ModelFailedError(f"the model killed the interpreter ({_death(done.returncode)})", hint=_HINT)


def probe_in_fork(model: bytes, *, kernels: Kernels = "production", deadline_s: float = 60.0) -> None:
    """Do as :func:`probe_model` in a fork of this process: a tenth of the time, and only where nothing runs in threads.

    Raises:
        UnsupportedModelError, ModelFailedError, MissingExtraError: as :func:`probe_model`.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.setitimer(signal.ITIMER_REAL, deadline_s)
            refusal = _refusal(model, kernels)
            os.write(writing, b"" if refusal is None else msgspec.json.encode(refusal))
            os._exit(0 if refusal is None else _REFUSED)
        finally:
            os._exit(1)  # whatever was raised, no other code of this process may run in the fork
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        document = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGALRM:
        raise _too_slow(deadline_s)
    if status == _REFUSED:
        raise _as_error(document)
    if status:
        raise ModelFailedError(f"the model killed the interpreter ({_death(status)})", hint=_HINT)


def _too_slow(deadline_s: float) -> ModelFailedError:
    return ModelFailedError(f"the model did not answer once within {deadline_s:g} s", hint=_HINT)


def _as_error(document: bytes) -> EdgeFleetError:
    refusal = msgspec.json.decode(document, type=_Refusal)
    kind = next((known for known in _KNOWN if known.code == refusal.code), ModelFailedError)
    return kind(refusal.message, hint=refusal.hint)


def _death(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _refusal(model: bytes, kernels: Kernels) -> _Refusal | None:
    """Load and run a model in this process, and return how it was refused, if it was."""
    import numpy as np

    from edgefleet.runtimes.litert import LiteRtInterpreter

    try:
        interpreter = LiteRtInterpreter(model, kernels=kernels)
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
