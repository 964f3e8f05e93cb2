# SPDX-License-Identifier: Apache-2.0
"""HTTP proxies: where there is one, the way to the server and to the broker leads through its CONNECT.

It is told by the settings, or by the environment as other programs read it: ``HTTPS_PROXY`` for the server,
``MQTT_PROXY`` for the broker, ``ALL_PROXY`` for both where they are not set, ``NO_PROXY`` for hosts that are reached
directly; in lower case, too. A name and password stand in a file alone: ``EDGEFLEET_PROXY_CREDENTIALS`` names it.
TLS is end to end: the proxy sees names, ports and lengths.
"""

import base64
import os
import socket
import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from edgefleet.contracts.errors import SettingError, UnreachableError
from edgefleet.contracts.files import read_regular

CREDENTIALS_VARIABLE = "EDGEFLEET_PROXY_CREDENTIALS"
_ANSWER_LIMIT_BYTES = 16 << 10
_CREDENTIALS_LIMIT_BYTES = 4096
_HINT = "write http://HOST:PORT, and a name and password into the file that `proxy_credentials` names"


@dataclass(frozen=True)
class Proxy:
    """A proxy, with the header that it wants; its repr shows no secret."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """The address without any secret."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def tunnel(self, host: str, port: int, *, timeout_s: float) -> socket.socket:
        """Return a connection to a host and port behind the proxy.

        Raises:
            OSError: the proxy does not answer, or refuses.
        """
        deadline = time.monotonic() + timeout_s
        end = socket.create_connection((self.host, self.port), timeout=timeout_s)
        try:
            name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            authorization = f"Proxy-Authorization: {self.authorization}\r\n" if self.authorization else ""
            end.sendall(f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n{authorization}\r\n".encode())
            status = _status(end, deadline)
        except BaseException:
            end.close()
            raise
        if not status.startswith("2"):
            end.close()
            raise ConnectionRefusedError(f"the proxy {self.url} refuses: {status}")
        return end


def tell_proxy(url: str | None, credentials: str | None, environment: MutableMapping[str, str] = os.environ) -> None:
    """Let the settings' proxy hold for this process and its children.

    Raises:
        SettingError: it is no address of a proxy, or has a name and password in it.
    """
    if url is not None:
        _parse(url, "")
        for variable in ("https_proxy", "mqtt_proxy"):
            environment[variable] = url
    if credentials is not None:
        environment[CREDENTIALS_VARIABLE] = credentials


def proxy_for(scheme: Literal["https", "mqtt"], host: str) -> Proxy | None:
    """Return the proxy on the way to a host; None: there is none.

    Raises:
        SettingError: the environment names one in a form that is not taken.
    """
    from urllib.request import getproxies_environment, proxy_bypass  # it loads OpenSSL: not before the worker starts

    known = getproxies_environment()
    url = known.get(scheme) or known.get("all")
    if not url or proxy_bypass(host, known):
        return None
    path = os.environ.get(CREDENTIALS_VARIABLE, "")
    return _parse(url, _authorization(Path(path)) if path else "")


def _parse(url: str, authorization: str) -> Proxy:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if "@" in parts.netloc:
        raise SettingError(f"the proxy's address at '{parts.hostname}' holds a name or password", hint=_HINT)
    if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
        raise SettingError("the proxy's address is not http://HOST:PORT", hint=_HINT)
    return Proxy(parts.hostname, port or 8080, authorization)


def _authorization(path: Path) -> str:
    try:
        data = read_regular(path)[:_CREDENTIALS_LIMIT_BYTES].strip()
    except OSError as error:
        raise UnreachableError(
            f"the proxy's credentials in '{path.name}' cannot be read: {error.strerror or error}", hint=_HINT
        ) from error
    return f"Basic {base64.b64encode(data).decode()}"


def _status(end: socket.socket, deadline: float) -> str:
    """Read the answer's head, not a byte more, and return its status and reason."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        end.settimeout(max(deadline - time.monotonic(), 0.001))
        byte = end.recv(1)
        if not byte or len(head) >= _ANSWER_LIMIT_BYTES:
            raise ConnectionResetError("the proxy's answer breaks off")
        head += byte
    return head.partition(b"\r\n")[0].decode("latin-1").partition(" ")[2].strip()[:100]
