# SPDX-License-Identifier: Apache-2.0
"""RFC 9457 problem details: errors as an API sends them, and back into the same classes at the client."""

from edgefleet.contracts import errors
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.manifest import Fact

MEDIA_TYPE = "application/problem+json"


class Problem(Fact, frozen=True, kw_only=True):
    """A problem document; ``code`` and ``hint`` are extension members, ``type`` is a URN made of the code."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str


def describe_problem(error: EdgeFleetError) -> Problem:
    """Return the problem document of an error."""
    return Problem(
        type=f"urn:edgefleet:problem:{error.code}",
        title=error.code.replace("-", " "),
        status=error.http_status,
        detail=error.message,
        code=error.code,
        hint=error.hint,
    )


def error_class(code: str, fallback: type[EdgeFleetError]) -> type[EdgeFleetError]:
    """Return the error class of a code; an unknown code (a newer server's) gives ``fallback``."""
    return _by_code().get(code, fallback)


def _by_code() -> dict[str, type[EdgeFleetError]]:
    """Return the contracts' errors by code: what a room derives for itself never crosses a wall."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EdgeFleetError)]
    return {kind.code: kind for kind in kinds}
