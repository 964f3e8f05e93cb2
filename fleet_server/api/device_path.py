# SPDX-License-Identifier: Apache-2.0
"""What devices call, over TLS with their own certificate: enrolment, the image repository, their director metadata.

Plain Starlette routes and plain SQL: this is the path that a million devices take.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from edgefleet.contracts.capture import CAPTURE_LIMIT_BYTES, CAPTURE_PATH
from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.enrolment import (
    CHECK_IN_PATH,
    ENROL_PATH,
    RENEW_PATH,
    CheckIn,
    EnrolmentAnswer,
    EnrolmentRequest,
    RenewalAnswer,
    SignedRenewal,
)
from edgefleet.contracts.errors import EdgeFleetError, InputError, NotAllowedError, NotFoundError
from fleet_server.adapters.devices.director import DirectorFiles
from fleet_server.adapters.keys.certificates import read_peer
from fleet_server.adapters.releases.image_repository import director_root
from fleet_server.api.access_control import read_body
from fleet_server.api.image_files import image_metadata_answer, image_target_path, metadata_answer
from fleet_server.api.parts import ServerParts
from fleet_server.api.problem_answers import problem_answer
from fleet_server.api.tls_protocol import PEER_KEY

_LOG = logging.getLogger(__name__)
Endpoint = Callable[[Request], Awaitable[Response]]


def create_device_app(parts: ServerParts) -> Starlette:
    """Return the device listener's application."""
    path = DevicePath(parts)
    return Starlette(
        routes=[
            Route(ENROL_PATH, _guarded(path.enrol), methods=["POST"]),
            Route(RENEW_PATH, _guarded(path.renew), methods=["POST"]),
            Route(CHECK_IN_PATH, _guarded(path.check_in), methods=["POST"]),
            Route(CAPTURE_PATH, _guarded(path.capture), methods=["POST"]),
            Route("/image/metadata/{file}", _guarded(path.image_metadata)),
            Route("/image/targets/{path:path}", _guarded(path.image_target)),
            Route("/director/{device}/metadata/{file}", _guarded(path.director_metadata)),
        ]
    )


class DevicePath:
    """The endpoints."""

    def __init__(self, parts: ServerParts) -> None:
        self._parts = parts

    async def enrol(self, request: Request) -> Response:
        """Exchange a one-time token and a certificate request for a certificate."""
        body = await read_body(request)
        wanted = decode_json(body, EnrolmentRequest, source="the enrolment request", error=InputError)
        certificate = await run_in_threadpool(self._parts.devices.enrol, wanted)
        return _json(EnrolmentAnswer(certificate_pem=certificate, broker=self._parts.broker))

    async def renew(self, request: Request) -> Response:
        """Exchange a proof of possession for the next certificate; the connection need not show the present one."""
        proof = decode_json(await read_body(request), SignedRenewal, source="the renewal", error=InputError)
        certificate = await run_in_threadpool(self._parts.certificates.renew, proof)
        return _json(RenewalAnswer(certificate_pem=certificate))

    async def check_in(self, request: Request) -> Response:
        """Take what a device says of itself, and return its next instance token."""
        device = self._peer(request)
        said = decode_json(await read_body(request), CheckIn, source="the check-in", error=InputError)
        return _json(await run_in_threadpool(self._parts.check_ins.take, device, said))

    async def capture(self, request: Request) -> Response:
        """Take an input of which a device's model was unsure, where this server wants any."""
        device = self._peer(request)
        self._parts.captures.require_wanted()
        body = await read_body(request, limit_bytes=CAPTURE_LIMIT_BYTES)
        await run_in_threadpool(self._parts.captures.store, device, body)
        return Response(status_code=204)

    async def image_metadata(self, request: Request) -> Response:
        """Return image metadata to any enrolled device."""
        self._peer(request)
        return image_metadata_answer(self._parts, request.path_params["file"], request)

    async def image_target(self, request: Request) -> Response:
        """Return a bundle or acceptance examples; range requests are answered."""
        self._peer(request)
        path = image_target_path(self._parts, request.path_params["path"])
        return FileResponse(path, media_type="application/octet-stream")

    async def director_metadata(self, request: Request) -> Response:
        """Return a device's own director metadata, signed now if that is due."""
        device = self._peer(request)
        if request.path_params["device"] != device:
            raise NotAllowedError(
                f"the certificate is of device '{device}', not of '{request.path_params['device'][:100]}'",
                hint="a device reads its own director metadata only",
            )
        file = request.path_params["file"]
        if file == "timestamp.json":
            return await self._timestamp(device, request)
        return metadata_answer(self._director_file(device, file), request)

    async def _timestamp(self, device: str, request: Request) -> Response:
        self._parts.polls.note(device, self._parts.clock())
        files = self._parts.director.fresh_files(device)
        if files is None:
            files = await run_in_threadpool(self._parts.director.sign_files, device)
        return metadata_answer(files.timestamp, request)

    def _director_file(self, device: str, file: str) -> bytes:
        number, _, role = file.removesuffix(".json").partition(".")
        version = int(number) if number.isascii() and number.isdecimal() and len(number) < 10 else 0
        content = None
        if role == "root":
            with self._parts.database.read() as connection:
                content = director_root(connection, version)
        elif role in ("snapshot", "targets"):
            content = _file_of(self._parts.director.served_files(device), role, version)
        if content is None:
            raise NotFoundError(f"there is no director metadata '{file[:100]}'", hint="start with timestamp.json")
        return content

    def _peer(self, request: Request) -> str:
        """Return the device whose current certificate the connection shows.

        Raises:
            NotAllowedError: there is none, or the device has enrolled again since.
        """
        der = request.scope.get(PEER_KEY)
        if der is None:
            raise NotAllowedError("the connection shows no device certificate", hint="enrol the device first")
        with suppress(ValueError):
            peer = read_peer(der)
            ours = peer.tenant == self._parts.settings.tenant
            if ours and self._parts.certificates.is_current(peer.device, peer.serial):
                return peer.device
        raise NotAllowedError(
            "the certificate is not the current one of an enrolled device", hint="enrol the device again"
        )


def _json(answer: object) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _file_of(files: DirectorFiles | None, role: str, version: int) -> bytes | None:
    if files is None or files.version != version:
        return None
    return files.snapshot if role == "snapshot" else files.targets


def _guarded(endpoint: Endpoint) -> Endpoint:
    """Turn expected errors into problem documents."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except EdgeFleetError as error:
            if error.http_status >= 500:
                _LOG.error("%s %s: %s", request.method, request.url.path, error)
            return problem_answer(error)

    return answer
