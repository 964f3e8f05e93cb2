# SPDX-License-Identifier: Apache-2.0
"""The management API (``/api/v1``, described by OpenAPI at ``/openapi.json``) for people and their tools."""

from fastapi import FastAPI
from starlette.responses import Response

from edgefleet.version import __version__
from fleet_server.api.page import add_page
from fleet_server.api.parts import ServerParts
from fleet_server.api.problem_answers import add_problem_handlers
from fleet_server.api.routes import administration, devices, evidence, releases, rollouts


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
    for subject in (devices, releases, rollouts, evidence, administration):
        subject.add_routes(app, parts)
    add_page(app, parts)
    return app
