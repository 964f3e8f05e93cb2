# SPDX-License-Identifier: Apache-2.0
"""Parts of sample sets, told apart by their digests: to calibrate on, to compare candidates on, and to report on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.adapters.samples.sets import SampleSet, canonical_order
from converter.core.recipe import CalibrationPart
from edgefleet.contracts.errors import SampleError
from edgefleet.contracts.manifest import Preprocessing

Array = npt.NDArray[Any]
_FEWEST_SAMPLES = 20
#: How much of an evaluation set compares candidates.
_COMPARING_SHARE = 0.6


@dataclass(frozen=True)
class Parts:
    """The three parts of the samples."""

    calibration: SampleSet
    search: SampleSet
    report: SampleSet


def split_samples(calibration: SampleSet, evaluation: SampleSet | None) -> Parts:
    """Part the samples by their digests: the same for any order of the files.

    With an evaluation set, three fifths of it compare and the rest reports, without what calibration has seen; without
    one, the calibration set is parted in three.

    Raises:
        SampleError: a part would be too small to tell anything.
    """
    if evaluation is not None:
        seen = {calibration.digest(number) for number in range(len(calibration))}
        unseen = [number for number in canonical_order(evaluation) if evaluation.digest(number) not in seen]
        cut = round(_COMPARING_SHARE * len(unseen))
        parts = Parts(calibration, Part(evaluation, unseen[:cut]), Part(evaluation, unseen[cut:]))
    else:
        parts = Parts(*_thirds(calibration))
    _check_size(parts)
    return parts


def calibration_part(samples: SampleSet, which: CalibrationPart) -> SampleSet:
    """Return what a recipe wants a model to be calibrated on."""
    return samples if which == "all" else _thirds(samples)[0]


class Part:
    """Some samples of a set."""

    def __init__(self, whole: SampleSet, numbers: Sequence[int]) -> None:
        self._whole, self._numbers = whole, tuple(numbers)
        self.source = whole.source
        self.labels = None if whole.labels is None else np.asarray(whole.labels)[list(numbers)]

    def __len__(self) -> int:
        return len(self._numbers)

    def raw(self, number: int) -> list[Array]:
        """Return one sample, one array an input, before preprocessing."""
        return self._whole.raw(self._numbers[number])

    def check_rate(self, number: int, how: Preprocessing) -> None:
        """Refuse a clip of another rate than the preprocessing reckons with; other samples have none."""
        check = getattr(self._whole, "check_rate", None)
        if check is not None:
            check(self._numbers[number], how)

    def digest(self, number: int) -> bytes:
        """Return the digest of one sample's content."""
        return self._whole.digest(self._numbers[number])


def _thirds(samples: SampleSet) -> tuple[Part, Part, Part]:
    """Part a set in three; the last third has what is left over."""
    order = canonical_order(samples)
    third = len(order) // 3
    return (
        Part(samples, order[:third]),
        Part(samples, order[third : 2 * third]),
        Part(samples, order[2 * third :]),
    )


def _check_size(parts: Parts) -> None:
    for what, part in (("compare candidates", parts.search), ("report the one that is chosen", parts.report)):
        if len(part) < _FEWEST_SAMPLES:
            raise SampleError(
                f"{part.source} leaves {len(part)} samples to {what}, expected at least {_FEWEST_SAMPLES}",
                hint="give more samples with --evaluation: several hundred tell a drop of one point",
            )
