# SPDX-License-Identifier: Apache-2.0
"""Errors as HTTP answers (RFC 9457)."""

from collections.abc import Mapping

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from edgefleet.contracts.errors import EdgeFleetError, InputError, NotAllowedError, NotFoundError
from fleet_server.adapters.access.problems import MEDIA_TYPE, describe_problem


def problem_answer(
    error: EdgeFleetError, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the problem document of an error; ``status`` overrides the class's HTTP status."""
    problem = describe_problem(error)
    if status is not None:
        problem = msgspec.structs.replace(problem, status=status)
    return Response(msgspec.json.encode(problem), status_code=problem.status, headers=headers, media_type=MEDIA_TYPE)


def add_problem_handlers(app: FastAPI) -> None:
    """Let every error of an application be answered by a problem document."""

    @app.exception_handler(EdgeFleetError)
    def _expected(_request: Request, error: EdgeFleetError) -> Response:
        return problem_answer(error)

    @app.exception_handler(RequestValidationError)
    def _parameter(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return problem_answer(InputError(f"{where}: {first['msg']}", hint="see /openapi.json"))

    @app.exception_handler(HTTPException)
    def _routing(request: Request, error: HTTPException) -> Response:
        kinds: dict[int, type[EdgeFleetError]] = {404: NotFoundError, 401: NotAllowedError, 403: NotAllowedError}
        kind = kinds.get(error.status_code, InputError)
        return problem_answer(
            kind(f"{request.method} {request.url.path}: {error.detail}", hint="see /openapi.json"),
            status=error.status_code,
            headers=error.headers,
        )
