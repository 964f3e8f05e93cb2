# SPDX-License-Identifier: Apache-2.0
"""What a user asks of a conversion, and the plain decisions that follow from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from converter.core.board.operator_versions import is_older
from converter.core.recipe import Recipe
from converter.core.scoring import Metric
from converter.core.search.budgets import SearchBudgets
from edgefleet.contracts.errors import InputError
from edgefleet.contracts.manifest import DetectionRole, Preprocessing, RuntimeRequirement, Task, TensorSpec
from edgefleet.contracts.names import is_name, is_version
from edgefleet.contracts.profile import Profile
from edgefleet.runtimes.preprocessing import made_shape

_NONE = Preprocessing()
_NO_LIMITS = SearchBudgets()


@dataclass(frozen=True, kw_only=True)
class ConversionRequest:
    """A conversion's arguments; sample sets are paths, read once the model is known to be sound.

    ``roles`` say what each output of a detector is; empty: what the model tells of itself.
    Any of ``limits`` starts a search for a model that keeps them, of about ``search_limit_s``; ``explain`` compares the
    model with its float source layer by layer.
    """

    model: Path
    profile: Profile
    name: str
    version: str
    task: Task
    metric: Metric
    preprocessing: Preprocessing = _NONE
    labels: tuple[str, ...] = ()
    roles: tuple[DetectionRole, ...] = ()
    recipe: Recipe | None = None
    calibration: Path | None = None
    evaluation: Path | None = None
    acceptance: Path | None = None
    limits: SearchBudgets = _NO_LIMITS
    search_limit_s: float = 60.0
    explain: bool = False


def check_request(request: ConversionRequest) -> None:
    """Refuse what no model could make right.

    Raises:
        InputError: a name or version that cannot be published, or acceptance examples for a task without classes.
    """
    if not is_name(request.name):
        raise InputError(
            f"the name '{request.name}' is not made of a-z, 0-9, - and _ (63 characters at most)",
            hint="name the product as it may stand in a file name: --name digits",
        )
    if not is_version(request.version):
        raise InputError(
            f"the version '{request.version}' is not MAJOR.MINOR.PATCH", hint="for example: --version 1.0.0"
        )
    if request.acceptance is not None and request.task != "classification":
        raise InputError(
            f"acceptance examples are scored by top-1 accuracy, and the task is '{request.task}'",
            hint="leave out --acceptance, or name the task: --task classification",
        )


def check_class_names(request: ConversionRequest, output: TensorSpec) -> None:
    """Refuse class names that are more or fewer than the model's answers; a detector does not tell how many it has.

    Raises:
        InputError: the numbers differ.
    """
    classes = math.prod(output.shape)
    if request.task != "detection" and request.labels and len(request.labels) != classes:
        raise InputError(
            f"--labels names {len(request.labels)} classes, the model answers with {classes}",
            hint="name each class once, in the order of the model's outputs",
        )


def check_preprocessing(how: Preprocessing, inputs: Sequence[TensorSpec]) -> None:
    """Refuse a preprocessing whose results the model cannot take, before one is made.

    Raises:
        InputError: a scale or offset is not finite, or the shape is not that of each input.
    """
    image = how.image
    if image is not None and (not (math.isfinite(image.scale) and math.isfinite(image.offset)) or image.scale == 0.0):
        raise InputError(
            f"the preprocessing takes pixel × {image.scale} + {image.offset}",
            hint="give finite numbers, and a scale that is not 0",
        )
    made = made_shape(how)
    if made is None:
        return
    for spec in inputs:
        if made not in (spec.shape[1:], spec.shape, tuple(size for size in spec.shape if size != 1)):
            raise InputError(
                f"the preprocessing makes inputs of shape {[1, *made]}, "
                f"the model's input '{spec.name}' has {list(spec.shape)}",
                hint=_shape_hint(how),
            )


def _shape_hint(how: Preprocessing) -> str:
    if how.image is not None:
        return "correct size and channels in the preprocessing file"
    if how.features is not None:
        return "give one mean and one deviation for each column that the model takes"
    return (
        "frames are (clip_samples - frame_samples) / stride_samples + 1, each of mel_bins (log-mel) or coefficients "
        "(mfcc) numbers; a waveform has clip_samples: correct these in the preprocessing file"
    )


def runtime_requirement(profile: Profile, *, proved_with: str, oldest_tflite: str) -> RuntimeRequirement:
    """Return what a board must have: the release on the board or the one proved here, whichever is older.

    For tflite-runtime it is the release that knows all operator versions.
    """
    runtime = profile.runtime
    versions = {
        "litert": runtime.version if is_older(runtime.version, proved_with) else proved_with,
        "tflite-runtime": oldest_tflite,
        "tflm": runtime.version,
    }
    return RuntimeRequirement(kind=runtime.kind, minimum_version=versions[runtime.kind], numerics=runtime.numerics)
