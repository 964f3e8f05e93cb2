# SPDX-License-Identifier: Apache-2.0
"""Saying the same to an older party: what came with a later schema is left out, or put in words of before."""

from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec

from edgefleet.contracts.messages import SCHEMA, Event, EventKind, Message, State

#: The kinds of events that schema 1 knows; a later one is said as the neutral kind, with its name as the cause.
FIRST_EVENT_KINDS: frozenset[str] = frozenset(get_args(EventKind)[:17])
_NEUTRAL_KIND = "state-repaired"
_DETAIL_LIMIT = 1000

T = TypeVar("T", Message, State)


def downgrade(message: T, schema: int) -> T:
    """Return a message as a party understands it that knows schemas up to ``schema`` only."""
    schema = min(schema, SCHEMA)
    return _narrowed(msgspec.structs.replace(message, v=schema), schema)  # type: ignore[no-any-return]  # same type


def _narrowed(value: Any, schema: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_narrowed(item, schema) for item in value)
    if not isinstance(value, msgspec.Struct):
        return value
    later = _later_fields(type(value), schema)
    kept = {name: _narrowed(getattr(value, name), schema) for name in value.__struct_fields__ if name not in later}
    return _known_event(type(value)(**kept), schema)


def _known_event(value: msgspec.Struct, schema: int) -> msgspec.Struct:
    if schema > 1 or not isinstance(value, Event) or value.kind in FIRST_EVENT_KINDS:
        return value
    detail = f"{value.kind} ({value.cause}) {value.detail}"[:_DETAIL_LIMIT]
    return msgspec.structs.replace(value, kind=_NEUTRAL_KIND, cause=value.kind, detail=detail)


@cache
def _later_fields(kind: type[msgspec.Struct], schema: int) -> frozenset[str]:
    return frozenset(field.name for field in msgspec.structs.fields(kind) if _since(field.type) > schema)


def _since(field_type: Any) -> int:
    if get_origin(field_type) is not Annotated:
        return 1
    return max([int((mark.extra or {}).get("since", 1)) for mark in get_args(field_type)[1:]], default=1)
