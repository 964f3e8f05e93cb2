# SPDX-License-Identifier: Apache-2.0
"""The policy file (TOML, kept in git): what a release must show before it runs, commits and spreads.

Its SHA-256 and its device part are signed with the release. All durations are production seconds; an emulation may
scale the clock, never the policy.
"""

from typing import Annotated, Literal

import msgspec

from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.decoding import decode_toml
from edgefleet.contracts.errors import PolicyError
from edgefleet.contracts.manifest import Fact, Natural, Positive, Share
from edgefleet.contracts.names import Sha256

#: Finite: "without limit" is not a rule that a device can keep (a century is).
Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=3.2e9)]
Percent = Annotated[float, msgspec.Meta(ge=0.0, le=100.0)]


class AcceptancePin(Fact, frozen=True, kw_only=True):
    """Which acceptance examples a release must pass, and with what score at least."""

    sha256: Sha256
    minimum: Share


class ShadowRule(Fact, frozen=True, kw_only=True):
    """How long the candidate only listens: until ``samples`` paired comparisons, at most ``limit_s``."""

    samples: Natural = 50
    limit_s: Seconds = 3600.0


class TrialRule(Fact, frozen=True, kw_only=True):
    """When a trial ends well, and what ends it badly.

    Both ``requests`` and ``minimum_s`` must be reached; after ``limit_s`` without them the trial fails.
    More than ``crash_limit`` crashes, ``non_finite_limit`` NaN answers or ``failed_limit`` failed requests roll back
    (a limit of 0: the first one does). ``unexplained_limit`` bounds deaths that nothing explains.
    """

    requests: Natural = 200
    minimum_s: Seconds = 3600.0
    limit_s: Seconds = 7 * 86400.0
    crash_limit: Natural = 1
    non_finite_limit: Natural = 0
    failed_limit: Natural = 0
    unexplained_limit: Natural = 5


class SoftRule(Fact, frozen=True, kw_only=True):
    """When a shadow or a trial ends badly although no answer alone is wrong: beside the previous model, same inputs.

    ``error`` is the whole probability of a false alarm of a shadow or a trial. Beyond chance, and beyond these, roll
    back: a loss of labelled accuracy by ``accuracy_drop``, or at one class of F1, precision or recall by theirs (1: not
    judged); a class that is not answered any more in ``lost_share`` of
    its cases; a class whose share changes by ``class_shift``; a mean confidence that falls by ``confidence_drop``; a
    p99 latency over the bundle's budget, or (without one) answers that take ``latency_ratio`` times as long as the
    previous model's to the same input; and a worker that grows by ``memory_growth_bytes`` (0: never).
    """

    error: Annotated[float, msgspec.Meta(gt=0.0, le=0.1)] = 1e-4
    accuracy_drop: Share = 0.03
    f1_drop: Share = 0.2
    precision_drop: Share = 1.0
    recall_drop: Share = 1.0
    lost_share: Share = 0.8
    class_shift: Share = 0.15
    confidence_drop: Share = 0.15
    latency_ratio: Annotated[float, msgspec.Meta(ge=1.0, le=1e6)] = 10.0
    memory_growth_bytes: Natural = 256 << 20


class DevicePolicy(Fact, frozen=True, kw_only=True):
    """The part of the policy that devices carry out; it travels in the signed release.

    What a policy does not say of ``soft`` faults is not signed either: agents that do not know them take it as well.
    """

    acceptance: AcceptancePin | None = None
    shadow: ShadowRule = ShadowRule()
    trial: TrialRule = TrialRule()
    soft: SoftRule | msgspec.UnsetType = msgspec.UNSET

    @property
    def soft_rule(self) -> SoftRule:
        """The rule of soft faults that holds."""
        return self.soft or SoftRule()


class WaveRule(Fact, frozen=True, kw_only=True):
    """One wave: the share of the fleet (holdout included) that has the release when it is done."""

    percent: Percent
    minimum_s: Seconds = 3600.0


class GateRule(Fact, frozen=True, kw_only=True):
    """What the evidence of a wave must show.

    ``minimum_*`` is exposure: below it the gate waits, at most ``limit_s``, and then halts. A bound that is broken
    halts at once. ``accuracy_drop`` compares labelled accuracy in the wave with the devices still on the release
    before, in shares (0.03 = three points); ``disagreement`` bounds the share of paired comparisons with another
    answer than the release before; ``failed_devices`` bounds the share of the wave's devices that refused the
    release or rolled it back, and ``failed_devices_grace`` such devices are borne whatever the share.
    """

    minimum_devices: Positive = 1
    minimum_requests: Natural = 0
    minimum_labels: Natural = 0
    minimum_compared: Natural = 0
    failed_devices: Share = 0.02
    failed_devices_grace: Natural = 0
    accuracy_drop: Share = 0.03
    disagreement: Share = 0.10
    limit_s: Seconds = 7 * 86400.0


class RolloutPolicy(Fact, frozen=True, kw_only=True):
    """How a release spreads: the holdout, the waves in order (the last one 100 %), and the gate behind each."""

    holdout_percent: Percent = 10.0
    waves: Annotated[tuple[WaveRule, ...], msgspec.Meta(min_length=1, max_length=32)]
    gate: GateRule = GateRule()


class Policy(Fact, frozen=True, kw_only=True):
    """A whole policy file.

    ``allow_compiled_not_run`` lets a bundle be published that nothing at conversion could run as the board will.
    """

    format_version: Literal[1]
    allow_compiled_not_run: bool = False
    device: DevicePolicy = DevicePolicy()
    rollout: RolloutPolicy


class PinnedPolicy(Fact, frozen=True, kw_only=True):
    """A policy and the SHA-256 of the file it was read from."""

    policy: Policy
    sha256: Sha256


def read_policy(data: bytes, *, source: str) -> PinnedPolicy:
    """Read and check a policy file; an unreadable rule stops, it never passes.

    Raises:
        PolicyError: the file is not TOML, a field is wrong or unknown, or the waves do not grow to 100 %.
    """
    policy = decode_toml(data, Policy, source=source, error=PolicyError)
    percents = [wave.percent for wave in policy.rollout.waves]
    if percents != sorted(set(percents)) or percents[0] == 0.0:
        raise PolicyError(f"{source}: rollout.waves must grow, got {percents}", hint="order the waves by percent")
    if percents[-1] != 100.0:
        raise PolicyError(
            f"{source}: the last of rollout.waves is {percents[-1]} percent, expected 100",
            hint="end with a wave of 100 percent, which also releases the holdout",
        )
    return PinnedPolicy(policy=policy, sha256=sha256_hex(data))
