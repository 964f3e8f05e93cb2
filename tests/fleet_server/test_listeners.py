# SPDX-License-Identifier: Apache-2.0
"""The server's listening sockets, and what asyncio makes of the connections that come in on them."""

import asyncio
import socket

import pytest

from fleet_server.adapters.access.listeners import listen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_two_halves_of_an_answer_leave_at_once_without_waiting_for_an_acknowledgement(host: str) -> None:
    async def no_delay() -> bool:
        accepted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        class Watched(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                end = transport.get_extra_info("socket")
                accepted.set_result(bool(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
                transport.close()

        server = await asyncio.get_running_loop().create_server(Watched, sock=listener)
        async with server:
            _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            writer.close()
            return await asyncio.wait_for(accepted, 120.0)

    if host == "::1" and not _speaks_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    listener = listen(host, 0)
    assert asyncio.run(no_delay())


def _speaks_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
