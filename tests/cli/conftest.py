# SPDX-License-Identifier: Apache-2.0
"""A made-up room with verbs that fail in every way, hung on the real front door."""

from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import NamedTuple

import pytest

from edgefleet.cli.main import GROUP, run

ROOM = '''
import sys
import typer
from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit, progress
from edgefleet.contracts import errors

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Try things. More words.")

@app.command()
def fail(kind: str, json_output: JsonOption = False) -> None:
    """Fail as told."""
    raise getattr(errors, kind)("got 1, expected 2 (a.b)", hint="make it 2")

@app.command()
def quote(text: str, fails: bool = False, json_output: JsonOption = False) -> None:
    """Say what was given, as a result or as an error."""
    if fails:
        raise errors.BundleError(f"'{text}' is no bundle", hint=f"look at {text}")
    emit({"text": text}, as_json=json_output, human=text)

@app.command()
def leave(status: int) -> None:
    """Exit with a status."""
    raise typer.Exit(status)

@app.command()
def show(json_output: JsonOption = False) -> None:
    """Show something."""
    with progress("counting", 2) as advance:
        advance()
    emit({"count": 2}, as_json=json_output, human="two")

@app.command()
def ask() -> None:
    """Ask something."""
    typer.confirm("sure?", abort=True)

@app.command()
def read(path: str) -> None:
    """Read a file without a thought of what may go wrong."""
    open(path).read()

@app.command()
def interrupt() -> None:
    """Be stopped by hand."""
    raise KeyboardInterrupt
'''


class Outcome(NamedTuple):
    """What one run of the front door said."""

    status: int
    out: str
    err: str


FrontDoor = Callable[[Sequence[str]], Outcome]


@pytest.fixture
def front_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> FrontDoor:
    """Run ``edgefleet`` in this process, with the verbs ``try`` (works) and ``away`` (its package is missing)."""
    (tmp_path / "made_up_room.py").write_text(ROOM, encoding="utf-8")
    (tmp_path / "made_up_lack.py").write_text("import no_such_package_at_all\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = {
        "try": EntryPoint("try", "made_up_room:app", GROUP),
        "away": EntryPoint("away", "made_up_lack:app", GROUP),
    }

    def enter(arguments: Sequence[str]) -> Outcome:
        status = run(arguments, points)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return enter
