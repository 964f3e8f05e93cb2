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

    from fleet_server.adapters.access.api_client import ApiClient
    from fleet_server.adapters.access.home import Home
    from fleet_server.adapters.storage.private_files import check_absent, write_secret

    check_absent(output)
    with ApiClient(Home(home).login()) as client:
        ticket = client.post("devices", {"name": name, "profile": profile})
    write_secret(output, msgspec.json.format(msgspec.json.encode(ticket), indent=2))
    document = {"device": name, "profile": profile, "ticket": str(output)}
    emit(document, as_json=as_json, human=f"ticket of {name} written to {output}: carry it to the device")


@app.command("list", epilog="Example: edgefleet devices list --json")
def list_(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List all devices: connection, running release, status."""
    from fleet_server.adapters.access.api_client import ApiClient
    from fleet_server.adapters.access.home import Home

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
    from fleet_server.adapters.access.api_client import ApiClient, segment
    from fleet_server.adapters.access.home import Home

    with ApiClient(Home(home).login()) as client:
        device = client.get(f"devices/{segment(name)}")
        events = client.get("events", device=name, limit=20)
    lines = [
        _line(device),
        *_identity_lines(device),
        *(f"  {event['kind']} ({event['cause']}) {event['detail']}" for event in events),
    ]
    emit({**device, "events": events}, as_json=as_json, human="\n".join(lines))


@app.command(epilog="Example: edgefleet devices grace door-1 --days 7")
def grace(
    name: Annotated[str, typer.Argument(help="The device's name.")],
    days: Annotated[float, typer.Option("--days", help="For how long from now; 0 ends a grace.", min=0.0)],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a device whose certificate has lapsed renew it all the same, for some days."""
    from fleet_server.adapters.access.api_client import ApiClient, segment
    from fleet_server.adapters.access.home import Home

    with ApiClient(Home(home).login()) as client:
        device = client.post(f"devices/{segment(name)}/grace", {"days": days})
    until = _moment(device["renewal_grace_until"])
    emit(device, as_json=as_json, human=f"{name} may renew a lapsed certificate until {until}")


@app.command(epilog="Example: edgefleet devices lift door-1 digits 2.0.0")
def lift(
    device: Annotated[str, typer.Argument(help="The device's name.")],
    name: Annotated[str, typer.Argument(help="The release's name; 'edgefleet-agent' is the agents' own software.")],
    version: Annotated[str, typer.Argument(help="The release's version.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a device try a release once more that it refused, or went back from: a signed order ends its quarantine."""
    from fleet_server.adapters.access.api_client import ApiClient, segment
    from fleet_server.adapters.access.home import Home

    with ApiClient(Home(home).login()) as client:
        found = client.post(f"devices/{segment(device)}/lift", {"name": name, "version": version})
    said = f"{device} may try {name} {version} once more, by order {found['counter']}"
    emit(found, as_json=as_json, human=said)


@app.command(epilog="Example: edgefleet devices decommission door-1 --yes")
def decommission(
    name: Annotated[str, typer.Argument(help="The device's name; it can never be used again.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a device out of the fleet for good: its certificate ends, and nothing is signed for it any more."""
    from fleet_server.adapters.access.api_client import ApiClient, segment
    from fleet_server.adapters.access.home import Home

    if not yes and not typer.confirm(f"Take {name} out of the fleet for good?", err=True):
        raise typer.Exit(1)
    with ApiClient(Home(home).login()) as client:
        device = client.post(f"devices/{segment(name)}/decommission", {})
    emit(device, as_json=as_json, human=f"{name} was decommissioned")


def _identity_lines(device: dict[str, Any]) -> list[str]:
    """Say what there is to say of a device's certificate, its software, its board, and who else uses its name."""
    lines = []
    if device["cloned_at"]:
        lines.append(f"  CLONED, seen {_moment(device['cloned_at'])}: {device['cloned_detail']}")
    if device["decommissioned_at"]:
        lines.append(f"  decommissioned {_moment(device['decommissioned_at'])}")
    if device["certificate_ends_at"]:
        grace = device["renewal_grace_until"]
        also = f", renewable until {_moment(grace)}" if grace else ""
        lines.append(f"  certificate until {_moment(device['certificate_ends_at'])}{also}")
    if software := (device["state"] or {}).get("software"):
        lines.append(f"  software {software['name']} {software['version']}")
    if device["facts"]:
        lines += [f"  {name}: {value}" for name, value in _told(device["facts"])]
    return lines


def _told(facts: dict[str, Any]) -> list[tuple[str, str]]:
    values = [(name, ", ".join(value) if isinstance(value, list) else str(value)) for name, value in facts.items()]
    return [(name.replace("_", " "), value) for name, value in values if value]


def _moment(at: float) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def _line(device: dict[str, Any]) -> str:
    state = device["state"] or {}
    running = state.get("running")
    runs = f"{running['name']} {running['version']}" if running else "no model"
    said = f"{_standing(device):<8} {state.get('status', '-'):<16}"
    return f"{device['name']:<24} {said} {runs:<28} {device['profile']}"


def _standing(device: dict[str, Any]) -> str:
    if device["cloned_at"] or device["decommissioned_at"]:
        return "CLONED" if device["cloned_at"] else "gone"
    if (device["state"] or {}).get("connected"):
        return "online"
    return "offline" if device["enrolled"] else "invited"
