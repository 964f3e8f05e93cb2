# SPDX-License-Identifier: Apache-2.0
"""The management API (``/api/v1``, described by OpenAPI at ``/openapi.json``) for people and their tools."""

import re
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Query
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.enrolment import EnrolmentTicket
from edgefleet.contracts.errors import InputError, NotFoundError
from edgefleet.contracts.names import SHA256_PATTERN
from edgefleet.version import __version__
from fleet_server.adapters.access import Caller, create_token
from fleet_server.adapters.audit_log import append_audit, read_audit
from fleet_server.adapters.device_register import DeviceRecord, find_device, list_devices
from fleet_server.adapters.image_repository import newest_root
from fleet_server.adapters.release_store import ReleaseRecord, find_release, list_releases
from fleet_server.adapters.rollout_store import list_rollouts
from fleet_server.api.access_control import read_body, require
from fleet_server.api.documents import (
    ConfusionCell,
    FleetEvent,
    FleetView,
    Health,
    Invitation,
    NewRelease,
    NewRollout,
    NewToken,
    PublishedTargets,
    ReleaseFigures,
    RolloutStatus,
    StoredBundle,
    TokenAnswer,
    answers,
    answers_bytes,
    json_answer,
    takes,
    takes_bytes,
)
from fleet_server.api.fleet_view import (
    confusion_cells,
    fleet_view,
    health,
    recent_events,
    release_figures,
    rollout_status,
)
from fleet_server.api.image_files import image_metadata_answer, image_target_path
from fleet_server.api.page import add_page
from fleet_server.api.parts import ServerParts
from fleet_server.api.problem_answers import add_problem_handlers
from fleet_server.core.audit_chain import AuditEntry
from fleet_server.core.delegation import read_targets
from fleet_server.core.rollout import Order
from fleet_server.core.tuf_types import Targets

PREFIX = "/api/v1"
_JSON, _BYTES = "application/json", "application/octet-stream"


def create_management_app(parts: ServerParts) -> FastAPI:
    """Return the management listener's application."""
    app = FastAPI(
        title="EdgeFleet",
        version=__version__,
        summary="Signed releases, rollouts and evidence of a fleet.",
        docs_url=None,  # the interactive pages load scripts of other sites
        redoc_url=None,
        default_response_class=Response,  # each route describes its own media type
    )
    add_problem_handlers(app)
    _add_device_routes(app, parts)
    _add_bundle_routes(app, parts)
    _add_release_routes(app, parts)
    _add_approval_routes(app, parts)
    _add_image_routes(app, parts)
    _add_rollout_routes(app, parts)
    _add_evidence_routes(app, parts)
    _add_offline_key_routes(app, parts)
    _add_token_and_audit_routes(app, parts)
    add_page(app, parts)
    return app


Body = Annotated[bytes, Depends(read_body)]
Moment = Annotated[float, Query(ge=0.0, le=1e12, allow_inf_nan=False)]


def _add_device_routes(app: FastAPI, parts: ServerParts) -> None:
    viewer, admin = Depends(require(parts, "viewer")), Depends(require(parts, "admin"))

    @app.post(
        f"{PREFIX}/devices",
        status_code=201,
        tags=["devices"],
        responses=answers(EnrolmentTicket, 201, "The ticket to carry to the device"),
        openapi_extra=takes(Invitation),
    )
    def invite_device(body: Body, caller: Caller = admin) -> Response:
        wanted = decode_json(body, Invitation, source="the invitation", error=InputError)
        token = parts.devices.invite(wanted.name, wanted.profile, caller.name)
        with parts.database.read() as connection:
            ticket = EnrolmentTicket(
                server_url=parts.device_url,
                tenant=parts.settings.tenant,
                device=wanted.name,
                profile=wanted.profile,
                token=token,
                ca_pem=parts.folder.authority_pem(),
                image_root=newest_root(connection, "image").decode(),
                director_root=newest_root(connection, "director").decode(),
            )
        return json_answer(ticket, 201)

    @app.get(f"{PREFIX}/devices", tags=["devices"], dependencies=[viewer], responses=answers(list[DeviceRecord]))
    def get_devices() -> Response:
        with parts.database.read() as connection:
            return json_answer(list_devices(connection))

    @app.get(f"{PREFIX}/devices/{{name}}", tags=["devices"], dependencies=[viewer], responses=answers(DeviceRecord))
    def get_device(name: str) -> Response:
        with parts.database.read() as connection:
            return json_answer(find_device(connection, name))


def _top(parts: ServerParts) -> Targets:
    return read_targets(parts.images.newest("targets") or b"", "the targets metadata").signed


def _add_bundle_routes(app: FastAPI, parts: ServerParts) -> None:
    viewer, approver = Depends(require(parts, "viewer")), Depends(require(parts, "approver"))
    sha256_path = f"{PREFIX}/bundles/{{sha256}}"

    @app.put(
        sha256_path,
        status_code=201,
        tags=["releases"],
        dependencies=[approver],
        responses=answers(StoredBundle, 201),
        openapi_extra=takes_bytes("application/x-tar"),
    )
    async def put_bundle(sha256: str, request: Request) -> Response:
        _check_sha256(sha256)
        bundle = await parts.releases.receive_bundle(sha256, request.stream())
        return json_answer(StoredBundle(sha256=bundle.sha256, size_bytes=bundle.size_bytes), 201)

    @app.get(sha256_path, tags=["releases"], dependencies=[viewer], responses=answers_bytes(_BYTES, "The bundle"))
    def get_bundle(sha256: str) -> Response:
        _check_sha256(sha256)
        return _file(parts.releases.bundle_path(sha256), f"there is no bundle {sha256}")


def _add_release_routes(app: FastAPI, parts: ServerParts) -> None:
    viewer, approver = Depends(require(parts, "viewer")), Depends(require(parts, "approver"))

    @app.post(
        f"{PREFIX}/releases",
        status_code=201,
        tags=["releases"],
        responses=answers(ReleaseRecord, 201),
        openapi_extra=takes(NewRelease),
    )
    def publish_release(body: Body, caller: Caller = approver) -> Response:
        wanted = decode_json(body, NewRelease, source="the release", error=InputError)
        name, version = parts.releases.publish(wanted.bundles, wanted.policy.encode(), caller.name)
        return get_release(name, version)

    @app.get(f"{PREFIX}/releases", tags=["releases"], dependencies=[viewer], responses=answers(list[ReleaseRecord]))
    def get_releases() -> Response:
        top = _top(parts)
        with parts.database.read() as connection:
            return json_answer(list_releases(connection, top))

    one = f"{PREFIX}/releases/{{name}}/{{version}}"

    @app.get(one, tags=["releases"], dependencies=[viewer], responses=answers(ReleaseRecord))
    def get_release(name: str, version: str) -> Response:
        top = _top(parts)
        with parts.database.read() as connection:
            return json_answer(find_release(connection, name, version, top))


def _add_approval_routes(app: FastAPI, parts: ServerParts) -> None:
    viewer, approver = Depends(require(parts, "viewer")), Depends(require(parts, "approver"))
    one = f"{PREFIX}/releases/{{name}}/{{version}}"

    @app.get(
        f"{one}/policy",
        tags=["releases"],
        dependencies=[viewer],
        responses=answers_bytes("application/toml", "The policy file"),
    )
    def get_policy(name: str, version: str) -> Response:
        return Response(parts.releases.policy(name, version), media_type="application/toml")

    @app.get(
        f"{one}/proposal",
        tags=["releases"],
        dependencies=[viewer],
        responses=answers_bytes(_JSON, "TUF metadata that waits for approvals", none="Nobody has proposed any"),
    )
    def get_proposal(name: str, version: str) -> Response:
        data = parts.releases.proposal(name, version)
        return Response(data, media_type=_JSON) if data is not None else Response(status_code=204)

    @app.put(
        f"{one}/proposal",
        tags=["releases"],
        responses=answers(ReleaseRecord),
        openapi_extra=takes_bytes(_JSON),
    )
    def put_proposal(name: str, version: str, body: Body, caller: Caller = approver) -> Response:
        return json_answer(parts.approvals.propose(name, version, body, caller.name))


def _add_image_routes(app: FastAPI, parts: ServerParts) -> None:
    """What devices read over TLS, approvers read here."""
    viewer = Depends(require(parts, "viewer"))

    @app.get(
        "/image/metadata/{file_name}",
        tags=["releases"],
        dependencies=[viewer],
        responses=answers_bytes(_JSON, "TUF metadata") | {304: {"description": "As the If-None-Match says"}},
    )
    def get_image_metadata(file_name: str, request: Request) -> Response:
        return image_metadata_answer(parts, file_name, request)

    @app.get(
        "/image/targets/{path:path}",
        tags=["releases"],
        dependencies=[viewer],
        responses=answers_bytes(_BYTES, "A published file"),
    )
    def get_image_target(path: str) -> Response:
        return FileResponse(image_target_path(parts, path), media_type=_BYTES)


def _add_rollout_routes(app: FastAPI, parts: ServerParts) -> None:
    viewer, admin = Depends(require(parts, "viewer")), Depends(require(parts, "admin"))

    @app.post(
        f"{PREFIX}/rollouts",
        status_code=201,
        tags=["rollouts"],
        responses=answers(RolloutStatus, 201),
        openapi_extra=takes(NewRollout),
    )
    def create_rollout(body: Body, caller: Caller = admin) -> Response:
        wanted = decode_json(body, NewRollout, source="the rollout", error=InputError)
        created = parts.engine.create(wanted.name, wanted.version, caller.name)
        with parts.database.read() as connection:
            return json_answer(rollout_status(connection, created.id), 201)

    @app.get(f"{PREFIX}/rollouts", tags=["rollouts"], dependencies=[viewer], responses=answers(list[RolloutStatus]))
    def get_rollouts() -> Response:
        with parts.database.read() as connection:
            return json_answer([rollout_status(connection, value.id) for value in list_rollouts(connection)])

    one = f"{PREFIX}/rollouts/{{rollout_id}}"

    @app.get(one, tags=["rollouts"], dependencies=[viewer], responses=answers(RolloutStatus))
    def get_rollout(rollout_id: str) -> Response:
        with parts.database.read() as connection:
            return json_answer(rollout_status(connection, rollout_id))

    @app.post(f"{one}/{{order}}", tags=["rollouts"], responses=answers(RolloutStatus))
    def order_rollout(rollout_id: str, order: Order, caller: Caller = admin) -> Response:
        parts.engine.order(rollout_id, order, caller.name)
        return get_rollout(rollout_id)


def _add_evidence_routes(app: FastAPI, parts: ServerParts) -> None:
    viewer = Depends(require(parts, "viewer"))

    @app.get(f"{PREFIX}/health", tags=["fleet"], responses=answers(Health))
    def get_health() -> Response:
        return json_answer(health(parts))

    @app.get(f"{PREFIX}/fleet", tags=["fleet"], dependencies=[viewer], responses=answers(FleetView))
    def get_fleet() -> Response:
        return json_answer(fleet_view(parts))

    @app.get(f"{PREFIX}/events", tags=["fleet"], dependencies=[viewer], responses=answers(list[FleetEvent]))
    def get_events(device: str | None = None, limit: Annotated[int, Query(ge=1, le=10_000)] = 200) -> Response:
        with parts.database.read() as connection:
            return json_answer(recent_events(connection, device=device, limit=limit))

    @app.get(f"{PREFIX}/figures", tags=["fleet"], dependencies=[viewer], responses=answers(list[ReleaseFigures]))
    def get_figures(since: Moment = 0.0) -> Response:
        with parts.database.read() as connection:
            return json_answer(release_figures(connection, since))

    @app.get(
        f"{PREFIX}/figures/{{bundle_sha256}}/confusion",
        tags=["fleet"],
        dependencies=[viewer],
        responses=answers(list[ConfusionCell]),
    )
    def get_confusion(bundle_sha256: str) -> Response:
        with parts.database.read() as connection:
            return json_answer(confusion_cells(connection, bundle_sha256))


def _add_offline_key_routes(app: FastAPI, parts: ServerParts) -> None:
    viewer, admin = Depends(require(parts, "viewer")), Depends(require(parts, "admin"))

    @app.put(
        f"{PREFIX}/targets",
        tags=["administration"],
        responses=answers(PublishedTargets),
        openapi_extra=takes_bytes(_JSON),
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
        responses=answers_bytes(_JSON, "TUF metadata"),
    )
    def get_targets() -> Response:
        return Response(parts.images.newest("targets"), media_type=_JSON)

    @app.get(
        f"{PREFIX}/roots/{{repository}}",
        tags=["administration"],
        dependencies=[viewer],
        responses=answers_bytes(_JSON, "TUF metadata"),
    )
    def get_root(repository: str) -> Response:
        if repository not in ("image", "director"):
            raise NotFoundError(f"there is no repository '{repository}'", hint="ask for image or director")
        with parts.database.read() as connection:
            return Response(newest_root(connection, repository), media_type=_JSON)


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


def _check_sha256(text: str) -> None:
    if not re.fullmatch(SHA256_PATTERN, text):
        raise InputError(f"'{text[:80]}' is no SHA-256", hint="use 64 lowercase hexadecimal digits")


def _file(path: Path, missing: str) -> Response:
    if not path.is_file():
        raise NotFoundError(missing, hint="see: edgefleet releases list")
    return FileResponse(path, media_type=_BYTES)
