# SPDX-License-Identifier: Apache-2.0
"""``edgefleet rollouts``: send an approved release through the fleet in waves, and watch the gate."""

import time
from typing import Annotated, Any

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit
from edgefleet.contracts.errors import ExitStatus
from fleet_server.cli.options import HomeOption

app = typer.Typer(help="Send a release through the fleet in waves.", no_args_is_help=True)
IdArgument = Annotated[str, typer.Argument(help="The rollout's id; see 'edgefleet rollouts list'.")]
_POLL_S = 0.5
_ENDED = ("completed", "rolled-back")
_STOPPED = ("halted", "rolled-back")
#: A halted rollout whose devices are all back becomes rolled-back; with none online that may take for ever.
_HALTED_PATIENCE_S = 60.0


@app.command(epilog="Example: edgefleet rollouts create doorbell 1.2.0")
def create(
    name: Annotated[str, typer.Argument(help="The product's name.")],
    version: Annotated[str, typer.Argument(help="The release's version.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a rollout of an approved release; its policy says how."""
    _print(_call(home, "POST", "rollouts", {"name": name, "version": version}), as_json)


@app.command("list", epilog="Example: edgefleet rollouts list")
def list_(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List all rollouts, the newest first."""
    found = _call(home, "GET", "rollouts")
    emit(found, as_json=as_json, human=lambda: "\n".join(_line(rollout) for rollout in found) or "no rollouts yet")


@app.command(epilog="Example: edgefleet rollouts status doorbell-1.2.0-3f2a --wait --timeout 600")
def status(
    rollout_id: IdArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Wait no longer than this many seconds.", min=0.0)
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a rollout and what its gate says; exit status 5 if it was halted or rolled back."""
    found = _wait(home, rollout_id, timeout) if wait else _call(home, "GET", _path(rollout_id))
    _print(found, as_json)
    if found["state"] in _STOPPED:
        raise typer.Exit(int(ExitStatus.ROLLED_BACK))
    if wait and found["state"] not in _ENDED:
        typer.echo(f"error: still {found['state']} after {timeout} s\nhint: wait longer", err=True)
        raise typer.Exit(int(ExitStatus.FAILED))


@app.command(epilog="Example: edgefleet rollouts pause doorbell-1.2.0-3f2a")
def pause(rollout_id: IdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Let no further device have the release, until 'resume'."""
    _order(home, rollout_id, "pause", as_json)


@app.command(epilog="Example: edgefleet rollouts resume doorbell-1.2.0-3f2a")
def resume(rollout_id: IdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Go on with a paused rollout."""
    _order(home, rollout_id, "resume", as_json)


@app.command(epilog="Example: edgefleet rollouts abort doorbell-1.2.0-3f2a")
def abort(rollout_id: IdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """End a rollout that is under way; its devices go back to the release before."""
    _order(home, rollout_id, "abort", as_json)


@app.command(epilog="Example: edgefleet rollouts undo doorbell-1.2.0-3f2a")
def undo(rollout_id: IdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Take back a rollout, completed or not; its devices go back to the release before."""
    _order(home, rollout_id, "undo", as_json)


def _order(home: HomeOption, rollout_id: str, order: str, as_json: bool) -> None:
    _print(_call(home, "POST", f"{_path(rollout_id)}/{order}"), as_json)


def _path(rollout_id: str) -> str:
    from fleet_server.adapters.access.api_client import segment

    return f"rollouts/{segment(rollout_id)}"


def _call(home: HomeOption, method: str, path: str, document: object = None) -> Any:
    from fleet_server.adapters.access.api_client import ApiClient
    from fleet_server.adapters.access.home import Home

    with ApiClient(Home(home).login()) as client:
        return client.get(path) if method == "GET" else client.post(path, document)


def _wait(home: HomeOption, rollout_id: str, timeout_s: float | None) -> Any:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    halted_at = None
    while True:
        found = _call(home, "GET", _path(rollout_id))
        now = time.monotonic()
        if found["state"] == "halted":
            halted_at = halted_at or now
        lost_patience = halted_at is not None and now - halted_at > _HALTED_PATIENCE_S
        if found["state"] in _ENDED or lost_patience or (deadline is not None and now >= deadline):
            return found
        time.sleep(_POLL_S)


def _print(rollout: dict[str, Any], as_json: bool) -> None:
    emit(rollout, as_json=as_json, human=lambda: _describe(rollout))


def _line(rollout: dict[str, Any]) -> str:
    waves = f"wave {rollout['wave']} of {len(rollout['wave_percents'])}"
    cause = f"  ({rollout['cause']})" if rollout["cause"] else ""
    return f"{rollout['id']:<40} {rollout['state']:<12} {waves}{cause}"


def _describe(rollout: dict[str, Any]) -> str:
    lines = [
        _line(rollout),
        f"  {rollout['assigned']} of {rollout['covered']} covered devices have the order, {rollout['settled']} run it, "
        f"{rollout['failed']} failed; {rollout['held_out']} held out, {rollout['offline']} offline, "
        f"{len(rollout['not_covered'])} not covered",
        *(f"  {device} cannot run it: {'; '.join(why)}" for device, why in rollout["unfit"].items()),
    ]
    if rollout["verdict"]:
        lines += [f"  {f['outcome']:<15} {f['rule']}: {f['text']}" for f in rollout["verdict"]["findings"]]
    return "\n".join(lines)
