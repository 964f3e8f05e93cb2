# SPDX-License-Identifier: Apache-2.0
"""A detector's outputs: which is which, and the rows that they make together.

A detection is a row of six numbers: y0, x0, y1, x1, class (-1: the row says nothing), score. Box coordinates are in the
units of the model's own boxes, which labels share.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from converter.core.graph import POST_PROCESS
from edgefleet.contracts.errors import InputError
from edgefleet.contracts.manifest import DetectionRole, Task, TensorSpec

Array = npt.NDArray[Any]
#: Columns of a detection.
CLASS_COLUMN = 4
SCORE_COLUMN = 5
COLUMNS = 6
#: A higher class is none: nothing would be counted that far.
LARGEST_CLASS = 9999
#: What an operator that makes detections answers with, in its order.
POST_PROCESS_ROLES: tuple[DetectionRole, ...] = ("boxes", "classes", "scores", "count")
#: The outputs that a detector may have; without classes, scores have one column a class (or there is one class).
_SETS: tuple[tuple[DetectionRole, ...], ...] = (
    ("boxes", "scores"),
    ("boxes", "classes", "scores"),
    ("boxes", "scores", "count"),
    ("boxes", "classes", "scores", "count"),
)
_WORDS: dict[DetectionRole, tuple[str, ...]] = {
    "count": ("num", "count", "valid"),
    "boxes": ("box", "location"),
    "classes": ("class", "label", "categor"),
    "scores": ("score", "confidence", "prob"),
}
_HINT = "name what each output is, in this order, for example: --outputs boxes,classes,scores,count"


class Output(NamedTuple):
    """One output of a detector: its tensor, and every name that it goes by."""

    spec: TensorSpec
    names: tuple[str, ...]


def parse_roles(text: str | None) -> tuple[DetectionRole, ...]:
    """Read roles as a command line has them, separated by commas; nothing named is nothing.

    Raises:
        InputError: one is no role.
    """
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    known: dict[str, DetectionRole] = {role: role for role in get_args(DetectionRole)}
    unknown = [word for word in words if word not in known]
    if unknown:
        raise InputError(f"--outputs has '{unknown[0]}', expected one of {', '.join(known)}", hint=_HINT)
    return tuple(known[word] for word in words)


def check_roles(roles: Sequence[DetectionRole], outputs: Sequence[TensorSpec]) -> None:
    """Refuse roles that the outputs cannot have.

    Raises:
        InputError: there are more or fewer than outputs, one comes twice or is missing, or a shape does not fit.
    """
    if len(roles) != len(outputs):
        raise InputError(
            f"{len(roles)} roles are named ({', '.join(roles)}), and the model has {_described(outputs)}", hint=_HINT
        )
    named = [role for role in roles if role != "other"]
    twice = [role for role in named if named.count(role) > 1]
    if twice:
        raise InputError(f"the role '{twice[0]}' is named twice", hint=_HINT)
    missing = [role for role in ("boxes", "scores") if role not in named]
    if missing:
        raise InputError(f"no output of the model is the detector's {missing[0]}", hint=_HINT)
    if not _fits(roles, outputs):
        raise InputError(
            f"the outputs cannot be {', '.join(roles)}: the model has {_described(outputs)}",
            hint="boxes have four columns; classes and scores one value a box (scores one a class where no output "
            "holds classes); count is a single number",
        )


def told_roles(outputs: Sequence[Output], operator: str | None) -> tuple[DetectionRole, ...]:
    """Return what the outputs are where operator, shapes, types and names leave one possibility.

    ``operator`` is the name of the operator that all outputs come from, in its order, if there is one.

    Raises:
        InputError: they leave none, or several.
    """
    specs = [output.spec for output in outputs]
    if operator == POST_PROCESS and len(outputs) == len(POST_PROCESS_ROLES):
        return POST_PROCESS_ROLES
    possible = [roles for roles in _arrangements(len(outputs)) if _fits(roles, specs)]
    named = [roles for roles in possible if all(map(_may_be_called, outputs, roles))]
    if len(named) != 1:
        what = "do not tell which is which" if possible else "are no detector's"
        raise InputError(f"the model has {_described(specs)}, which {what}", hint=_HINT)
    return named[0]


def read_as(task: Task, roles: Sequence[DetectionRole]) -> Task:
    """Return the task whose answers there are: a detector that does not tell its outputs apart answers plain values."""
    return "regression" if task == "detection" and not roles else task


def detections(outputs: Sequence[Array], roles: Sequence[DetectionRole]) -> Array:
    """Return one sample's detections, shape (rows, 6).

    ``outputs`` are the model's de-quantized outputs with their batch dimension of 1, ``roles`` what each of them is.
    Without an output of classes, a row's class is the column of its highest score. Rows beyond ``count``, rows
    that are not finite and rows of no class say nothing.

    Raises:
        InputError: boxes or scores are not among the roles, or the numbers of boxes, classes and scores differ.
    """
    parts = {role: value for role, value in zip(roles, outputs, strict=True) if role != "other"}
    missing = [role for role in ("boxes", "scores") if role not in parts]
    if missing:
        raise InputError(f"no output of the model is the detector's {missing[0]}", hint=_HINT)
    boxes = parts["boxes"].reshape(-1, 4).astype(np.float64)
    scores = parts["scores"].reshape(len(boxes), -1).astype(np.float64)
    # A class that went through a scale comes back as 2.98 or 3.02.
    classes = np.rint(parts["classes"].reshape(-1)) if "classes" in parts else np.nan_to_num(scores).argmax(axis=1)
    rows = np.column_stack([boxes, classes.astype(np.float64), scores.max(axis=1)])
    told = _count(parts["count"], len(rows)) if "count" in parts else len(rows)
    with np.errstate(invalid="ignore"):
        known = (rows[:, CLASS_COLUMN] >= 0) & (rows[:, CLASS_COLUMN] <= LARGEST_CLASS)
    silent = ~np.isfinite(rows).all(axis=1) | ~known | (np.arange(len(rows)) >= told)
    rows[silent] = (0.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    return rows


def _count(value: Array, rows: int) -> int:
    told = float(value.reshape(-1)[0])
    return rows if not np.isfinite(told) else max(0, min(round(told), rows))


def _arrangements(outputs: int) -> Iterator[tuple[DetectionRole, ...]]:
    for roles in _SETS:
        if len(roles) == outputs:
            yield from permutations(roles)


def _fits(roles: Sequence[DetectionRole], specs: Sequence[TensorSpec]) -> bool:
    """Tell whether shapes and types allow these roles."""
    parts = {role: spec for role, spec in zip(roles, specs, strict=True) if role != "other"}
    boxes, scores = parts["boxes"], parts["scores"]
    rows = _size(boxes) // 4
    if len(boxes.shape) < 2 or boxes.shape[-1] != 4 or _is_whole(scores):
        return False
    by_class = "classes" not in parts and scores.shape[-2:-1] == (rows,)
    if _size(scores) != rows and not by_class:
        return False
    if "classes" in parts and _size(parts["classes"]) != rows:
        return False
    return "count" not in parts or _size(parts["count"]) == 1


def _may_be_called(output: Output, role: DetectionRole) -> bool:
    """Tell whether an output's names allow a role: those that say one role allow no other."""
    return all(said is None or said == role for said in map(_said, output.names))


def _said(name: str) -> DetectionRole | None:
    """Return the role that a name says, None where it says none or several."""
    text = re.sub(r"[^a-z]", " ", name.lower())
    said = [role for role, words in _WORDS.items() if any(word in text for word in words)]
    if said[:1] == ["count"] and len(said) == 2:  # num_boxes, num_classes, valid_boxes
        return "count"
    return said[0] if len(said) == 1 else None


def _is_whole(spec: TensorSpec) -> bool:
    """Tell whether a tensor holds whole numbers, not real ones through a scale."""
    return spec.dtype in ("int32", "int64", "bool") and spec.scale is None


def _size(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape))


def _described(outputs: Sequence[TensorSpec]) -> str:
    each = ", ".join(f"'{spec.name}' {list(spec.shape)}" for spec in outputs)
    return f"the output {each}" if len(outputs) == 1 else f"the outputs {each}"
