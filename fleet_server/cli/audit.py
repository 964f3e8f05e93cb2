# SPDX-License-Identifier: Apache-2.0
"""``edgefleet audit``: who did what, and whether the log is whole."""

from datetime import UTC, datetime
from typing import Any

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit
from fleet_server.cli.options import HomeOption

app = typer.Typer()
_PAGE = 1000


@app.command(epilog="Example: edgefleet audit --json")
def show(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Print the audit log, after checking its hash chain on this machine."""
    import msgspec

    from edgefleet.contracts.errors import TrustError
    from fleet_server.adapters.access.api_client import ApiClient
    from fleet_server.adapters.access.home import Home
    from fleet_server.core.audit_chain import AuditEntry, first_broken

    entries: list[dict[str, Any]] = []
    with ApiClient(Home(home).login()) as client:
        while page := client.get("audit", after=len(entries), limit=_PAGE):
            entries += page
    broken = first_broken(msgspec.convert(entries, list[AuditEntry]))
    if broken is not None:
        raise TrustError(f"the audit log's chain breaks at entry {broken}", hint="compare it with a backup")
    emit(entries, as_json=as_json, human=lambda: "\n".join(_line(entry) for entry in entries))


def _line(entry: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(entry["at"], UTC)
    who = f"{entry['actor']:<20} {entry['action']:<20}"
    return f"{entry['number']:>6}  {at:%Y-%m-%d %H:%M:%S}  {who} {entry['subject']}  {entry['detail']}"
