# SPDX-License-Identifier: Apache-2.0
"""uvicorn's HTTP/1.1 protocol, plus the client certificate that the TLS layer verified, in the ASGI scope."""

import asyncio
import ssl
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

#: What a connection that is closed with the server gets for its last bytes; the answer to TLS's goodbye, which an idle
#: client does not read, is not waited for.
_GOODBYE_S = 0.1
#: Where an application finds the DER bytes of the peer's verified certificate (absent: it showed none).
PEER_KEY = "edgefleet.peer_certificate"


class PeerCertificateProtocol(H11Protocol):
    """Reads the certificate once a connection, when it is made."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wrap the application so that each request of this connection carries the certificate."""
        super().connection_made(transport)
        tls = cast("ssl.SSLObject | None", transport.get_extra_info("ssl_object"))
        der = tls.getpeercert(binary_form=True) if tls is not None else None
        if der is not None:
            self.app = _with_peer(cast("ASGIApp", self.app), der)

    def shutdown(self) -> None:
        """Close the connection with the server: after its answer if one is under way, else at once."""
        idle = self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]  # until a request
        super().shutdown()
        if idle:
            self.loop.call_later(_GOODBYE_S, self.transport.abort)


def _with_peer(app: ASGIApp, der: bytes) -> Any:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        scope[PEER_KEY] = der
        await app(scope, receive, send)

    return wrapped
