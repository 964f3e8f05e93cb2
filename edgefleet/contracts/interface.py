# SPDX-License-Identifier: Apache-2.0
"""The interface that an application was built for, and how it differs from the one that a release offers.

An application says what it relies on and leaves out the rest: a tensor without a name fits any name.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from edgefleet.contracts.manifest import Dtype, Fact, Interface, Positive, TensorSpec
from edgefleet.contracts.names import Name

_SHOWN_LABELS = 3


class NeededTensor(Fact, frozen=True, kw_only=True):
    """One input or output that an application relies on; ``shape`` counts the leading batch dimension, as a manifest's.

    What is None fits anything.
    """

    name: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    shape: Annotated[tuple[Positive, ...], msgspec.Meta(max_length=8)] | None = None
    dtype: Dtype | None = None


class NeededInterface(Fact, frozen=True, kw_only=True):
    """What an application relies on; None says nothing of that part."""

    inputs: Annotated[tuple[NeededTensor, ...], msgspec.Meta(max_length=64)] | None = None
    outputs: Annotated[tuple[NeededTensor, ...], msgspec.Meta(max_length=64)] | None = None
    labels: Annotated[tuple[str, ...], msgspec.Meta(max_length=65_536)] | None = None


class Declaration(Fact, frozen=True, kw_only=True):
    """One application, the model that it asks (None: the only one), and the interface that it was built for."""

    application: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    interface: NeededInterface
    model: Name | None = None


def differences(needed: NeededInterface, offered: Interface) -> tuple[str, ...]:
    """Return in what an offered interface is not the one that is needed: one sentence each."""
    return (
        *_tensors("input", needed.inputs, offered.inputs),
        *_tensors("output", needed.outputs, offered.outputs),
        *_labels(needed.labels, offered.labels),
    )


def _tensors(kind: str, needed: Sequence[NeededTensor] | None, offered: Sequence[TensorSpec]) -> list[str]:
    if needed is None:
        return []
    if len(needed) != len(offered):
        return [f"the application needs {len(needed)} {kind}s, the release has {len(offered)}"]
    return [
        f"{kind} {place}: the application needs the {what} {_said(wanted)}, the release has {_said(found)}"
        for place, (want, have) in enumerate(zip(needed, offered, strict=True))
        for what, wanted, found in (
            ("name", want.name, have.name),
            ("shape", want.shape, have.shape),
            ("dtype", want.dtype, have.dtype),
        )
        if wanted is not None and wanted != found
    ]


def _labels(needed: Sequence[str] | None, offered: Sequence[str]) -> list[str]:
    if needed is None or tuple(needed) == tuple(offered):
        return []
    if len(needed) != len(offered):
        return [f"the application needs {len(needed)} labels, the release has {len(offered)}"]
    wrong = [
        f"{place} '{want}' is '{have}'"
        for place, (want, have) in enumerate(zip(needed, offered, strict=True))
        if want != have
    ]
    more = f" and {len(wrong) - _SHOWN_LABELS} more" if len(wrong) > _SHOWN_LABELS else ""
    return [f"labels: {', '.join(wrong[:_SHOWN_LABELS])}{more}"]


def _said(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else f"'{value}'"
