# SPDX-License-Identifier: Apache-2.0
"""Routes for rollouts."""

from fastapi import Depends, FastAPI
from starlette.responses import Response

from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.errors import InputError
from fleet_server.adapters.access.tokens import Caller
from fleet_server.adapters.rollouts.rollout_store import list_rollouts
from fleet_server.api.access_control import require
from fleet_server.api.documents import (
    NewRollout,
    RolloutStatus,
    answers,
    json_answer,
    takes,
)
from fleet_server.api.fleet_view import (
    rollout_status,
)
from fleet_server.api.parts import ServerParts
from fleet_server.api.routes.conventions import PREFIX, Body
from fleet_server.core.rollouts.rollout import Order


def add_routes(app: FastAPI, parts: ServerParts) -> None:
    """Add them to the application."""
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
