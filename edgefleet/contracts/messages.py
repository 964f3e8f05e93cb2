# SPDX-License-Identifier: Apache-2.0
"""What devices and server tell each other over MQTT, as JSON.

A :class:`Message` is durable: the device keeps it in its outbox until a :class:`Watermark` covers it. Its key is
(device, epoch, sequence). :class:`State` is retained and only the newest counts; :class:`Hint` may be lost.

Devices and servers of different age understand each other: fields at their defaults are left out, unknown ones are
passed over, and a field or event kind that came after schema 1 goes only to who said that it understands it
(:class:`Capabilities`, :func:`edgefleet.contracts.message_schema.downgrade`). Schema 1 refuses what it does not know.
"""

from typing import Annotated, Literal, TypeVar

import msgspec

from edgefleet.contracts.errors import MessageError
from edgefleet.contracts.manifest import Natural
from edgefleet.contracts.names import Name, Sha256, Version

#: The newest schema of messages, and what every party understands.
SCHEMA = 2
FIRST_SCHEMA = 1
MESSAGE_LIMIT_BYTES = 128 << 10
CONFIDENCE_BINS = 20
#: Latency bins an octave: bin i holds latencies from 2**(i/4) up to 2**((i+1)/4) microseconds.
LATENCY_BINS_PER_OCTAVE = 4
LATENCY_BINS = 112

Epoch = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
Cause = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,62}\Z")]
Detail = Annotated[str, msgspec.Meta(max_length=1000)]
Column = Annotated[tuple[Natural, ...], msgspec.Meta(max_length=4096)]
#: The schema that a message is written in; those that it is too new for pass over its new fields.
SchemaNumber = Annotated[int, msgspec.Meta(ge=1)]
#: Marks a field that came with a later schema than the first: ``Annotated[T, SINCE_2] = default``.
SINCE_2 = msgspec.Meta(extra={"since": 2})

#: The states of a device's life cycle, as in the documentation's diagram.
DeviceStatus = Literal[
    "idle",
    "downloading",
    "verified",
    "staged",
    "admission",
    "shadow",
    "trial",
    "committed",
    "rolling-back",
    "verify-previous",
    "safe-mode",
]


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what goes over the wire: unknown fields are passed over, defaults are left out."""


class RunningRelease(Told, frozen=True, kw_only=True):
    """A release as a device names it; the bundle's hash is what counts."""

    name: Name
    version: Version
    bundle_sha256: Sha256


class SparseCounts(Told, frozen=True, kw_only=True):
    """A histogram as two columns of equal length: bin number and count."""

    bins: Column = ()
    counts: Column = ()


class Confusion(Told, frozen=True, kw_only=True):
    """A sparse confusion matrix as three columns of equal length."""

    actual: Column = ()
    predicted: Column = ()
    counts: Column = ()


class ModelWindow(Told, frozen=True, kw_only=True):
    """What one model did in one window of time; counts of separate windows add up.

    ``compared`` requests were answered by the previous model too, on the same inputs; in ``disagreed`` of them the
    top-1 class (or, without classes, the output beyond tolerance) was another. ``labelled`` holds feedback that
    arrived in the window, for answers this model gave.
    """

    release: RunningRelease
    role: Literal["active", "trial", "shadow"]
    requests: Natural = 0
    failed: Natural = 0
    non_finite: Natural = 0
    compared: Natural = 0
    disagreed: Natural = 0
    latency: SparseCounts = SparseCounts()
    confidence: SparseCounts = SparseCounts()
    classes: SparseCounts = SparseCounts()
    labelled: Confusion = Confusion()


class Telemetry(Told, frozen=True, kw_only=True, tag="telemetry"):
    """All models' figures of one window (Unix seconds, the device's clock) and the agent's own.

    ``evicted`` counts messages that the outbox had to let go in the window.
    """

    window_start: float
    window_end: float
    models: tuple[ModelWindow, ...]
    rss_bytes: Natural = 0
    worker_restarts: Natural = 0
    evicted: Annotated[Natural, SINCE_2] = 0


EventKind = Literal[
    "agent-started",
    "update-found",
    "update-refused",
    "download-corrupt",
    "download-failed",
    "verified",
    "admission-passed",
    "admission-refused",
    "shadow-started",
    "trial-started",
    "committed",
    "rolled-back",
    "rollback-verified",
    "quarantined",
    "safe-mode",
    "worker-restarted",
    "state-repaired",
    "certificate-renewed",
    "certificate-lapsing",
    "identity-cloned",
    "clock-wrong",
    "hardware-changed",
    "input-changed",
    "accelerator-lost",
    "settings-changed",
    "software-found",
    "software-refused",
    "software-committed",
    "software-rolled-back",
]


class Event(Told, frozen=True, kw_only=True, tag="event"):
    """One thing that happened to a device.

    ``cause`` is a stable kebab-case word for why; ``counter`` is the assignment that it belongs to;
    ``seconds`` is how long it took from the first sign to this event, where that has a meaning.
    """

    kind: EventKind
    cause: Cause
    detail: Detail = ""
    release: RunningRelease | None = None
    counter: Natural | None = None
    seconds: float | None = None


class Gap(Told, frozen=True, kw_only=True, tag="gap"):
    """Stands for messages that the outbox had to evict: ``first`` to ``last`` of this epoch, both included."""

    first: Natural
    last: Natural


class Message(Told, frozen=True, kw_only=True):
    """The envelope of everything durable; sequences count from 1 within an epoch, without holes but for gaps."""

    v: SchemaNumber
    device: Name
    epoch: Epoch
    sequence: Annotated[int, msgspec.Meta(ge=1)]
    created_at: float
    body: Telemetry | Event | Gap


class State(Told, frozen=True, kw_only=True):
    """A device's retained state; the last will is the same with ``connected`` false.

    ``evicted`` counts messages that the outbox had to let go since it was made. Of several models that answer,
    ``running`` is the first by name, and ``also_running`` are the others. ``software`` is the wheel set of the agent's
    own software, where one runs that was found good.
    """

    v: SchemaNumber
    device: Name
    profile: Name
    connected: bool
    status: DeviceStatus
    agent_version: str
    counter: Natural = 0
    running: RunningRelease | None = None
    candidate: RunningRelease | None = None
    previous: RunningRelease | None = None
    quarantined: tuple[Sha256, ...] = ()
    changed_at: float = 0.0
    evicted: Annotated[Natural, SINCE_2] = 0
    also_running: Annotated[tuple[RunningRelease, ...], SINCE_2] = ()
    software: Annotated[RunningRelease | None, SINCE_2] = None


class Hint(Told, frozen=True, kw_only=True):
    """Something is new at the director: poll soon. Losing a hint only costs time."""

    v: SchemaNumber
    counter: Natural


class Capabilities(Told, frozen=True, kw_only=True):
    """Which schema of messages the server understands, on the channel of hints: older agents pass it over.

    Said to a device upon each of its states. A server that says nothing understands schema 1.
    """

    v: SchemaNumber
    schema: SchemaNumber


class Watermark(Told, frozen=True, kw_only=True):
    """The server has stored all messages of the epoch up to ``sequence``: the outbox may let them go."""

    v: SchemaNumber
    epoch: Epoch
    sequence: Natural


M = TypeVar("M", Message, State, Hint, Watermark, Capabilities)


def encode_message(message: Message | State | Hint | Watermark | Capabilities) -> bytes:
    """Encode a message for the wire (JSON; fields at their defaults are left out)."""
    return msgspec.json.encode(message)


def decode_message(data: bytes, kind: type[M]) -> M:
    """Decode and check a message from the wire.

    Raises:
        MessageError: it is too large, not JSON, or breaks the schema; the message names the field.
    """
    if len(data) > MESSAGE_LIMIT_BYTES:
        raise MessageError(
            f"a message of {len(data)} bytes is over the limit of {MESSAGE_LIMIT_BYTES}", hint="send smaller windows"
        )
    try:
        message = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"a {kind.__name__} message is malformed: {error}", hint="update the sender") from error
    _check_columns(message)
    return message


def _check_columns(message: object) -> None:
    if not (isinstance(message, Message) and isinstance(message.body, Telemetry)):
        return
    for model in message.body.models:
        for sparse in (model.latency, model.confidence, model.classes):
            _equal_lengths(len(sparse.bins), len(sparse.counts))
        labelled = model.labelled
        _equal_lengths(len(labelled.actual), len(labelled.predicted), len(labelled.counts))


def _equal_lengths(*lengths: int) -> None:
    if len(set(lengths)) > 1:
        raise MessageError(f"a Telemetry message has columns of {lengths} entries", hint="update the sender")
