# SPDX-License-Identifier: Apache-2.0
"""HTTPS to the fleet server: its certificate authority and no other, and the device's own certificate."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3

from device_agent.adapters.identity.data_folder import key_of
from device_agent.adapters.network.proxy import proxy_for
from device_agent.adapters.network.tls_time import judge_by_known_time
from edgefleet.contracts.errors import InputError, SettingError, UnreachableError

_TIMEOUT = urllib3.Timeout(connect=10.0, read=30.0)
#: What is asked for is never compressed on the way: TUF's limits and a bundle's length count the bytes that come.
_PLAIN = {"Accept-Encoding": "identity"}
_ANSWER_LIMIT_BYTES = 1 << 20
_ERROR_BODY_BYTES = 64 << 10
_PIECE_BYTES = 64 << 10
_HINT = "check the server's address and the network; the agent tries again by itself"


class ServerConnection:
    """A pool of kept connections to one server; safe to use from several threads.

    The certificates are read at the first request: a device whose certificates were lost still answers applications.
    ``bound`` is a time that has passed for certain (Unix seconds), by which certificates are judged if the clock is
    behind it.
    """

    def __init__(
        self,
        server_url: str,
        *,
        ca: Path,
        certificate: Path | None = None,
        key: Path | None = None,
        bound: float = 0.0,
    ) -> None:
        self.server_url = server_url.rstrip("/")
        if not self.server_url.startswith("https://"):
            raise SettingError(
                f"the server's address is '{server_url}', expected https://…", hint="ask for a new ticket"
            )
        #: What the server last said of the time, in Unix seconds; nobody signs it.
        self.server_date: float | None = None
        self._files = (ca, certificate, key)
        self._bound = bound
        self._made_of: tuple[int, ...] = ()
        self._made: urllib3.PoolManager | None = None

    @property
    def _pool(self) -> urllib3.PoolManager:
        """The pool, made anew when the certificate was renewed; requests that are under way end as they began."""
        now = _fingerprint(self._files[1])
        if self._made is None or now != self._made_of:
            context = _context(*self._files)
            judge_by_known_time(context, self._bound)
            self._made = _new_pool(context, self.server_url)
            self._made_of = now
        return self._made

    @contextmanager
    def get(self, path: str, *, first_byte: int = 0) -> Iterator[urllib3.HTTPResponse]:
        """Open a GET request for a path of the server, from ``first_byte`` on.

        Raises:
            UnreachableError: the server does not answer, or the connection breaks while the body is read.
            InputError: the device's certificates cannot be used.
        """
        headers = _PLAIN | ({"Range": f"bytes={first_byte}-"} if first_byte else {})
        try:
            response = self._request("GET", path, headers=headers)
            try:
                yield response
            finally:
                response.close()
                response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error

    def read(self, path: str) -> tuple[int, Iterator[bytes]]:
        """Request a path and return its status and its body in pieces, which keep the connection for the next."""
        response = self._request("GET", path, headers=_PLAIN)
        return response.status, body_pieces(response)

    def post_json(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Post a JSON document and return status and body.

        Raises:
            UnreachableError: the server does not answer.
        """
        headers = _PLAIN | {"Content-Type": "application/json"}
        try:
            response = self._request("POST", path, headers=headers, body=body)
            data = response.read(_ANSWER_LIMIT_BYTES + 1, decode_content=False)
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error
        response.close()
        if len(data) > _ANSWER_LIMIT_BYTES:
            raise UnreachableError(f"the server {self.server_url} sends an endless answer", hint=_HINT)
        return response.status, data

    def _request(self, method: str, path: str, **settings: Any) -> urllib3.HTTPResponse:
        """Send a request and return its answer, unread; no redirect is followed."""
        response = self._pool.request(method, self.server_url + path, preload_content=False, redirect=False, **settings)
        assert isinstance(response, urllib3.HTTPResponse)  # noqa: S101  the pool's only kind
        self.server_date = _date(response.headers.get("Date", ""))
        return response

    def close(self) -> None:
        """Close all kept connections."""
        if self._made is not None:
            self._made.clear()

    def _unreachable(self, error: urllib3.exceptions.HTTPError) -> UnreachableError:
        return UnreachableError(f"the server {self.server_url} does not answer: {reason_of(error)}", hint=_HINT)


def body_pieces(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Yield a body as it comes, piece by piece if a server trickles; an error's body is only read away."""
    if response.status >= 400:  # the caller wants no more than the status, and the connection for the next request
        response.read(_ERROR_BODY_BYTES, decode_content=False)
        response.release_conn() if response.length_remaining == 0 else response.close()
        return
    try:
        while piece := response.read1(_PIECE_BYTES, decode_content=False):
            yield piece
    finally:
        response.release_conn()


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _fingerprint(path: Path | None) -> tuple[int, ...]:
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return ()
    return (found.st_ino, found.st_mtime_ns) if found is not None else ()


def _new_pool(context: ssl.SSLContext, server_url: str) -> urllib3.PoolManager:
    proxy = proxy_for("https", urlsplit(server_url).hostname or "")
    if proxy is None:
        return urllib3.PoolManager(maxsize=4, retries=False, timeout=_TIMEOUT, ssl_context=context)
    headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
    return urllib3.ProxyManager(
        proxy.url, proxy_headers=headers, maxsize=4, retries=False, timeout=_TIMEOUT, ssl_context=context
    )


def _context(ca: Path, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None:
            context.load_cert_chain(certificate, key_of(certificate, key))
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"the device's certificates cannot be used: {error.strerror or error}", hint="enrol the device again"
        ) from error
    return context


def reason_of(error: BaseException) -> str:
    """Return what the system or TLS said, without the names of urllib3's own objects."""
    cause: BaseException | None = getattr(error, "reason", None)
    cause = cause if isinstance(cause, BaseException) else error
    for part in (cause.__cause__, *cause.args):
        if isinstance(part, OSError) and not isinstance(part, ssl.SSLError):
            return (part.strerror or str(part))[:300]
    return str(cause)[:300]
