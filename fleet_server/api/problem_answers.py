# SPDX-License-Identifier: Apache-2.0
"""Errors as HTTP answers (RFC 9457)."""

import msgspec
from starlette.responses import Response

from edgefleet.contracts.errors import EdgeFleetError
from fleet_server.adapters.problems import MEDIA_TYPE, describe_problem


def problem_answer(error: EdgeFleetError, *, status: int | None = None) -> Response:
    """Return the problem document of an error; ``status`` overrides the class's HTTP status."""
    problem = describe_problem(error)
    if status is not None:
        problem = msgspec.structs.replace(problem, status=status)
    return Response(msgspec.json.encode(problem), status_code=problem.status, media_type=MEDIA_TYPE)
