# SPDX-License-Identifier: Apache-2.0
"""An input of which a model was unsure, as a device keeps and uploads it: after redaction, by consent of both sides."""

from typing import Annotated

import msgspec

from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.errors import MessageError
from edgefleet.contracts.manifest import Dtype, Natural, Share
from edgefleet.contracts.messages import RunningRelease, SchemaNumber, Told

CAPTURE_PATH = "/v1/captures"
#: Of the whole JSON document, with its inputs in base64.
CAPTURE_LIMIT_BYTES = 1 << 20


class CapturedTensor(Told, frozen=True, kw_only=True):
    """One input as the application sent it, before preprocessing: raw little-endian bytes."""

    shape: Annotated[tuple[Natural, ...], msgspec.Meta(max_length=8)]
    dtype: Dtype
    data: bytes


class CapturedInput(Told, frozen=True, kw_only=True):
    """What the model got, how sure it was (its top-1 confidence), and when (Unix seconds on the device's clock)."""

    v: SchemaNumber
    release: RunningRelease
    confidence: Share
    captured_at: float
    inputs: Annotated[tuple[CapturedTensor, ...], msgspec.Meta(max_length=16)]


def read_captured(data: bytes) -> CapturedInput:
    """Decode and check a captured input.

    Raises:
        MessageError: it is too large, or malformed.
    """
    if len(data) > CAPTURE_LIMIT_BYTES:
        raise MessageError(
            f"a captured input of {len(data)} bytes is over the limit of {CAPTURE_LIMIT_BYTES}",
            hint="capture smaller inputs",
        )
    return decode_json(data, CapturedInput, source="the captured input", error=MessageError)
