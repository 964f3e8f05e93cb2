# SPDX-License-Identifier: Apache-2.0
"""``edgefleet devices``: invite devices, and see how they are."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit
from fleet_server.cli.options import HomeOption

app = typer.Typer(help="Invite devices, and see how they are.", no_args_is_help=True)


@app.command(epilog="Example: edgefleet devices invite door-1 --profile linux-x86_64 --output ticket.json")
def invite(
    name: Annotated[str, typer.Argument(help="The device's name: lowercase letters, digits, '-' and '_'.")],
    profile: Annotated[str, typer.Option("--profile", help="The board's profile; see 'edgefleet profiles list'.")],
    output: Annotated[Path, typer.Option("--output", help="The ticket to carry to the device (holds a secret, 0600).")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a one-time ticket with which a device enrols: edgefleet-agent enrol --ticket FILE."""
    import msgspec

    from fleet_server.adapters.api_client import ApiClient
    from fleet_server.adapters.home import Home
    from fleet_server.adapters.private_files import check_absent, write_secret

    check_absent(output)
    with ApiClient(Home(home).login()) as client:
        ticket = client.post("devices", {"name": name, "profile": profile})
    write_secret(output, msgspec.json.format(msgspec.json.encode(ticket), indent=2))
    document = {"device": name, "profile": profile, "ticket": str(output)}
    emit(document, as_json=as_json, human=f"ticket of {name} written to {output}: carry it to the device")


@app.command("list", epilog="Example: edgefleet devices list --json")
def list_(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List all devices: connection, running release, status."""
    from fleet_server.adapters.api_client import ApiClient
    from fleet_server.adapters.home import Home

    with ApiClient(Home(home).login()) as client:
        found = client.get("devices")
    emit(found, as_json=as_json, human=lambda: "\n".join(_line(device) for device in found) or "no devices yet")


@app.command(epilog="Example: edgefleet devices show door-1")
def show(
    name: Annotated[str, typer.Argument(help="The device's name.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one device and its recent events."""
    from fleet_server.adapters.api_client import ApiClient, segment
    from fleet_server.adapters.home import Home

    with ApiClient(Home(home).login()) as client:
        device = client.get(f"devices/{segment(name)}")
        events = client.get("events", device=name, limit=20)
    lines = [_line(device), *(f"  {event['kind']} ({event['cause']}) {event['detail']}" for event in events)]
    emit({**device, "events": events}, as_json=as_json, human="\n".join(lines))


def _line(device: dict[str, Any]) -> str:
    state = device["state"] or {}
    running = state.get("running")
    connection = "online" if state.get("connected") else "offline" if device["enrolled"] else "invited"
    runs = f"{running['name']} {running['version']}" if running else "no model"
    return f"{device['name']:<24} {connection:<8} {state.get('status', '-'):<16} {runs:<28} {device['profile']}"
