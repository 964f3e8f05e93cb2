# SPDX-License-Identifier: Apache-2.0
"""What a model's file tells of a detector's outputs: the names that they go by, the operator that they come from."""

from collections.abc import Sequence
from typing import Any

from converter.adapters.flatbuffers.reading import graph_facts, read_model
from converter.core.detection import Output, check_roles, told_roles
from converter.core.graph import GraphFacts
from edgefleet.contracts.errors import InputError
from edgefleet.contracts.manifest import DetectionRole, Task, TensorSpec


def settled_roles(
    model: bytes, outputs: Sequence[TensorSpec], task: Task, named: tuple[DetectionRole, ...], *, own_metric: bool
) -> tuple[DetectionRole, ...]:
    """Return what each output of a detector is: as the user named it, or as the model tells; nothing for other tasks.

    A metric of the user's own takes the first output as it is, where the model does not tell.

    Raises:
        InputError: the roles do not fit the outputs, are not told, or are named for another task.
        UnsupportedModelError: the flatbuffer is damaged.
    """
    if task != "detection":
        if named:
            raise InputError(
                f"--outputs names a detector's outputs, and the task is '{task}'",
                hint="leave it out, or name the task: --task detection",
            )
        return ()
    if named:
        check_roles(named, outputs)
        return named
    try:
        return _told(model, outputs)
    except InputError:
        if own_metric:
            return ()
        raise


def _told(model: bytes, outputs: Sequence[TensorSpec]) -> tuple[DetectionRole, ...]:
    tree = read_model(model)
    facts = graph_facts(tree, len(model))
    signed = _signature_names(tree)
    described = [
        Output(spec, tuple(name for name in (facts.tensors[number].name, signed.get(number)) if name))
        for number, spec in zip(facts.outputs, outputs, strict=True)
    ]
    return told_roles(described, _operator(facts))


def _operator(facts: GraphFacts) -> str | None:
    """Return the name of the operator that all outputs come from, in their order, if there is one."""
    return next((operator.name for operator in facts.operators if operator.outputs == facts.outputs), None)


def _signature_names(tree: Any) -> dict[int, str]:
    """Return the outputs' names in the first signature, by number of tensor."""
    signatures = tree.signatureDefs or ()
    entries = (signatures[0].outputs or ()) if signatures else ()
    return {int(entry.tensorIndex): (entry.name or b"").decode("utf-8", "replace") for entry in entries}
