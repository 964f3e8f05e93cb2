# SPDX-License-Identifier: Apache-2.0
"""``edgefleet login``: remember a server and a token."""

from pathlib import Path
from typing import Annotated

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit
from fleet_server.cli.options import HomeOption

app = typer.Typer()


@app.command(epilog="Example: edgefleet login --server http://127.0.0.1:8080 --token-file admin/token")
def log_in(
    server: Annotated[str, typer.Option("--server", help="The management API's address.")],
    token_file: Annotated[Path, typer.Option("--token-file", help="A file that holds the token.")],
    root: Annotated[
        Path | None, typer.Option("--root", help="The image repository's root metadata, from a trusted hand.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a token against a server, and remember both in the home folder (0600).

    The image repository's root becomes this home's trust anchor: the file given with --root, or else the server's
    own on this first use. Compare the printed SHA-256 with the administrator's.
    """
    from edgefleet.contracts.files import read_file
    from fleet_server.adapters.access.api_client import ApiClient
    from fleet_server.adapters.access.home import Home, Login, read_token
    from fleet_server.adapters.releases.approver import pin_root

    person = Home(home)
    wanted = Login(server=server.strip().rstrip("/"), token=read_token(token_file))
    given = read_file(root, "the root metadata") if root is not None else None
    with ApiClient(wanted) as client:
        client.get("devices")
        root_sha256 = pin_root(client, person, given)
    person.save_login(wanted)
    document = {"server": wanted.server, "home": str(person.path), "root_sha256": root_sha256}
    emit(document, as_json=as_json, human=f"logged in to {wanted.server}; image root {root_sha256}")
