# SPDX-License-Identifier: Apache-2.0
"""Who may call what: a bearer token, or for reading also the page's session cookie."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Security
from fastapi.security import HTTPBearer
from starlette.requests import Request

from edgefleet.contracts.errors import InputError, NotAllowedError
from fleet_server.adapters.access.tokens import RANK, Caller, Role, find_caller
from fleet_server.api.parts import ServerParts

COOKIE = "edgefleet_session"
BODY_LIMIT_BYTES = 4 << 20
_SAFE_METHODS = ("GET", "HEAD")
#: Only says in OpenAPI that a token is needed; :func:`identify` reads it.
_BEARER = HTTPBearer(auto_error=False, description="An API token, as 'edgefleet server token' writes it.")


def require(parts: ServerParts, role: Role) -> Callable[..., Caller]:
    """Return a dependency that yields the caller if the token's role is enough.

    Raises (when called): NotAllowedError: no token, a wrong one, or one of a lower role.
    """

    def allowed(request: Request, _described: Annotated[object, Security(_BEARER)]) -> Caller:
        caller = identify(parts, request)
        if caller is None:
            raise NotAllowedError(
                "the API token is missing, wrong or expired", hint="run: edgefleet login --server URL --token-file FILE"
            )
        if RANK[caller.role] < RANK[role]:
            raise NotAllowedError(
                f"the token of '{caller.name}' has the role {caller.role}, expected {role}",
                hint="ask an admin for another token",
            )
        return caller

    return allowed


def identify(parts: ServerParts, request: Request) -> Caller | None:
    """Return who calls, or None. The cookie counts for reading only, so that no other site can make it act."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        secret = request.cookies.get(COOKIE, "") if request.method in _SAFE_METHODS else ""
    if not secret:
        return None
    with parts.database.read() as connection:
        return find_caller(connection, secret.strip(), parts.clock())


async def read_body(request: Request, *, limit_bytes: int = BODY_LIMIT_BYTES) -> bytes:
    """Return a request's body, up to a limit.

    Raises:
        InputError: it is larger.
    """
    pieces = bytearray()
    async for piece in request.stream():
        pieces += piece
        if len(pieces) > limit_bytes:
            raise InputError(
                f"the request's body is over the limit of {limit_bytes} bytes", hint="send a smaller document"
            )
    return bytes(pieces)
