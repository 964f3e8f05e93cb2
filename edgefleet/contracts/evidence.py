# SPDX-License-Identifier: Apache-2.0
"""What was measured at conversion: stands beside a bundle, named by its hash, never inside it."""

from edgefleet.contracts.manifest import Fact, Natural
from edgefleet.contracts.names import Name, Sha256, Version


class Interval(Fact, frozen=True, kw_only=True):
    """A confidence interval, and how it was made."""

    low: float
    high: float
    level: float
    method: str


class Score(Fact, frozen=True, kw_only=True):
    """A metric on a sample set."""

    metric: str
    value: float
    samples: Natural
    per_class: tuple[float, ...] = ()


class FloatComparison(Fact, frozen=True, kw_only=True):
    """The converted model against its float source, on the same samples.

    ``difference`` is converted minus float, with its paired interval; ``mean_abs_delta`` is the mean absolute
    difference of the de-quantized outputs.
    """

    float_value: float
    difference: float
    interval: Interval
    top1_agreement: float
    mean_abs_delta: float


class Latency(Fact, frozen=True, kw_only=True):
    """Microseconds an inference on the host that converted; never a statement about the board."""

    host: str
    p50_us: float
    p99_us: float
    runs: Natural


class ConversionEvidence(Fact, frozen=True, kw_only=True):
    """The document ``X.evidence.json``."""

    bundle_sha256: Sha256
    name: Name
    version: Version
    profile: Name
    created_at: str
    bundle_bytes: Natural
    model_bytes: Natural
    float_model_bytes: Natural | None = None
    arena_bytes: Natural | None = None
    evaluation: Score | None = None
    acceptance: Score | None = None
    comparison: FloatComparison | None = None
    latency: Latency | None = None
    warnings: tuple[str, ...] = ()
