# SPDX-License-Identifier: Apache-2.0
"""What was measured at conversion: stands beside a bundle, named by its hash, never inside it."""

from edgefleet.contracts.manifest import ArenaPlan, Fact, Natural, Share
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


class ClassScore(Fact, frozen=True, kw_only=True):
    """One class: how many samples have it, and precision, recall and F1 (0 where there is nothing to divide by)."""

    label: str
    samples: Natural
    precision: Share
    recall: Share
    f1: Share


class Confusion(Fact, frozen=True, kw_only=True):
    """``counts[actual][predicted]`` over the evaluation samples, and the scores of each class."""

    counts: tuple[tuple[Natural, ...], ...]
    classes: tuple[ClassScore, ...]


class FloatComparison(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """The converted model against its float source, on the same samples.

    ``difference`` is converted minus float, in the metric's unit, with its paired interval. ``mean_abs_delta`` is the
    mean absolute difference of the de-quantized answers (of detections: of each sample's scores, the highest first).
    ``top1_agreement`` is there where an answer is a class (of detections: that of the most certain one),
    ``rank_correlation`` (Spearman's) where it is the score of an anomaly; neither for regression.
    """

    float_value: float
    difference: float
    interval: Interval
    top1_agreement: float | None = None
    rank_correlation: float | None = None
    mean_abs_delta: float


class Latency(Fact, frozen=True, kw_only=True):
    """Microseconds an inference on the host that converted; never a statement about the board."""

    host: str
    p50_us: float
    p99_us: float
    runs: Natural


class PredictedLatency(Fact, frozen=True, kw_only=True):
    """Microseconds an inference takes on the board, and how they were predicted."""

    microseconds: float
    method: str


class Candidate(Fact, frozen=True, kw_only=True):
    """One point of the search for a model within budgets, judged on samples that decided nothing before.

    ``drop`` is float minus candidate of the metric, with its paired interval; of an error, candidate minus float, as a
    share of the error of always answering the mean of the targets. ``on_front`` tells whether no other
    candidate is both smaller and better; ``chosen`` marks the one in the bundle.
    """

    title: str
    recipe_sha256: Sha256
    model_bytes: Natural
    arena_bytes: Natural | None = None
    latency_us: float | None = None
    drop: float
    interval: Interval
    on_front: bool
    chosen: bool


class LayerError(Fact, frozen=True, kw_only=True):
    """How far one layer's output lies from the float model's, over the samples: worst first in a list.

    ``sqnr_db`` is the ratio of signal to quantization noise, ``cosine`` the cosine between both.
    """

    layer: str
    operator: str
    precision: str
    sqnr_db: float
    cosine: float


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
    arena: ArenaPlan | None = None
    evaluation: Score | None = None
    confusion: Confusion | None = None
    acceptance: Score | None = None
    comparison: FloatComparison | None = None
    latency: Latency | None = None
    predicted_latency: PredictedLatency | None = None
    candidates: tuple[Candidate, ...] = ()
    layers: tuple[LayerError, ...] = ()
    warnings: tuple[str, ...] = ()
