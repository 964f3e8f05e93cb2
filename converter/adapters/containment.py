# SPDX-License-Identifier: Apache-2.0
"""Do work that a hostile model may kill in a fork, so that its death becomes a sentence.

LiteRT and the quantizer are C++ that trusts a model's numbers: one that passed the probe as it came can still end a
process once it is quantized, or on other kernels. A fork costs some milliseconds, and a thread of this process would be
missing in it: call it from a process that has started none, as the command line is before its first progress bar.
"""

import os
import pickle
import signal
from collections.abc import Callable
from typing import Any, TypeVar

from edgefleet.contracts.errors import EdgeFleetError, ModelFailedError

T = TypeVar("T")
_HINT = "the file is damaged or not made by a converter: get it again from where it was made"


def contained(work: Callable[[], T]) -> T:
    """Return what ``work()`` returns in a fork of this process; it must be something that pickle takes.

    Raises:
        Exception: the one that ``work`` raised.
        ModelFailedError: the fork was killed, or ended without an answer.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _answer(work, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as stream:
            answer = stream.read()
    except BaseException:  # such as Ctrl-C: the fork has no more work to do
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status or not answer:
        raise ModelFailedError(f"the model killed the converter ({_death(status)})", hint=_HINT)
    result, refusal, fault = pickle.loads(answer)  # noqa: S301  # written by our own fork
    if refusal is not None:
        kind, message, hint = refusal
        raise kind(message, hint=hint)
    if fault is not None:
        raise fault
    returned: T = result
    return returned


def _answer(work: Callable[[], Any], writing: int) -> None:
    """Write what came of the work, and end the fork without running anything else of this process."""
    status = 1
    try:
        answer: tuple[Any, Any, Exception | None]
        try:
            answer = (work(), None, None)
        except EdgeFleetError as error:
            answer = (None, (type(error), error.message, error.hint), None)
        except Exception as error:  # noqa: BLE001  # a fault of ours: it is raised again where it can be seen
            answer = (None, None, error)
        with os.fdopen(writing, "wb") as stream:
            pickle.dump(answer, stream)
        status = 0
    finally:
        os._exit(status)


def _death(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"
