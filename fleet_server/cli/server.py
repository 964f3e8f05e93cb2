# SPDX-License-Identifier: Apache-2.0
"""``edgefleet server``: make a server, run it, and hand out tokens."""

from pathlib import Path
from typing import Annotated

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit
from fleet_server.cli.options import DataOption, HomeOption, PassphraseOption, read_passphrase

app = typer.Typer(help="Make a fleet server, and run it.", no_args_is_help=True)


@app.command(epilog="Example: edgefleet server init --data srv --tenant acme --admin-home admin")
def init(
    data: DataOption,
    tenant: Annotated[str, typer.Option("--tenant", help="The fleet's owner; part of certificates and topics.")],
    admin_home: Annotated[Path, typer.Option("--admin-home", help="Where the offline keys and the first token go.")],
    host: Annotated[
        list[str] | None, typer.Option("--host", help="A name or address of this server; more than once.")
    ] = None,
    passphrase_file: PassphraseOption = None,
    certificate_days: Annotated[
        float | None,
        typer.Option("--certificate-days", help="How long a device's certificate holds (825).", min=1e-5, max=36500.0),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new server: offline keys for the administrator, online keys for the signer, certificates, a token."""
    from fleet_server.adapters.keys.provision import init_server
    from fleet_server.adapters.storage.data_folder import DataFolder

    hosts = list(dict.fromkeys(["127.0.0.1", "localhost", *(host or [])]))
    init_server(
        DataFolder(data),
        admin_home,
        tenant=tenant,
        hosts=hosts,
        passphrase=read_passphrase(passphrase_file),
        certificate_days=certificate_days,
    )
    document = {
        "tenant": tenant,
        "data": str(data),
        "admin_home": str(admin_home),
        "token_file": str(admin_home / "token"),
        "hosts": hosts,
    }
    emit(
        document,
        as_json=as_json,
        human=f"server of {tenant} made in {data}; keep {admin_home} (root and targets keys, first token) off it",
    )


@app.command(epilog="Example: edgefleet server run --data srv --broker mqtt://127.0.0.1:1883")
def run(
    data: DataOption,
    listen: Annotated[
        str, typer.Option("--listen", help="HOST:PORT of the management API and page (loopback only).")
    ] = "127.0.0.1:8080",
    device_listen: Annotated[
        str, typer.Option("--device-listen", help="HOST:PORT for devices (TLS).")
    ] = "127.0.0.1:8443",
    broker: Annotated[str | None, typer.Option("--broker", help="mqtt://HOST:PORT or mqtts://HOST:PORT.")] = None,
    time_scale: Annotated[
        float,
        typer.Option("--time-scale", help="Divide policy durations by this; for emulation only.", min=1.0, max=1e6),
    ] = 1.0,
    captures_bytes: Annotated[
        int,
        typer.Option("--captures-bytes", help="Room for inputs that devices captured and upload; 0: none.", min=0),
    ] = 0,
    as_json: JsonOption = False,  # noqa: ARG001 - the ready line is JSON either way
) -> None:
    """Run the server until SIGTERM; prints one line of JSON with its addresses when it is ready. Port 0: any free."""
    from fleet_server.wiring import RunOptions, run_server

    run_server(RunOptions(data, listen, device_listen, broker, time_scale, captures_bytes))


@app.command(epilog="Example: edgefleet server token ada --role approver --output ada.token --home admin")
def token(
    name: Annotated[str, typer.Argument(help="Whose token it is; the audit log names it.")],
    role: Annotated[str, typer.Option("--role", help="admin, approver or viewer.")],
    output: Annotated[Path, typer.Option("--output", help="The file to write the token to (0600).")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API token for a person or a program; only admins may."""
    from fleet_server.adapters.access.api_client import ApiClient
    from fleet_server.adapters.access.home import Home
    from fleet_server.adapters.storage.private_files import check_absent, write_secret

    check_absent(output)
    with ApiClient(Home(home).login()) as client:
        made = client.post("tokens", {"name": name, "role": role})
    write_secret(output, made["token"].encode())
    document = {"name": name, "role": role, "token_file": str(output)}
    emit(document, as_json=as_json, human=f"token of {name} ({role}) written to {output}")
