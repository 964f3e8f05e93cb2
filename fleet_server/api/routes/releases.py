# SPDX-License-Identifier: Apache-2.0
"""Routes for releases: bundles, publication, approvals, what devices download, update files."""

import re
import secrets
from pathlib import Path

from fastapi import Depends, FastAPI
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.errors import InputError, NotFoundError
from edgefleet.contracts.names import SHA256_PATTERN
from fleet_server.adapters.access.tokens import Caller
from fleet_server.adapters.releases.release_store import ReleaseRecord, find_release, list_releases
from fleet_server.api.access_control import require
from fleet_server.api.documents import (
    ExportWish,
    NewRelease,
    StoredBundle,
    answers,
    answers_bytes,
    json_answer,
    takes,
    takes_bytes,
)
from fleet_server.api.image_files import image_metadata_answer, image_target_path
from fleet_server.api.parts import ServerParts
from fleet_server.api.routes.conventions import BYTES, JSON, PREFIX, Body
from fleet_server.core.trust.delegation import read_targets
from fleet_server.core.trust.tuf_types import Targets


def add_routes(app: FastAPI, parts: ServerParts) -> None:
    """Add them to the application."""
    _add_bundle_routes(app, parts)
    _add_release_routes(app, parts)
    _add_export_route(app, parts)
    _add_approval_routes(app, parts)
    _add_image_routes(app, parts)


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

    @app.get(sha256_path, tags=["releases"], dependencies=[viewer], responses=answers_bytes(BYTES, "The bundle"))
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
        responses=answers_bytes(JSON, "TUF metadata that waits for approvals", none="Nobody has proposed any"),
    )
    def get_proposal(name: str, version: str) -> Response:
        data = parts.releases.proposal(name, version)
        return Response(data, media_type=JSON) if data is not None else Response(status_code=204)

    @app.put(
        f"{one}/proposal",
        tags=["releases"],
        responses=answers(ReleaseRecord),
        openapi_extra=takes_bytes(JSON),
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
        responses=answers_bytes(JSON, "TUF metadata") | {304: {"description": "As the If-None-Match says"}},
    )
    def get_image_metadata(file_name: str, request: Request) -> Response:
        return image_metadata_answer(parts, file_name, request)

    @app.get(
        "/image/targets/{path:path}",
        tags=["releases"],
        dependencies=[viewer],
        responses=answers_bytes(BYTES, "A published file"),
    )
    def get_image_target(path: str) -> Response:
        return FileResponse(image_target_path(parts, path), media_type=BYTES)


def _add_export_route(app: FastAPI, parts: ServerParts) -> None:
    admin = Depends(require(parts, "admin"))

    @app.post(
        f"{PREFIX}/updates",
        tags=["releases"],
        responses=answers_bytes("application/x-tar", "An update file, to be carried to its devices"),
        openapi_extra=takes(ExportWish),
    )
    def export_update(body: Body, caller: Caller = admin) -> Response:
        wanted = decode_json(body, ExportWish, source="the export", error=InputError)
        file = parts.folder.staging / f"{secrets.token_hex(16)}.update"
        try:
            with file.open("xb") as stream:
                parts.exports.write(stream, wanted.devices, wanted.days, caller.name)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        return FileResponse(file, media_type="application/x-tar", background=BackgroundTask(file.unlink))


def _top(parts: ServerParts) -> Targets:
    return read_targets(parts.images.newest("targets") or b"", "the targets metadata").signed


def _check_sha256(text: str) -> None:
    if not re.fullmatch(SHA256_PATTERN, text):
        raise InputError(f"'{text[:80]}' is no SHA-256", hint="use 64 lowercase hexadecimal digits")


def _file(path: Path, missing: str) -> Response:
    if not path.is_file():
        raise NotFoundError(missing, hint="see: edgefleet releases list")
    return FileResponse(path, media_type=BYTES)
