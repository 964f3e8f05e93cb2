# SPDX-License-Identifier: Apache-2.0
"""Routes for what came back: health, the fleet at a glance, events, figures."""

from typing import Annotated

from fastapi import Depends, FastAPI, Query
from starlette.responses import Response

from fleet_server.api.access_control import require
from fleet_server.api.documents import (
    ConfusionCell,
    FleetEvent,
    FleetView,
    Health,
    ReleaseFigures,
    answers,
    json_answer,
)
from fleet_server.api.fleet_view import (
    confusion_cells,
    fleet_view,
    health,
    recent_events,
    release_figures,
)
from fleet_server.api.parts import ServerParts
from fleet_server.api.routes.conventions import PREFIX

Moment = Annotated[float, Query(ge=0.0, le=1e12, allow_inf_nan=False)]


def add_routes(app: FastAPI, parts: ServerParts) -> None:
    """Add them to the application."""
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
