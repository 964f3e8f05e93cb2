# SPDX-License-Identifier: Apache-2.0
"""Do work that a hostile model may kill in a fork, so that its death becomes a sentence.

LiteRT and the quantizer are C++ that trusts a model's numbers: one that passed the probe as it came can still end a
process once it is quantized, or on other kernels. A fork costs some milliseconds, and a thread of this process would be
missing in it: call it from a process that has started none, as the command line is before its first progress bar.

The fork ends with this process, however that ends, and takes its own children and temporary folders along; where memory
runs out, it goes first.
"""

import contextlib
import ctypes
import os
import pickle
import select
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from edgefleet.contracts.errors import EdgeFleetError, ModelFailedError
from edgefleet.runtimes.process_end import describe_end

T = TypeVar("T")
_HINT = "the file is damaged or not made by a converter: get it again from where it was made"
_CONFUSION_HINT = "the file is damaged; if it comes straight from its converter, report this line with the model"
#: How long a fork that was told to stop may take to tidy up.
_TIDYING_S = 3.0
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


class _Stopped(BaseException):
    """SIGTERM came: like KeyboardInterrupt, nothing but tidying up is to be done."""


def contained(work: Callable[[], T]) -> T:
    """Return what ``work()`` returns in a fork of this process; it must be something that pickle takes.

    Raises:
        EdgeFleetError: the one that ``work`` raised.
        ModelFailedError: the fork was killed or ended without an answer, or ``work`` raised anything else: the sentence
            then says what and where.
    """
    parent = os.getpid()
    reading, writing = os.pipe()
    with _told_of_termination():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)  # in the middle of a fork it would be lost
        child = os.fork()
        if child == 0:
            _answer(work, reading, writing, parent, before)
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(writing)
            with os.fdopen(reading, "rb") as stream:
                answer = stream.read()
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except BaseException:  # such as Ctrl-C: the fork has no more work to do
            _end(child)
            raise
    if status or not answer:
        raise ModelFailedError(f"the model killed the converter ({describe_end(status)})", hint=_HINT)
    result, refusal = pickle.loads(answer)  # noqa: S301  # written by our own fork
    if refusal is not None:
        kind, message, hint = refusal
        raise kind(message, hint=hint)
    returned: T = result
    return returned


@contextlib.contextmanager
def _told_of_termination() -> Iterator[None]:
    """Let SIGTERM interrupt the block like Ctrl-C does; once that has tidied up, it ends this process as it would."""
    ordinary = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    )
    if not ordinary:  # somebody has a way of their own to end
        yield
        return
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except _Stopped:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stop(_: int, __: FrameType | None) -> NoReturn:
    raise _Stopped


def _end(child: int) -> None:
    """Ask a fork to tidy up and end; one that does not is killed."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(child, signal.SIGTERM)
        with contextlib.suppress(OSError, AttributeError):  # an older Linux, or another system: it is killed at once
            watched = os.pidfd_open(child)
            select.select([watched], [], [], _TIDYING_S)
            os.close(watched)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _answer(
    work: Callable[[], Any], reading: int, writing: int, parent: int, unblocked: set[signal.Signals | int]
) -> NoReturn:
    """Write what came of the work, and end the fork without running anything else of this process."""
    status = 1
    try:
        os.close(reading)
        _end_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
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


def _end_with(parent: int) -> None:
    """Make this fork end when its parent does, and be the first to go where memory runs out."""
    signal.signal(signal.SIGTERM, _stop)
    with contextlib.suppress(OSError, AttributeError):  # Linux has both; elsewhere a fork may outlive its parent
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGTERM))
        Path("/proc/self/oom_score_adj").write_text("1000")
    if os.getppid() != parent:  # it ended before that
        os._exit(1)


@contextlib.contextmanager
def in_sentences() -> Iterator[None]:
    """Turn what libraries, or we ourselves, raise over what a model says of itself into a sentence, in this process.

    Raises:
        ModelFailedError: the block raised anything but an EdgeFleetError; that is its cause.
    """
    try:
        yield
    except EdgeFleetError:
        raise
    except Exception as error:  # flatbuffers, numpy and the quantizer raise whatever a damaged model leads them to
        raise ModelFailedError(_confusion(error), hint=_CONFUSION_HINT) from error


def _confusion(error: Exception) -> str:
    """Return what was raised and by which line, in one sentence."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"the converter cannot make sense of the model: {what} ({Path(last.filename).name}, line {last.lineno})"
