# SPDX-License-Identifier: Apache-2.0
"""Do work that a hostile model may kill in a fork, so that its death becomes a sentence.

LiteRT and the quantizer are C++ that trusts a model's numbers: one that passed the probe as it came can still end a
process once it is quantized, or on other kernels. A fork costs some milliseconds, and a thread of this process would be
missing in it: call it from a process that has started none, as the command line is before its first progress bar.
"""

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from edgefleet.contracts.errors import EdgeFleetError, ModelFailedError

T = TypeVar("T")
_HINT = "the file is damaged or not made by a converter: get it again from where it was made"
_CONFUSION_HINT = "the file is damaged; if it comes straight from its converter, report this line with the model"


def contained(work: Callable[[], T]) -> T:
    """Return what ``work()`` returns in a fork of this process; it must be something that pickle takes.

    Raises:
        EdgeFleetError: the one that ``work`` raised.
        ModelFailedError: the fork was killed or ended without an answer, or ``work`` raised anything else: the sentence
            then says what and where.
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
    result, refusal = pickle.loads(answer)  # noqa: S301  # written by our own fork
    if refusal is not None:
        kind, message, hint = refusal
        raise kind(message, hint=hint)
    returned: T = result
    return returned


def _answer(work: Callable[[], Any], writing: int) -> None:
    """Write what came of the work, and end the fork without running anything else of this process."""
    status = 1
    try:
        answer: tuple[Any, tuple[type[EdgeFleetError], str, str] | None]
        try:
            answer = (work(), None)
        except EdgeFleetError as error:
            answer = (None, (type(error), error.message, error.hint))
        except Exception as error:  # noqa: BLE001  # libraries and we ourselves trust what a model says of itself
            answer = (None, (ModelFailedError, _confusion(error), _CONFUSION_HINT))
        with os.fdopen(writing, "wb") as stream:
            pickle.dump(answer, stream)
        status = 0
    finally:
        os._exit(status)


def _confusion(error: Exception) -> str:
    """Return what was raised and by which line, in one sentence."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"the converter cannot make sense of the model: {what} ({Path(last.filename).name}, line {last.lineno})"


def _death(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"
