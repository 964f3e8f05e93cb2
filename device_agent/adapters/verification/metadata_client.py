# SPDX-License-Identifier: Apache-2.0
"""python-tuf's client within this agent's limits: the same for the agent and for ``tuf-client``.

What a repository may cost a device: bytes a file, how slow a server, roles searched, and new roots, in one check.
"""

import time
from collections.abc import Callable, Iterator

import urllib3
from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.ngclient import FetcherInterface, UpdaterConfig  # type: ignore[attr-defined]  # tuf re-exports without saying so

from device_agent.core.pace import Pace
from device_agent.errors import TrustRefusedError

DELEGATION_LIMIT = 32
#: New roots in one check; what was taken is kept, so that a device with more behind it goes on at its next check.
ROOT_LIMIT = 256
ROOT_LIMIT_BYTES = 512_000
TIMESTAMP_LIMIT_BYTES = 16_384
SNAPSHOT_LIMIT_BYTES = 2_000_000
TARGETS_LIMIT_BYTES = 5_000_000
#: A server that stays below this over a window is taken for one that wants to keep the device from hearing more.
SLOWEST_BYTES_S = 50.0
WINDOW_S = 30.0

_OK = 200
_HINT = "nothing is installed and what runs goes on; the agent tries again by itself"

#: Sends a GET request for an address and returns status and body in pieces, as they come.
Reader = Callable[[str], tuple[int, Iterator[bytes]]]


def client_settings() -> UpdaterConfig:
    """Return what python-tuf's client is told; the chain of roots is bounded by the fetcher, which says so."""
    return UpdaterConfig(
        max_root_rotations=1 << 20,
        max_delegations=DELEGATION_LIMIT,
        root_max_length=ROOT_LIMIT_BYTES,
        timestamp_max_length=TIMESTAMP_LIMIT_BYTES,
        snapshot_max_length=SNAPSHOT_LIMIT_BYTES,
        targets_max_length=TARGETS_LIMIT_BYTES,
    )


class BoundedFetcher(FetcherInterface):
    """python-tuf's way to a server; counts new roots, and gives up a server that is too slow.

    Raises:
        TrustRefusedError: with the cause ``metadata-slow`` or ``root-chain-too-long``, the latter as the cause of
            python-tuf's DownloadError.
    """

    def __init__(self, read: Reader, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._monotonic = monotonic
        self._roots = 0

    def begin(self) -> None:
        """Start to count anew: a check begins."""
        self._roots = 0

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rpartition("/")[2]
        pace = Pace(SLOWEST_BYTES_S, WINDOW_S, began=self._monotonic())
        status, pieces = self._read(url)
        if status != _OK:
            for _ in pieces:
                pass
            raise DownloadHTTPError(f"the server answered {status}", status)
        self._count_root(name)
        return self._paced(name, pieces, pace)

    def _count_root(self, name: str) -> None:
        if name.endswith(".root.json"):
            self._roots += 1
        if self._roots > ROOT_LIMIT:
            many = f"there are more than {ROOT_LIMIT} new roots"
            raise TrustRefusedError("root-chain-too-long", many, hint=_HINT)

    def _paced(self, name: str, pieces: Iterator[bytes], pace: Pace) -> Iterator[bytes]:
        try:
            for piece in pieces:
                if pace.too_slow(len(piece), self._monotonic()):
                    slow = f"'{name}' comes with less than {SLOWEST_BYTES_S:g} bytes a second"
                    raise TrustRefusedError("metadata-slow", slow, hint=_HINT)
                yield piece
        except urllib3.exceptions.HTTPError as error:  # the connection broke within the body
            raise DownloadError(f"'{name}' did not come whole") from error
