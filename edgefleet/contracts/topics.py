# SPDX-License-Identifier: Apache-2.0
"""MQTT topics: ``edgefleet/v1/{tenant}/{device}/{channel}``, one direction a channel.

A device publishes ``telemetry``, ``event`` and (retained, also as its last will) ``state``;
the server publishes ``hint`` and ``watermark``.
"""

from typing import Literal, NamedTuple, get_args

from edgefleet.contracts.errors import MessageError
from edgefleet.contracts.names import is_name

Channel = Literal["telemetry", "event", "state", "hint", "watermark"]
PREFIX = "edgefleet/v1"
UPWARD: tuple[Channel, ...] = ("telemetry", "event", "state")
_CHANNELS: tuple[str, ...] = get_args(Channel)


class TopicParts(NamedTuple):
    """The parts of a topic that vary."""

    tenant: str
    device: str
    channel: Channel


def topic(tenant: str, device: str, channel: Channel) -> str:
    """Return the topic of one channel of one device."""
    return f"{PREFIX}/{tenant}/{device}/{channel}"


def subscription(tenant: str, channel: Channel) -> str:
    """Return the filter that matches one channel of all of a tenant's devices."""
    return f"{PREFIX}/{tenant}/+/{channel}"


def parse_topic(text: str) -> TopicParts:
    """Take a topic apart.

    Raises:
        MessageError: it is no topic of this version.
    """
    head, _, rest = text.partition(f"{PREFIX}/")
    parts = rest.split("/")
    if head or len(parts) != 3 or not (is_name(parts[0]) and is_name(parts[1])) or parts[2] not in _CHANNELS:
        raise MessageError(
            f"'{text[:200]}' is not a topic of EdgeFleet", hint=f"publish to {PREFIX}/TENANT/DEVICE/CHANNEL"
        )
    return TopicParts(parts[0], parts[1], parts[2])  # type: ignore[arg-type]  # checked against get_args above
