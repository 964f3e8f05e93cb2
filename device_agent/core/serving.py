# SPDX-License-Identifier: Apache-2.0
"""What the supervisor tells the inference worker, and what the worker reports: typed, tagged, JSON on the wire."""

from typing import Literal

import msgspec

from device_agent.core.evidence.labels import UnpairedLabel
from device_agent.core.evidence.pairs import PairedWindow, RequestId
from edgefleet.contracts.capture import CapturedInput
from edgefleet.contracts.interface import Declaration
from edgefleet.contracts.manifest import Fact, Natural, Share
from edgefleet.contracts.messages import ModelWindow, RunningRelease
from edgefleet.contracts.names import Sha256


class ModelRef(Fact, frozen=True, kw_only=True):
    """A bundle in its slot; the hash is checked each time it is loaded."""

    path: str
    release: RunningRelease


class PlannedModel(Fact, frozen=True, kw_only=True):
    """Who answers for one model's name, and who is resident beside it.

    ``primary`` answers in ``role``. ``companion`` as ``shadow`` is a candidate that gets a ``share`` of the live inputs
    and is never used; as ``fallback`` it is the last good model, which answers where a primary on trial fails, and is
    compared with on a ``share`` of the inputs.
    """

    primary: ModelRef
    role: Literal["active", "trial"] = "active"
    companion: ModelRef | None = None
    companion_role: Literal["shadow", "fallback"] | None = None
    share: Share = 0.0


class CapturePlan(Fact, frozen=True, kw_only=True):
    """Of which live inputs the worker hands copies over: a share of those answered with less confidence."""

    confidence_below: Share = 0.0
    share: Share = 0.0
    limit_bytes: Natural = 256 << 10


class ServingPlan(Fact, frozen=True, kw_only=True, tag="serve"):
    """What should answer from now on: one entry for each model name, put in force together; ``number`` names the plan.

    ``swap``: with ``resident`` new models are loaded before those that they replace are let go; with ``cold`` requests
    wait meanwhile, for the board has no room for both. ``earlier`` releases answered before, and ``labelled`` requests
    have their label: late labels are for the ones, and not for the others.
    """

    number: Natural
    models: tuple[PlannedModel, ...] = ()
    swap: Literal["resident", "cold"] = "resident"
    capture: CapturePlan | None = None
    earlier: tuple[ModelRef, ...] = ()
    labelled: tuple[RequestId, ...] = ()

    @property
    def tries(self) -> bool:
        """Tell whether a candidate is among the models."""
        return any(planned.role == "trial" or planned.companion_role == "shadow" for planned in self.models)


def plan_for(
    number: int,
    *,
    good: tuple[ModelRef, ...],
    candidates: tuple[ModelRef, ...] = (),
    trial: bool = False,
    share: float = 0.0,
    swap: Literal["resident", "cold"] = "resident",
) -> ServingPlan:
    """Return what shall answer, name by name: the good release alone, or with a candidate in shadow or on trial.

    A candidate whose name no good release has waits for its trial, for in shadow there is nothing to listen to.
    """
    entries = {ref.release.name: PlannedModel(primary=ref) for ref in good}
    for ref in candidates:
        beside = entries.get(ref.release.name)
        if trial:
            entries[ref.release.name] = PlannedModel(
                primary=ref,
                role="trial",
                companion=beside.primary if beside else None,
                companion_role="fallback" if beside else None,
                share=share,
            )
        elif beside is not None:
            entries[ref.release.name] = PlannedModel(
                primary=beside.primary, companion=ref, companion_role="shadow", share=share
            )
    return ServingPlan(number=number, models=tuple(entries[name] for name in sorted(entries)), swap=swap)


class Verify(Fact, frozen=True, kw_only=True, tag="verify"):
    """Load a model afresh and run its own parity vectors."""

    model: ModelRef


class Collect(Fact, frozen=True, kw_only=True, tag="collect"):
    """Hand over all counts since the last time; also the sign of life that the watchdog waits for."""


class Stop(Fact, frozen=True, kw_only=True, tag="stop"):
    """Answer what is under way and end."""


Command = ServingPlan | Verify | Collect | Stop


class Serving(Fact, frozen=True, kw_only=True, tag="serving"):
    """The plan is in force; ``patience_s`` says of each bundle how long one call of it may take before it hangs."""

    number: Natural
    patience_s: dict[Sha256, float] = msgspec.field(default_factory=dict)


class LoadFailed(Fact, frozen=True, kw_only=True, tag="load-failed"):
    """The plan is not in force, because this bundle did not load; what answered before still answers."""

    number: Natural
    bundle_sha256: Sha256
    cause: str
    detail: str


class ModelFaulted(Fact, frozen=True, kw_only=True, tag="model-faulted"):
    """A candidate gave a NaN or failed just now; counts follow with the next collection."""

    bundle_sha256: Sha256
    kind: Literal["non-finite", "failed"]
    detail: str


class LaneCall(Fact, frozen=True, kw_only=True):
    """A bundle that a thread of its own has been running since then (seconds of the clock that never jumps)."""

    bundle_sha256: Sha256
    thread: Natural
    since_s: float


class Collected(Fact, frozen=True, kw_only=True, tag="collected"):
    """Counts since the last collection; ``rss_bytes`` is the worker's resident memory.

    ``lanes`` are calls that go on beside the answer to this. ``labelled`` requests got their label, and of ``unpaired``
    ones the worker does not know what both models had said.
    """

    models: tuple[ModelWindow, ...]
    rss_bytes: Natural = 0
    pairs: tuple[PairedWindow, ...] = ()
    lanes: tuple[LaneCall, ...] = ()
    labelled: tuple[RequestId, ...] = ()
    unpaired: tuple[UnpairedLabel, ...] = ()


class Verified(Fact, frozen=True, kw_only=True, tag="verified"):
    """The outcome of a verification by fresh inferences."""

    bundle_sha256: Sha256
    passed: bool
    cause: str
    detail: str


class Died(Fact, frozen=True, kw_only=True, tag="died"):
    """The worker is gone; ``crash`` where the end points to the model (a signal of its own), ``hang`` where it was
    ended because it did not come to an end of its own accord.

    ``during`` is the bundle that was loaded or run just then, where that is known.
    """

    kind: Literal["crash", "hang", "unexplained"]
    detail: str
    during: str = ""


#: Causes of a failed load that point to the slot's file and not to the model: it is fetched again, not quarantined.
SLOT_DAMAGE = ("bundle-invalid", "file-missing")


class Declared(Fact, frozen=True, kw_only=True, tag="declared"):
    """What all applications that asked this worker were built for, each time one says something new."""

    declarations: tuple[Declaration, ...]


class AcceleratorLost(Fact, frozen=True, kw_only=True, tag="accelerator-lost"):
    """A model's accelerator could not be used, or failed; the processor's kernels answer from now on."""

    bundle_sha256: Sha256
    detail: str


class Unsure(Fact, frozen=True, kw_only=True, tag="unsure"):
    """A copy of an input of which the model was unsure."""

    captured: CapturedInput


Report = Serving | LoadFailed | ModelFaulted | Collected | Verified | Declared | AcceleratorLost | Unsure | Died


class AdmissionRequest(Fact, frozen=True, kw_only=True):
    """What to check before a bundle may run here, and what else will be loaded ``beside`` it."""

    model: ModelRef
    profile: str
    compat_hash: Sha256
    acceptance_sha256: Sha256 | None = None
    acceptance_minimum: float = 0.0
    latency_runs: Natural = 50
    beside: tuple[ModelRef, ...] = ()
    declarations: tuple[Declaration, ...] = ()


class AdmissionVerdict(Fact, frozen=True, kw_only=True):
    """``postponed``: the board was too busy to tell; ``cause`` is kebab-case, ``seconds`` how long it took."""

    kind: Literal["passed", "refused", "postponed"]
    cause: str
    detail: str = ""
    seconds: float = 0.0
    latency_p99_us: Natural = 0
    peak_rss_bytes: Natural = 0
