# SPDX-License-Identifier: Apache-2.0
"""A look at the few files that tell of news, without the process that can read them.

It compares bytes and reads nothing into them. Whatever is not plainly the same (another answer, another form of answer,
a certificate that cannot be judged) means that everything is checked, by the process that is made for it; so nothing
here decides about trust. All of it is bounded: bytes, and the time for all files together.
"""

import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from device_agent.adapters.identity.data_folder import DataFolder, key_of
from device_agent.adapters.network.proxy import proxy_for
from device_agent.core.orders.agreement import Watched
from edgefleet.contracts.errors import EdgeFleetError, UnreachableError

_LIMIT_S = 30.0
_CONNECT_S = 10.0
_BODY_LIMIT_BYTES = 16 << 10
_OK, _NOT_FOUND = 200, 404
_PLAIN = {"Accept-Encoding": "identity"}


class Glance:
    """Looks at files of one device's server over a connection of its own, which ends with the look."""

    def __init__(self, folder: DataFolder, *, limit_s: float = _LIMIT_S) -> None:
        self._folder = folder
        self._limit_s = limit_s

    def unchanged(self, watched: tuple[Watched, ...]) -> bool:
        """Tell whether all files are what they were; False where that cannot be told.

        Raises:
            UnreachableError: nobody answers at the server's address.
        """
        try:
            url = self._folder.read_identity().server_url.rstrip("/")
            base = urlsplit(url).path
            with self._connect(url) as end, _ended_after(self._limit_s, end):
                connection = HTTPConnection(urlsplit(url).netloc)
                connection.sock, connection.auto_open = end, 0  # it would come back without TLS
                return all(_is_same(connection, base + file.path, file.sha256) for file in watched)
        except UnreachableError:
            raise
        except (OSError, ValueError, EdgeFleetError, HTTPException):
            return False

    def _connect(self, url: str) -> ssl.SSLSocket:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
        if parts.scheme != "https":
            raise ValueError(url)
        context = _context(self._folder.ca, self._folder.certificate, self._folder.key)
        end = _reach(url, host, port)
        end.settimeout(_CONNECT_S)  # for the whole handshake
        return context.wrap_socket(end, server_hostname=host)


@contextmanager
def _ended_after(limit_s: float, end: ssl.SSLSocket) -> Iterator[None]:
    """Hang up after a time, however slowly the other side speaks."""

    def hang_up() -> None:
        with suppress(OSError):
            socket.socket.shutdown(end, socket.SHUT_RDWR)  # whoever reads sees the end

    timer = threading.Timer(limit_s, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _is_same(connection: HTTPConnection, path: str, sha256: str | None) -> bool:
    connection.request("GET", path, headers=_PLAIN)
    with closing(connection.getresponse()) as response:
        if response.length is None or response.length > _BODY_LIMIT_BYTES:
            return False
        body = response.read()
    if sha256 is None:
        return response.status == _NOT_FOUND
    return response.status == _OK and hashlib.sha256(body).hexdigest() == sha256


def _reach(url: str, host: str, port: int) -> socket.socket:
    """Return a connection to the server's port, behind a proxy where there is one.

    Raises:
        UnreachableError: nobody answers there.
    """
    proxy = proxy_for("https", host)
    try:
        if proxy is not None:
            return proxy.tunnel(host, port, timeout_s=_CONNECT_S)
        return socket.create_connection((host, port), timeout=_CONNECT_S)
    except OSError as error:
        raise UnreachableError(
            f"the server {url} does not answer: {error.strerror or error}",
            hint="check the server's address and the network; the agent tries again by itself",
        ) from error


def _context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key_of(certificate, key))
    return context
