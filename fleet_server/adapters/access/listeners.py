# SPDX-License-Identifier: Apache-2.0
"""Sockets: taken before anything else is started, so that a port in use is one sentence and changes nothing."""

import errno
import ipaddress
import socket

from edgefleet.contracts.errors import NotAllowedError, PortInUseError, SettingError


def parse_address(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT`` (port 0: any free one).

    Raises:
        SettingError: it is no such thing.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise SettingError(f"'{text}' is not an address", hint="use HOST:PORT, as in 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def require_loopback(host: str) -> None:
    """Refuse to serve the management API, which has no TLS of its own, to the network.

    Raises:
        NotAllowedError: ``host`` is not a loopback address.
    """
    if host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise NotAllowedError(
            f"--listen {host} would serve the management API without TLS to the network",
            hint="listen on 127.0.0.1, and put a TLS proxy in front",
        )


def listen(host: str, port: int) -> socket.socket:
    """Return a bound and listening socket.

    It names its protocol, because asyncio switches Nagle's algorithm off for no other: an answer whose head and body
    are two writes would wait for the client's delayed acknowledgement, 40 ms on each request of a kept connection.

    Raises:
        PortInUseError: another process listens there.
        SettingError: the address is not one of this machine, or the port is privileged.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(2048)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"another process listens on {host}:{port} already",
                hint="stop it, or choose another port (0: any free)",
            ) from error
        raise SettingError(
            f"cannot listen on {host}:{port}: {error.strerror or error}", hint="use an address of this machine"
        ) from error
    made.setblocking(False)
    return made
