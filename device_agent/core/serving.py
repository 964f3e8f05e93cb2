# SPDX-License-Identifier: Apache-2.0
"""What the supervisor tells the inference worker, and what the worker reports: typed, tagged, JSON on the wire."""

from typing import Literal

from edgefleet.contracts.manifest import Fact, Natural, Share
from edgefleet.contracts.messages import ModelWindow, RunningRelease
from edgefleet.contracts.names import Sha256


class ModelRef(Fact, frozen=True, kw_only=True):
    """A bundle in its slot; the hash is checked each time it is loaded."""

    path: str
    release: RunningRelease


class ServingPlan(Fact, frozen=True, kw_only=True, tag="serve"):
    """What should answer from now on.

    ``primary`` answers in ``role``. ``companion`` is resident beside it: as ``shadow`` it is a candidate that gets a
    ``share`` of the live inputs and is never used; as ``fallback`` it is the last good model, which answers where a
    primary on trial fails, and is compared with on a ``share`` of the inputs. ``number`` names the plan in reports.
    """

    number: Natural
    primary: ModelRef | None = None
    role: Literal["active", "trial"] = "active"
    companion: ModelRef | None = None
    companion_role: Literal["shadow", "fallback"] | None = None
    share: Share = 0.0


def plan_for(
    number: int,
    *,
    good: ModelRef | None,
    candidate: ModelRef | None = None,
    trial: bool = False,
    share: float = 0.0,
) -> ServingPlan:
    """Return what shall answer: the good release alone, or with a candidate in shadow or on trial beside it."""
    if candidate is None:
        return ServingPlan(number=number, primary=good)
    if not trial:
        return ServingPlan(number=number, primary=good, companion=candidate, companion_role="shadow", share=share)
    return ServingPlan(
        number=number,
        primary=candidate,
        role="trial",
        companion=good,
        companion_role="fallback" if good is not None else None,
        share=share,
    )


class Verify(Fact, frozen=True, kw_only=True, tag="verify"):
    """Load a model afresh and run its own parity vectors."""

    model: ModelRef


class Collect(Fact, frozen=True, kw_only=True, tag="collect"):
    """Hand over all counts since the last time; also the sign of life that the watchdog waits for."""


class Stop(Fact, frozen=True, kw_only=True, tag="stop"):
    """Answer what is under way and end."""


Command = ServingPlan | Verify | Collect | Stop


class Serving(Fact, frozen=True, kw_only=True, tag="serving"):
    """The plan is in force."""

    number: Natural


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


class Collected(Fact, frozen=True, kw_only=True, tag="collected"):
    """Counts since the last collection; ``rss_bytes`` is the worker's resident memory."""

    models: tuple[ModelWindow, ...]
    rss_bytes: Natural = 0


class Verified(Fact, frozen=True, kw_only=True, tag="verified"):
    """The outcome of a verification by fresh inferences."""

    bundle_sha256: Sha256
    passed: bool
    cause: str
    detail: str


class Died(Fact, frozen=True, kw_only=True, tag="died"):
    """The worker is gone; ``crash`` where the end points to the model (a signal of its own, a watchdog)."""

    kind: Literal["crash", "unexplained"]
    detail: str


#: Causes of a failed load that point to the slot's file and not to the model: it is fetched again, not quarantined.
SLOT_DAMAGE = ("bundle-invalid", "file-missing")

Report = Serving | LoadFailed | ModelFaulted | Collected | Verified | Died


class AdmissionRequest(Fact, frozen=True, kw_only=True):
    """What to check before a bundle may run here."""

    model: ModelRef
    profile: str
    compat_hash: Sha256
    acceptance_sha256: Sha256 | None = None
    acceptance_minimum: float = 0.0
    latency_runs: Natural = 50


class AdmissionVerdict(Fact, frozen=True, kw_only=True):
    """``postponed``: the board was too busy to tell; ``cause`` is kebab-case, ``seconds`` how long it took."""

    kind: Literal["passed", "refused", "postponed"]
    cause: str
    detail: str = ""
    seconds: float = 0.0
    latency_p99_us: Natural = 0
    peak_rss_bytes: Natural = 0
