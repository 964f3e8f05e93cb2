# SPDX-License-Identifier: Apache-2.0
"""Both repositories over one connection to the server, in whatever process asks; an update in the inbox comes first.

What a person brought is verified like what the server says, into the same memory of versions seen. The server has the
last word: once it answers, the inbox is forgotten.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.network.https import ServerConnection
from device_agent.adapters.verification.download import BundleDownloads
from device_agent.adapters.verification.inbox import FolderConnection, Inbox
from device_agent.adapters.verification.trust import TufTrust
from device_agent.adapters.verification.trust_memory_file import known_time
from device_agent.core.orders.agreement import Agreement
from device_agent.core.orders.release_orders import Notice, Order, TargetFile
from device_agent.errors import TrustRefusedError
from edgefleet.contracts.errors import EdgeFleetError

_LOG = logging.getLogger("edgefleet.agent")


class InProcessRepositories:
    """The port ``Repositories`` without a process of its own; ``reserve_bytes`` of the disk stay free.

    Raises:
        FileMissingError: the folder holds no enrolled device.
        SettingError: what it holds is damaged.
    """

    def __init__(self, folder: DataFolder, *, reserve_bytes: int) -> None:
        #: What must not change for the last order to stand; None for one that a person brought.
        self.agreement: Agreement | None = None
        self._folder = folder
        self._identity = folder.read_identity()
        self._inbox = Inbox(folder.root)
        self._connection = ServerConnection(
            self._identity.server_url,
            ca=folder.ca,
            certificate=folder.certificate,
            key=folder.key,
            bound=known_time(folder.trust),
        )
        self._brought = FolderConnection(self._inbox.path, self._identity.device)
        self._trust = TufTrust(folder, self._identity, self._connection)
        self._downloads = BundleDownloads(folder.downloads, self._connection, reserve_bytes=reserve_bytes)
        self._copies = BundleDownloads(folder.downloads, self._brought, reserve_bytes=reserve_bytes)

    def check(self, seen_counter: int) -> Order:
        """Return the order that both repositories agree on; see :meth:`TufTrust.check`."""
        self.agreement = None
        if not self._inbox.present:
            order = self._trust.check(seen_counter)
            self.agreement = self._trust.agreement
            return order
        brought = self._check_brought(seen_counter)
        self._trust = TufTrust(self._folder, self._identity, self._connection)  # it shares the memory of the other
        try:
            order = self._trust.check(seen_counter)
        except TrustRefusedError:
            raise
        except EdgeFleetError:
            if isinstance(brought, Order):
                return brought
            raise brought from None
        self._inbox.discard()
        return order if isinstance(brought, Order) else _with_refusal(order, brought)

    def fetch(self, target: TargetFile, cancelled: Callable[[], bool]) -> Path:
        """Return a complete file; see :meth:`BundleDownloads.fetch`."""
        downloads = self._copies if self._inbox.holds(target.sha256) else self._downloads
        return downloads.fetch(target, cancelled)

    def _check_brought(self, seen_counter: int) -> Order | EdgeFleetError:
        """Return what the inbox orders, or why that is refused: then it is forgotten, so that it is told once."""
        try:
            return TufTrust(self._folder, self._identity, self._brought).check(seen_counter)
        except EdgeFleetError as error:
            _LOG.warning("the update in the inbox is refused: %s", error)
            self._inbox.discard()
            return error


def _with_refusal(order: Order, error: EdgeFleetError) -> Order:
    """Let the server's order tell, too, that what a person brought was refused, and why."""
    cause = error.cause if isinstance(error, TrustRefusedError) else error.code
    notice = Notice(cause, f"the update that was brought: {error.message}"[:1000], "update-refused")
    return order._replace(notices=(*order.notices, notice))
