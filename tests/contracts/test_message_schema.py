# SPDX-License-Identifier: Apache-2.0
"""Devices and servers of different age understand each other, in both directions and without loss."""

import importlib.util
import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from edgefleet.contracts import messages as now
from edgefleet.contracts.message_schema import FIRST_EVENT_KINDS, downgrade
from edgefleet.contracts.messages import Event, Gap, Message, ModelWindow, RunningRelease, State, Telemetry

FIXTURES = Path(__file__).parents[1] / "device_agent" / "fixtures" / "schema-1"
RELEASE = RunningRelease(name="digits", version="2.0.0", bundle_sha256="b" * 64)


@pytest.fixture(scope="module", name="first")
def _first() -> Any:
    """The decoder of schema 1."""
    spec = importlib.util.spec_from_file_location("messages_of_schema_1", FIXTURES / "contract.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def message(body: Any) -> Message:
    return Message(v=now.SCHEMA, device="dev-1", epoch="0" * 16, sequence=3, created_at=1.0, body=body)


BODIES = [
    Telemetry(window_start=1.0, window_end=2.0, models=(ModelWindow(release=RELEASE, role="active"),), evicted=9),
    Gap(first=1, last=2),
    *[Event(kind=kind, cause="a-cause", detail="what", release=RELEASE) for kind in get_args(now.EventKind)],
]
STATE = State(
    v=now.SCHEMA,
    device="dev-1",
    profile="p",
    connected=True,
    status="idle",
    agent_version="9",
    running=RELEASE,
    evicted=9,
    also_running=(RELEASE,),
)


def test_what_schema_1_wrote_is_understood() -> None:
    documents = json.loads((FIXTURES / "messages.json").read_text())
    kinds = {"message": Message, "state": State, "hint": now.Hint, "watermark": now.Watermark}
    for name, kind in kinds.items():
        for document in documents[name]:
            read = now.decode_message(json.dumps(document).encode(), kind)
            assert read.v == 1
            if isinstance(read, (Message, State)):
                assert downgrade(read, 1) == read


@pytest.mark.parametrize("body", BODIES, ids=lambda body: getattr(body, "kind", type(body).__name__))
def test_a_party_of_schema_1_understands_every_message_said_in_it(first: Any, body: Any) -> None:
    read = msgspec.json.decode(now.encode_message(downgrade(message(body), 1)), type=first.Message)
    assert (read.v, read.device, read.sequence, read.created_at) == (1, "dev-1", 3, 1.0)
    assert type(read.body).__name__ == type(body).__name__
    if isinstance(body, Event) and body.kind in FIRST_EVENT_KINDS:
        assert (read.body.kind, read.body.cause, read.body.detail) == (body.kind, "a-cause", "what")
    elif isinstance(body, Event):
        assert (read.body.kind, read.body.cause) == ("state-repaired", body.kind)
        assert read.body.detail == f"{body.kind} (a-cause) what"


def test_a_party_of_schema_1_understands_states_hints_and_watermarks(first: Any) -> None:
    state = msgspec.json.decode(now.encode_message(downgrade(STATE, 1)), type=first.State)
    assert (state.connected, state.running.version, state.quarantined) == (True, "2.0.0", ())
    for said in (now.Hint(v=1, counter=4), now.Watermark(v=1, epoch="0" * 16, sequence=7)):
        read = msgspec.json.decode(now.encode_message(said), type=getattr(first, type(said).__name__))
        assert msgspec.structs.asdict(read) == msgspec.structs.asdict(said)
    with pytest.raises(msgspec.ValidationError):  # which an agent of that time passes over
        msgspec.json.decode(now.encode_message(now.Capabilities(v=1, schema=2)), type=first.Hint)


def test_nothing_is_lost_between_parties_of_the_newest_schema() -> None:
    for body in BODIES:
        assert downgrade(message(body), now.SCHEMA) == message(body)
        assert downgrade(message(body), 99) == message(body)
    assert now.decode_message(now.encode_message(STATE), State) == STATE


@pytest.mark.parametrize("name", ["Message", "State", "Telemetry", "ModelWindow", "Event", "Gap", "Hint", "Watermark"])
def test_every_field_that_came_later_says_so_and_none_went(first: Any, name: str) -> None:
    older = set(getattr(first, name).__struct_fields__)
    newer = getattr(now, name).__struct_fields__
    assert older <= set(newer)
    kept = downgrade(message(BODIES[0]), 1) if name == "Message" else None
    assert kept is None or kept.v == 1
    for field in msgspec.structs.fields(getattr(now, name)):
        marks = [mark.extra["since"] for mark in get_args(field.type) if getattr(mark, "extra", None)]
        assert (field.name not in older) == (marks == [now.SCHEMA]), (
            f"{name}.{field.name}: mark it with SINCE_{now.SCHEMA}"
        )


def test_what_a_newer_party_says_is_understood_as_far_as_it_is_known() -> None:
    document = json.loads(now.encode_message(message(BODIES[0])))
    document |= {"v": 7, "colour": "red"}
    document["body"]["models"][0]["colour"] = "red"
    read = now.decode_message(json.dumps(document).encode(), Message)
    assert (read.v, read.body) == (7, BODIES[0])
