# SPDX-License-Identifier: Apache-2.0
"""Messages and topics: round trips, and refusals that name the field."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet.contracts import messages
from edgefleet.contracts.errors import MessageError
from edgefleet.contracts.messages import (
    Confusion,
    Event,
    Gap,
    Message,
    ModelWindow,
    RunningRelease,
    SparseCounts,
    Telemetry,
    Watermark,
    decode_message,
    encode_message,
)
from edgefleet.contracts.names import NAME_PATTERN
from edgefleet.contracts.topics import parse_topic, subscription, topic

NAMES = st.from_regex(NAME_PATTERN, fullmatch=True)
EPOCHS = st.text("0123456789abcdef", min_size=16, max_size=16)
COUNTS = st.integers(min_value=0, max_value=2**53 - 1)
RELEASES = st.builds(
    RunningRelease,
    name=NAMES,
    version=st.just("1.2.3"),
    bundle_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
)


@st.composite
def sparse(draw: st.DrawFn) -> SparseCounts:
    columns = draw(st.lists(st.tuples(COUNTS, COUNTS), max_size=5))
    return SparseCounts(bins=tuple(b for b, _ in columns), counts=tuple(c for _, c in columns))


WINDOWS = st.builds(
    ModelWindow, release=RELEASES, role=st.sampled_from(["active", "trial", "shadow"]), requests=COUNTS,
    latency=sparse(), confidence=sparse(), classes=sparse(),
    labelled=st.just(Confusion(actual=(1,), predicted=(2,), counts=(3,))),
)  # fmt: skip
BODIES = st.one_of(
    st.builds(
        Telemetry,
        window_start=st.floats(allow_nan=False, allow_infinity=False),
        window_end=st.floats(allow_nan=False, allow_infinity=False),
        models=st.lists(WINDOWS, max_size=3).map(tuple),
    ),
    st.builds(Event, kind=st.just("committed"), cause=st.just("trial-passed"), detail=st.text(max_size=50)),
    st.builds(Gap, first=COUNTS, last=COUNTS),
)
MESSAGES = st.builds(
    Message, v=st.just(1), device=NAMES, epoch=EPOCHS, sequence=st.integers(1, 2**53),
    created_at=st.floats(allow_nan=False, allow_infinity=False), body=BODIES,
)  # fmt: skip


@given(message=MESSAGES)
def test_a_message_survives_the_wire(message: Message) -> None:
    assert decode_message(encode_message(message), Message) == message


@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_not_crashed_on(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode_message(data, Message)


@given(tenant=NAMES, device=NAMES, channel=st.sampled_from(["telemetry", "event", "state", "hint", "watermark"]))
def test_a_topic_is_taken_apart_as_it_was_put_together(tenant: str, device: str, channel: str) -> None:
    assert parse_topic(topic(tenant, device, channel)) == (tenant, device, channel)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["", "edgefleet/v1/a/b", "edgefleet/v1/a/b/c/d", "edgefleet/v1/a/+/state", "edgefleet/v2/a/b/state",
     "x/edgefleet/v1/a/b/state", "edgefleet/v1/A/b/state", "edgefleet/v1/a/b/other"],
)  # fmt: skip
def test_another_topic_is_refused(text: str) -> None:
    with pytest.raises(MessageError) as caught:
        parse_topic(text)
    assert caught.value.message == f"'{text}' is not a topic of EdgeFleet"


def test_a_subscription_matches_all_devices_of_one_tenant() -> None:
    assert subscription("acme", "state") == "edgefleet/v1/acme/+/state"


def test_a_message_with_a_wrong_field_names_it() -> None:
    data = b'{"v":1,"device":"d","epoch":"0123456789abcdef","sequence":0,"created_at":0,"body":{"type":"gap"}}'
    with pytest.raises(MessageError) as caught:
        decode_message(data, Message)
    assert caught.value.message == "a Message message is malformed: Expected `int` >= 1 - at `$.sequence`"


def test_columns_of_different_length_are_refused() -> None:
    window = ModelWindow(
        release=RunningRelease(name="digits", version="1.0.0", bundle_sha256="0" * 64),
        role="active",
        latency=SparseCounts(bins=(1, 2), counts=(1,)),
    )
    body = Telemetry(window_start=0.0, window_end=1.0, models=(window,))
    message = Message(v=1, device="d", epoch="0" * 16, sequence=1, created_at=0.0, body=body)
    with pytest.raises(MessageError) as caught:
        decode_message(encode_message(message), Message)
    assert caught.value.message == "a Telemetry message has columns of (2, 1) entries"


def test_a_message_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(MessageError) as caught:
        decode_message(b" " * (messages.MESSAGE_LIMIT_BYTES + 1), Watermark)
    assert caught.value.message == "a message of 131073 bytes is over the limit of 131072"


def test_messages_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Watermark(v=1, epoch="0" * 16, sequence=1).sequence = 2  # type: ignore[misc]


def test_a_telemetry_window_is_small_on_the_wire() -> None:
    window = ModelWindow(
        release=RunningRelease(name="digits", version="1.0.0", bundle_sha256="0" * 64),
        role="active",
        requests=1000,
        latency=SparseCounts(bins=tuple(range(20, 40)), counts=(50,) * 20),
        confidence=SparseCounts(bins=tuple(range(20)), counts=(50,) * 20),
        classes=SparseCounts(bins=tuple(range(10)), counts=(100,) * 10),
    )
    body = Telemetry(window_start=0.0, window_end=60.0, models=(window,))
    message = Message(v=1, device="d", epoch="0" * 16, sequence=1, created_at=0.0, body=body)
    assert len(msgspec.json.encode(message)) < 1024
