# SPDX-License-Identifier: Apache-2.0
"""The documents of the management API, and how they enter OpenAPI (their JSON schemas come from the types)."""

from typing import Annotated, Any, Literal

import msgspec
from starlette.responses import Response

from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.names import Name, Sha256, Version
from fleet_server.adapters.access.problems import MEDIA_TYPE, Problem
from fleet_server.adapters.devices.device_register import DeviceRecord
from fleet_server.core.rollouts.gate import Verdict


class Invitation(Fact, frozen=True, kw_only=True):
    """Make a device known."""

    name: Name
    profile: Name


class GraceWish(Fact, frozen=True, kw_only=True):
    """Let a device renew a certificate that has lapsed for so many days from now."""

    days: Annotated[float, msgspec.Meta(ge=0.0)]


class LiftWish(Fact, frozen=True, kw_only=True):
    """Let a device try a release again that it has in quarantine."""

    name: Name
    version: Version


class ExportWish(Fact, frozen=True, kw_only=True):
    """Make an update file for some devices, whose metadata live for so many days."""

    devices: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=200)]
    days: Annotated[float, msgspec.Meta(gt=0.0)] = 30.0


class StoredBundle(Fact, frozen=True, kw_only=True):
    """An upload that is a bundle, under its hash."""

    sha256: Sha256
    size_bytes: int


class PublishedTargets(Fact, frozen=True, kw_only=True):
    """The version of the top-level targets metadata that is served now."""

    version: int


class NewRelease(Fact, frozen=True, kw_only=True):
    """Make a draft release of uploaded bundles; ``policy`` is the policy file's text."""

    bundles: Annotated[tuple[Sha256, ...], msgspec.Meta(max_length=64)]
    policy: str


class NewRollout(Fact, frozen=True, kw_only=True):
    """Start a rollout of an approved release."""

    name: Name
    version: Version


class NewToken(Fact, frozen=True, kw_only=True):
    """Make an API token."""

    name: Name
    role: Literal["admin", "approver", "viewer"]


class TokenAnswer(Fact, frozen=True, kw_only=True):
    """A new token; it is shown this once."""

    name: str
    role: str
    token: str


class RolloutDevice(Fact, frozen=True, kw_only=True):
    """One covered device in a rollout; ``wave`` (from 1) is absent while it waits."""

    device: str
    online: bool
    assigned: bool
    holdout: bool
    failed: bool
    settled: bool
    back: bool
    wave: int | None = None


class RolloutStatus(Fact, frozen=True, kw_only=True):
    """A rollout as the API shows it; ``wave`` counts from 1, times are Unix seconds.

    The counts speak of covered devices; ``offline`` of them are not connected now, and ``not_covered`` devices have
    a profile that the release has no bundle for. ``unfit`` devices have such a profile, and cannot run the bundle all
    the same: each fact that stands against it is named.
    """

    id: str
    name: str
    version: str
    state: str
    cause: str
    wave: int
    wave_percents: tuple[float, ...]
    wave_started_at: float
    created_at: float
    covered: int
    assigned: int
    settled: int
    failed: int
    offline: int
    held_out: int
    not_covered: tuple[str, ...]
    unfit: dict[str, tuple[str, ...]]
    verdict: Verdict | None
    devices: tuple[RolloutDevice, ...]


class FleetEvent(Fact, frozen=True, kw_only=True):
    """One event that a device reported."""

    device: str
    received_at: float
    kind: str
    cause: str
    detail: str
    version: str | None = None
    bundle_sha256: str | None = None
    counter: int | None = None
    seconds: float | None = None


class ReleaseFigures(Fact, frozen=True, kw_only=True):
    """What all devices reported of one bundle in one role, summed over the time asked for."""

    bundle_sha256: str
    role: str
    devices: int
    requests: int
    failed: int
    non_finite: int
    compared: int
    disagreed: int
    labelled: int
    correct: int


class ConfusionCell(Fact, frozen=True, kw_only=True):
    """How many answers with label ``actual`` were ``predicted``."""

    actual: int
    predicted: int
    count: int


class Health(Fact, frozen=True, kw_only=True):
    """Whether the server works; ``broker`` says how device messages come in."""

    status: str
    tenant: str
    broker_connected: bool
    broker: str


class FleetView(Fact, frozen=True, kw_only=True):
    """Everything that the live page shows."""

    now: float
    health: Health
    devices: tuple[DeviceRecord, ...]
    rollout: RolloutStatus | None
    events: tuple[FleetEvent, ...]
    ingestion: dict[str, int]


def json_answer(document: object, status: int = 200) -> Response:
    """Return a document as an HTTP answer."""
    return Response(msgspec.json.encode(document), status_code=status, media_type="application/json")


def answers(kind: Any, status: int = 200, what: str = "Done") -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of an answer of type ``kind``, and of problems."""
    return {status: _content(what, "application/json", _inline_schema(kind)), "default": _problem()}


def answers_bytes(media_type: str, what: str, *, none: str = "") -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of an answer of raw bytes, and of problems; ``none`` says what a 204 means."""
    described: dict[int | str, dict[str, Any]] = {
        200: _content(what, media_type, {"type": "string"}),
        "default": _problem(),
    }
    return described | ({204: {"description": none}} if none else {})


def takes(kind: Any) -> dict[str, Any]:
    """Return the OpenAPI description of a request body of type ``kind``."""
    schema = _inline_schema(kind)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def takes_bytes(media_type: str) -> dict[str, Any]:
    """Return the OpenAPI description of a request body of raw bytes."""
    return {"requestBody": {"required": True, "content": {media_type: {"schema": {"type": "string"}}}}}


def _problem() -> dict[str, Any]:
    return _content("A problem (RFC 9457)", MEDIA_TYPE, _inline_schema(Problem))


def _content(what: str, media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": what, "content": {media_type: {"schema": schema}}}


def _inline_schema(kind: Any) -> dict[str, Any]:
    """Return the JSON schema of a type with every reference put in place (the types here are no trees)."""
    (schema,), definitions = msgspec.json.schema_components((kind,), ref_template="{name}")

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(definitions[node["$ref"]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(value) for value in node] if isinstance(node, list) else node

    resolved: dict[str, Any] = resolve(schema)
    return resolved
