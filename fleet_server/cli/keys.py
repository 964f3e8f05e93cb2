# SPDX-License-Identifier: Apache-2.0
"""``edgefleet keys``: make signing keys, and say who may approve a product's releases."""

from pathlib import Path
from typing import Annotated

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit
from fleet_server.cli.options import DataOption, HomeOption, PassphraseOption, ask_passphrase, read_passphrase

app = typer.Typer(help="Make signing keys, and say who may approve a product's releases.", no_args_is_help=True)


@app.command(epilog="Example: edgefleet keys create ada --home ~/.config/edgefleet")
def create(
    name: Annotated[str, typer.Argument(help="What the key is called in its home folder.")],
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an Ed25519 signing key. Only its public part (NAME.pub.json) is ever handed on."""
    from edgefleet.contracts.errors import InputError
    from edgefleet.contracts.names import is_name
    from fleet_server.adapters.access.home import Home
    from fleet_server.adapters.keys.key_files import create_key

    if not is_name(name):
        raise InputError(f"'{name}' cannot name a key", hint="use lowercase letters, digits, '-' and '_'")
    folder = Home(home).keys
    signer = create_key(folder, name, read_passphrase(passphrase_file))
    public = folder / f"{name}.pub.json"
    document = {
        "name": name,
        "keyid": signer.public_key.keyid,
        "public": str(public),
        "private": str(folder / f"{name}.pem"),
        "encrypted": passphrase_file is not None,
    }
    emit(document, as_json=as_json, human=f"key {name} made; hand on its public part: {public}")


@app.command(
    epilog="Example: edgefleet keys delegate doorbell --data srv --home admin "
    "--approver ada.pub.json --approver bob.pub.json --threshold 2"
)
def delegate(
    product: Annotated[str, typer.Argument(help="The product, as in its bundles' manifests.")],
    approver: Annotated[list[Path], typer.Option("--approver", help="An approver's NAME.pub.json; once for each.")],
    threshold: Annotated[int, typer.Option("--threshold", help="How many of them must sign a release.", min=1)],
    data: DataOption,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let approvers sign a product's releases; signed with the offline targets key.

    A server that runs on the folder gets the new metadata through its API, with the admin's token.
    """
    from fleet_server.adapters.access.home import Home
    from fleet_server.adapters.keys.key_files import load_signer, read_public_key
    from fleet_server.adapters.keys.provision import ProductDelegation
    from fleet_server.adapters.storage.data_folder import DataFolder
    from fleet_server.cli.delegation import publish_delegation

    person = Home(home)
    keys = [read_public_key(path) for path in approver]
    signer = load_signer(person.keys, "targets", lambda: ask_passphrase(passphrase_file, "targets"))
    publish_delegation(DataFolder(data), person, signer, ProductDelegation(product, keys, threshold))
    document = {"product": product, "threshold": threshold, "approvers": [key.keyid for key in keys]}
    emit(
        document,
        as_json=as_json,
        human=f"releases of {product} need {threshold} of {len(keys)} approvals from now on",
    )
