# SPDX-License-Identifier: Apache-2.0
"""Routes for keys that are offline, tokens and the audit log."""

from typing import Annotated

from fastapi import Depends, FastAPI, Query
from starlette.responses import Response

from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.errors import InputError, NotFoundError
from fleet_server.adapters.access.audit_log import append_audit, read_audit
from fleet_server.adapters.access.tokens import Caller, create_token
from fleet_server.adapters.releases.image_repository import newest_root
from fleet_server.api.access_control import require
from fleet_server.api.documents import (
    NewToken,
    PublishedTargets,
    TokenAnswer,
    answers,
    answers_bytes,
    json_answer,
    takes,
    takes_bytes,
)
from fleet_server.api.parts import ServerParts
from fleet_server.api.routes.conventions import JSON, PREFIX, Body
from fleet_server.core.audit_chain import AuditEntry
from fleet_server.core.trust.delegation import read_targets


def add_routes(app: FastAPI, parts: ServerParts) -> None:
    """Add them to the application."""
    _add_offline_key_routes(app, parts)
    _add_token_and_audit_routes(app, parts)


def _add_offline_key_routes(app: FastAPI, parts: ServerParts) -> None:
    viewer, admin = Depends(require(parts, "viewer")), Depends(require(parts, "admin"))

    @app.put(
        f"{PREFIX}/targets",
        tags=["administration"],
        responses=answers(PublishedTargets),
        openapi_extra=takes_bytes(JSON),
    )
    def put_targets(body: Body, caller: Caller = admin) -> Response:
        number = read_targets(body, "the targets metadata").signed.version
        parts.images.publish({"targets": body})
        with parts.database.write() as connection:
            append_audit(
                connection,
                at=parts.clock(),
                actor=caller.name,
                action="targets-published",
                subject=f"version {number}",
            )
        return json_answer(PublishedTargets(version=number))

    @app.get(
        f"{PREFIX}/targets",
        tags=["administration"],
        dependencies=[viewer],
        responses=answers_bytes(JSON, "TUF metadata"),
    )
    def get_targets() -> Response:
        return Response(parts.images.newest("targets"), media_type=JSON)

    @app.get(
        f"{PREFIX}/roots/{{repository}}",
        tags=["administration"],
        dependencies=[viewer],
        responses=answers_bytes(JSON, "TUF metadata"),
    )
    def get_root(repository: str) -> Response:
        if repository not in ("image", "director"):
            raise NotFoundError(f"there is no repository '{repository}'", hint="ask for image or director")
        with parts.database.read() as connection:
            return Response(newest_root(connection, repository), media_type=JSON)


def _add_token_and_audit_routes(app: FastAPI, parts: ServerParts) -> None:
    viewer, admin = Depends(require(parts, "viewer")), Depends(require(parts, "admin"))

    @app.post(
        f"{PREFIX}/tokens",
        status_code=201,
        tags=["administration"],
        responses=answers(TokenAnswer, 201),
        openapi_extra=takes(NewToken),
    )
    def new_token(body: Body, caller: Caller = admin) -> Response:
        wanted = decode_json(body, NewToken, source="the token", error=InputError)
        with parts.database.write() as connection:
            secret = create_token(connection, name=wanted.name, role=wanted.role, now=parts.clock())
            append_audit(
                connection,
                at=parts.clock(),
                actor=caller.name,
                action="token-created",
                subject=wanted.name,
                detail=wanted.role,
            )
        return json_answer(TokenAnswer(name=wanted.name, role=wanted.role, token=secret), 201)

    @app.get(f"{PREFIX}/audit", tags=["administration"], dependencies=[viewer], responses=answers(list[AuditEntry]))
    def get_audit(
        after: Annotated[int, Query(ge=0, le=1 << 53)] = 0, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
    ) -> Response:
        with parts.database.read() as connection:
            return json_answer(read_audit(connection, after=after, limit=limit))
