# SPDX-License-Identifier: Apache-2.0
"""HTTPS to the fleet server: its certificate authority and no other, and the device's own certificate."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import urllib3

from edgefleet.contracts.errors import InputError, SettingError, UnreachableError

_TIMEOUT = urllib3.Timeout(connect=10.0, read=30.0)
_HINT = "check the server's address and the network; the agent tries again by itself"


class ServerConnection:
    """A pool of kept connections to one server; safe to use from several threads."""

    def __init__(self, server_url: str, *, ca: Path, certificate: Path | None = None, key: Path | None = None) -> None:
        self.server_url = server_url.rstrip("/")
        if not self.server_url.startswith("https://"):
            raise SettingError(
                f"the server's address is '{server_url}', expected https://…", hint="ask for a new ticket"
            )
        self._pool = urllib3.PoolManager(
            maxsize=4, retries=False, timeout=_TIMEOUT, ssl_context=_context(ca, certificate, key)
        )

    @contextmanager
    def get(self, path: str, *, first_byte: int = 0) -> Iterator[urllib3.HTTPResponse]:
        """Open a GET request for a path of the server, from ``first_byte`` on.

        Raises:
            UnreachableError: the server does not answer, or the connection breaks while the body is read.
        """
        headers = {"Range": f"bytes={first_byte}-"} if first_byte else {}
        try:
            response = self._pool.request("GET", self.server_url + path, headers=headers, preload_content=False)
            try:
                assert isinstance(response, urllib3.HTTPResponse)  # noqa: S101  the pool's only kind
                yield response
            finally:
                response.drain_conn() if response.status >= 400 else response.close()
                response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error

    def read(self, path: str) -> tuple[int, Iterator[bytes]]:
        """Request a path and return its status and its body in pieces, which keep the connection for the next."""
        response = self._pool.request("GET", self.server_url + path, preload_content=False)
        return response.status, _pieces(response)

    def post_json(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Post a JSON document and return status and body.

        Raises:
            UnreachableError: the server does not answer.
        """
        headers = {"Content-Type": "application/json"}
        try:
            response = self._pool.request("POST", self.server_url + path, body=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error
        return response.status, response.data

    def close(self) -> None:
        """Close all kept connections."""
        self._pool.clear()

    def _unreachable(self, error: urllib3.exceptions.HTTPError) -> UnreachableError:
        return UnreachableError(f"the server {self.server_url} does not answer: {_reason(error)}", hint=_HINT)


def _pieces(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    try:
        yield from response.stream(64 << 10)
    finally:
        response.release_conn()


def _context(ca: Path, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"the device's certificates cannot be used: {error}", hint="enrol the device again") from error
    return context


def _reason(error: BaseException) -> str:
    cause: BaseException | None = getattr(error, "reason", None)
    return str(cause if isinstance(cause, BaseException) else error)[:300]
