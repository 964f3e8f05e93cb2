# SPDX-License-Identifier: Apache-2.0
"""A look at the few files that tell of news, without the process that can read them.

It compares bytes and reads nothing into them. Whatever is not plainly the same (another answer, another form of answer,
a certificate that cannot be judged) means that everything is checked, by the process that is made for it; so nothing
here decides about trust. All of it is bounded: bytes, and the time for all files together.
"""

import hashlib
import re
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from device_agent.adapters.identity import DataFolder, key_of
from device_agent.adapters.proxy import proxy_for
from device_agent.core.agreement import Watched
from edgefleet.contracts.errors import EdgeFleetError, UnreachableError

_LIMIT_S = 30.0
_CONNECT_S = 10.0
_HEAD_LIMIT_BYTES = 8 << 10
_BODY_LIMIT_BYTES = 16 << 10
_PIECE_BYTES = 16 << 10
_OK, _NOT_FOUND = 200, 404
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,6}) *(?=\r\n)", re.IGNORECASE)
_ENCODED = re.compile(rb"\r\n(transfer|content)-encoding:", re.IGNORECASE)


class _UnusualAnswerError(Exception):
    """The answer is not of the one form that is read here."""


class Glance:
    """Looks at files of one device's server over a connection of its own, which ends with the look."""

    def __init__(self, folder: DataFolder, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._monotonic = monotonic

    def unchanged(self, watched: tuple[Watched, ...]) -> bool:
        """Tell whether all files are what they were; False where that cannot be told.

        Raises:
            UnreachableError: nobody answers at the server's address.
        """
        try:
            url = self._folder.read_identity().server_url.rstrip("/")
            with self._connect(url) as end:
                answers = _Answers(end, self._monotonic, self._monotonic() + _LIMIT_S)
                return all(_is_same(answers.get(url, file.path), file.sha256) for file in watched)
        except UnreachableError:
            raise
        except (OSError, ValueError, EdgeFleetError, _UnusualAnswerError):
            return False

    def _connect(self, url: str) -> ssl.SSLSocket:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
        if parts.scheme != "https":
            raise _UnusualAnswerError
        context = _context(self._folder.ca, self._folder.certificate, self._folder.key)
        end = _reach(url, host, port)
        end.settimeout(_CONNECT_S)  # for the whole handshake
        return context.wrap_socket(end, server_hostname=host)


class _Answers:
    """Requests and answers on one connection, until a moment on the clock."""

    def __init__(self, end: ssl.SSLSocket, monotonic: Callable[[], float], until: float) -> None:
        self._end = end
        self._monotonic = monotonic
        self._until = until
        self._read = bytearray()

    def get(self, url: str, path: str) -> tuple[int, bytes]:
        """Return the status and the body of the answer to a GET request."""
        parts = urlsplit(url + path)
        lines = (f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Accept-Encoding: identity", "", "")
        self._end.settimeout(self._left_s())
        self._end.sendall("\r\n".join(lines).encode())
        head = self._take_head()
        status, length = _STATUS.match(head), _LENGTH.findall(head)
        if status is None or len(length) != 1 or _ENCODED.search(head):
            raise _UnusualAnswerError
        return int(status[1]), self._take(int(length[0]))

    def _take_head(self) -> bytes:
        while (at := self._read.find(b"\r\n\r\n")) < 0:
            self._more(_HEAD_LIMIT_BYTES)
        return self._take(at + 4)

    def _take(self, count: int) -> bytes:
        while len(self._read) < count:
            self._more(_BODY_LIMIT_BYTES)
        taken = bytes(self._read[:count])
        del self._read[:count]
        return taken

    def _more(self, limit_bytes: int) -> None:
        if len(self._read) > limit_bytes:
            raise _UnusualAnswerError
        self._end.settimeout(self._left_s())
        piece = self._end.recv(_PIECE_BYTES)
        if not piece:
            raise _UnusualAnswerError
        self._read += piece

    def _left_s(self) -> float:
        left_s = self._until - self._monotonic()
        if left_s <= 0.0:
            raise TimeoutError
        return left_s


def _is_same(answer: tuple[int, bytes], sha256: str | None) -> bool:
    status, body = answer
    if sha256 is None:
        return status == _NOT_FOUND
    return status == _OK and hashlib.sha256(body).hexdigest() == sha256


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
