# SPDX-License-Identifier: Apache-2.0
"""What commands print: one JSON document or text on standard output, progress on standard error."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from edgefleet.contracts.errors import EdgeFleetError, StorageError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Advance(Protocol):
    """Report that ``steps`` more of the work is done, or say a line about it that stays."""

    def __call__(self, steps: int = 1) -> None: ...  # noqa: D102

    def say(self, line: str) -> None: ...  # noqa: D102


def emit(document: object, *, as_json: bool, human: Callable[[], str] | str) -> None:
    """Print ``document`` (a msgspec structure or plain types) as indented JSON, or the text for people."""
    if as_json:
        plain = _sayable(msgspec.to_builtins(document))
        write_out(msgspec.json.format(msgspec.json.encode(plain), indent=2).decode() + "\n")
    else:
        lines = (human if isinstance(human, str) else human()).rstrip("\n").split("\n")
        write_out("".join(f"{_one_line(line)}\n" for line in lines))


def write_out(text: str) -> None:
    """Write to standard output at once; a reader that went away (``| head``) has what it wanted.

    What the terminal's encoding has no letter for is written as an escape.

    Raises:
        StorageError: standard output cannot be written to.
    """
    if sys.stdout is None:  # closed by whoever started us
        raise StorageError("cannot write to standard output: it is closed", hint="leave it open, or send it to a file")
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered has nowhere to go: without this the interpreter complains again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise StorageError(
                f"cannot write to standard output: {error.strerror}", hint="free space where the output goes"
            ) from error


def emit_error(error: EdgeFleetError, *, as_json: bool) -> None:
    """Print an error: message and hint on standard error, or with ``--json`` one document on standard output."""
    if as_json:
        document = {
            "error": {
                "code": error.code,
                "message": error.message,
                "hint": error.hint,
                "exit_status": int(error.exit_status),
            }
        }
        emit(document, as_json=True, human="")
    elif sys.stderr is not None:  # else whoever started us closed it, and reads the exit status
        sys.stderr.write(f"error: {_one_line(error.message)}\nhint: {_one_line(error.hint)}\n")


def _one_line(text: str) -> str:
    """Escape what would break the line or steer the terminal: a message may quote a file's name or content."""
    return "".join(letter if letter.isprintable() or letter == "\t" else repr(letter)[1:-1] for letter in text)


def _sayable(value: Any) -> Any:  # any JSON value
    """Escape halves of surrogate pairs, which stand for the bytes of a file's name that is no UTF-8, and no JSON is."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_sayable(key): _sayable(item) for key, item in value.items()}
    return [_sayable(item) for item in value] if isinstance(value, list | tuple) else value


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Advance]:
    """Show a progress bar on standard error while the block runs; silent where that is no terminal.

    ``total`` is the number of steps, or None where it is not known.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield _Unseen()
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield _Shown(bar, bar.add_task(description, total=total))


class _Shown:
    """Moves a bar, and writes lines above it."""

    def __init__(self, bar: "Progress", task: "TaskID") -> None:
        self._bar, self._task = bar, task

    def __call__(self, steps: int = 1) -> None:
        self._bar.advance(self._task, steps)

    def say(self, line: str) -> None:
        """Write a line as it is: what it quotes is no markup."""
        self._bar.console.print(_one_line(line), markup=False, highlight=False, soft_wrap=True)


class _Unseen:
    """Takes no notice: nobody is looking."""

    def __call__(self, steps: int = 1) -> None:
        pass

    def say(self, line: str) -> None:
        """Keep silent."""
