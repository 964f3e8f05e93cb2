# SPDX-License-Identifier: Apache-2.0
"""Routes for devices: invitations, the register, grace, lifted quarantines, decommissioning."""

from fastapi import Depends, FastAPI
from starlette.responses import Response

from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.enrolment import EnrolmentTicket
from edgefleet.contracts.errors import InputError
from fleet_server.adapters.access.tokens import Caller
from fleet_server.adapters.devices.device_register import DeviceRecord, find_device, list_devices
from fleet_server.adapters.releases.image_repository import newest_root
from fleet_server.api.access_control import require
from fleet_server.api.documents import (
    GraceWish,
    Invitation,
    LiftWish,
    answers,
    json_answer,
    takes,
)
from fleet_server.api.parts import ServerParts
from fleet_server.api.routes.conventions import PREFIX, Body


def add_routes(app: FastAPI, parts: ServerParts) -> None:
    """Add them to the application."""
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

    @app.post(
        f"{PREFIX}/devices/{{name}}/grace",
        tags=["devices"],
        responses=answers(DeviceRecord),
        openapi_extra=takes(GraceWish),
    )
    def give_grace(name: str, body: Body, caller: Caller = admin) -> Response:
        wanted = decode_json(body, GraceWish, source="the grace", error=InputError)
        parts.certificates.give_grace(name, wanted.days, caller.name)
        parts.director.sign_files(name)  # it counts once it is signed, and this device cannot ask for that
        return get_device(name)

    @app.post(
        f"{PREFIX}/devices/{{name}}/lift",
        tags=["devices"],
        responses=answers(DeviceRecord),
        openapi_extra=takes(LiftWish),
    )
    def lift_quarantine(name: str, body: Body, caller: Caller = admin) -> Response:
        wanted = decode_json(body, LiftWish, source="the lift", error=InputError)
        parts.quarantines.lift(name, wanted.name, wanted.version, caller.name)
        return get_device(name)

    @app.post(f"{PREFIX}/devices/{{name}}/decommission", tags=["devices"], responses=answers(DeviceRecord))
    def decommission_device(name: str, caller: Caller = admin) -> Response:
        parts.certificates.decommission(name, caller.name)
        return get_device(name)
