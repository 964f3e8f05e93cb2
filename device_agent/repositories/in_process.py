# SPDX-License-Identifier: Apache-2.0
"""Both repositories over one connection to the server, in whatever process asks."""

from collections.abc import Callable
from pathlib import Path

from device_agent.adapters.download import BundleDownloads
from device_agent.adapters.https import ServerConnection
from device_agent.adapters.identity import DataFolder
from device_agent.adapters.trust import TufTrust
from device_agent.core.orders import Order, TargetFile


class InProcessRepositories:
    """The port ``Repositories`` without a process of its own; ``reserve_bytes`` of the disk stay free.

    Raises:
        FileMissingError: the folder holds no enrolled device.
        SettingError: what it holds is damaged.
    """

    def __init__(self, folder: DataFolder, *, reserve_bytes: int) -> None:
        identity = folder.read_identity()
        connection = ServerConnection(identity.server_url, ca=folder.ca, certificate=folder.certificate, key=folder.key)
        self._trust = TufTrust(folder, identity, connection)
        self._downloads = BundleDownloads(folder.downloads, connection, reserve_bytes=reserve_bytes)

    def check(self, seen_counter: int) -> Order:
        """Return the order that both repositories agree on; see :meth:`TufTrust.check`."""
        return self._trust.check(seen_counter)

    def fetch(self, target: TargetFile, cancelled: Callable[[], bool]) -> Path:
        """Return a complete file; see :meth:`BundleDownloads.fetch`."""
        return self._downloads.fetch(target, cancelled)
