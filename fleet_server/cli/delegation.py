# SPDX-License-Identifier: Apache-2.0
"""Publish a delegation: straight into the folder of a stopped server, or through the API of a running one."""

from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.errors import ConflictError
from edgefleet.contracts.files import read_file
from fleet_server.adapters.access.api_client import ApiClient
from fleet_server.adapters.access.home import Home, Login, read_token
from fleet_server.adapters.keys.provision import ProductDelegation, delegate_product, publish_targets_offline
from fleet_server.adapters.storage.data_folder import DataFolder, Listening
from fleet_server.core.trust.tuf_types import Signer


def publish_delegation(folder: DataFolder, home: Home, signer: Signer, delegation: ProductDelegation) -> None:
    """Sign a delegation and publish it.

    Raises:
        EdgeFleetError: it cannot be made, or the server refuses it; nothing is changed then.
    """
    try:
        publish_targets_offline(folder, signer, delegation)
    except ConflictError:
        if not folder.listening_path.exists():
            raise
        with ApiClient(_admin_login(folder, home)) as client:
            current = client.get_bytes("/api/v1/targets") or b""
            client.put_bytes("targets", delegate_product(current, signer, delegation))


def _admin_login(folder: DataFolder, home: Home) -> Login:
    """Return the way to the server that runs on this very folder, with the home's token."""
    listening = decode_json(
        read_file(folder.listening_path, "the server's addresses"), Listening, source=str(folder.listening_path)
    )
    token = home.login().token if home.login_path.exists() else read_token(home.path / "token")
    return Login(server=listening.api, token=token)
