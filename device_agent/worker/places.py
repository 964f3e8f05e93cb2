# SPDX-License-Identifier: Apache-2.0
"""Who answers for which name: a plan's models in their places, and what is known of an answer that they gave."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from device_agent.core.serving import ModelRef, PlannedModel, Serving, ServingPlan
from device_agent.inference_protocol import Status
from device_agent.worker.counts import ModelCounts, Role
from device_agent.worker.residents import Resident
from edgefleet.runtimes.answers import Answer
from edgefleet.runtimes.quick_answers import Kept
from edgefleet.runtimes.tensors import Floats

Array = npt.NDArray[Any]


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What one request gets; ``release`` names the model that answered, ``detail`` says why there is no answer.

    ``kept`` is what was kept of the model's outputs, as ``resident`` reads them.
    """

    status: Status
    request_id: int = 0
    top_class: int = -1
    confidence: float = 0.0
    release: str = ""
    label: str = ""
    detail: str = ""
    kept: Kept = ()
    resident: Resident | None = None

    @property
    def outputs(self) -> tuple[Floats, ...]:
        """The real-valued outputs."""
        return self.resident.real(self.kept) if self.resident else ()


class Place(NamedTuple):
    """One model name of a plan with its models loaded; ``counts`` are the primary's."""

    planned: PlannedModel
    primary: Resident
    companion: Resident | None
    counts: ModelCounts

    @property
    def role(self) -> Role:
        """In which role the primary answers."""
        return self.planned.role

    @property
    def at_work(self) -> str:
        """The bundle of this name that runs just now; empty where none does."""
        both = (self.primary, self.companion)
        return next((one.sha256 for one in both if one is not None and one.lock.locked()), "")

    @property
    def fallback(self) -> Resident | None:
        """What answers where the primary fails."""
        return self.companion if self.planned.companion_role == "fallback" else None


class Prepared(NamedTuple):
    """A plan with its models loaded, by name."""

    plan: ServingPlan
    places: Mapping[str, Place]


def serving(prepared: Prepared) -> Serving:
    """Return what is told of a plan that is put in force."""
    placed = prepared.places.values()
    residents = [one for place in placed for one in (place.primary, place.companion) if one is not None]
    patience_s = {resident.sha256: resident.patience_s for resident in residents}
    return Serving(number=prepared.plan.number, patience_s=patience_s)


class Comparison(NamedTuple):
    """A live input that the companion shall see too, and how the primary answered it, as request ``number``."""

    place: Place
    raw: Sequence[Array]
    kept: Kept
    answer: Answer
    number: int
    seconds: float

    def disagrees(self, companion: Resident, kept: Kept, answer: Answer) -> bool:
        """Tell whether the companion answered otherwise: in the top-1 class, or (no classes) beyond the tolerance."""
        manifest = companion.model.manifest
        if manifest.task == "classification":
            return answer.top != self.answer.top
        mine, others = companion.real(kept), self.place.primary.real(self.kept)
        tolerance = manifest.tolerances.production
        for spec, one, other in zip(manifest.interface.outputs, mine, others, strict=False):
            limit = tolerance * (spec.scale or 1.0) if manifest.tolerances.unit == "lsb" else tolerance
            if one.shape != other.shape or float(np.abs(one - other).max(initial=0.0)) > limit:
                return True
        return len(mine) != len(others)


def refs_of(planned: PlannedModel) -> list[ModelRef]:
    """Return the bundles that one entry of a plan names."""
    return [planned.primary, *([planned.companion] if planned.companion else [])]
