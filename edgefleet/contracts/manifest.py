# SPDX-License-Identifier: Apache-2.0
"""A bundle's manifest: its first member, deterministic facts only.

What was measured or dated stands beside the bundle in :mod:`edgefleet.contracts.evidence`, never in here.
"""

from typing import Annotated, Literal

import msgspec

from edgefleet.contracts.names import Name, Sha256, Version

FORMAT_VERSION = 1
MANIFEST_PATH = "manifest.json"
MODEL_DIR = "model/"
GOLDEN_DIR = "golden/"
ACCEPTANCE_PATH = "golden/acceptance.npz"
MODEL_CARD_PATH = "MODEL_CARD.md"
#: The recipe that was found or given, as canonical JSON, so that a bundle says how to make it again.
RECIPE_PATH = "recipe.json"
#: A member's path: relative, forward slashes, no ``.`` or ``..`` segment, at most 100 bytes (ustar's name field).
MEMBER_PATH_PATTERN = r"^(?=.{1,100}$)[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*\Z"

Task = Literal["classification", "regression", "anomaly", "detection"]
Dtype = Literal["float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"]
RuntimeKind = Literal["litert", "tflite-runtime", "tflm"]
#: ``dynamic-int8`` keeps float activations; ``int16x8`` has 8-bit weights under 16-bit activations; ``int4`` has 4-bit
#: weights (on some layers) under 8-bit activations; ``mixed`` has layers of several of these.
Precision = Literal["float32", "float16", "dynamic-int8", "int8", "int16x8", "int4", "mixed"]
#: What the outputs of a detector are, in the order of the interface; ``other`` ones are no part of its answer.
DetectionRole = Literal["boxes", "classes", "scores", "count", "other"]
Numerics = Literal["litert/1", "tflm/1"]
#: The largest integer that canonical JSON (RFC 8785, section 3.2.2.3) holds exactly.
LARGEST_INTEGER = (1 << 53) - 1
Natural = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_INTEGER)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_INTEGER)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class Fact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that crosses a wall: frozen, named fields, unknown fields are refused."""


class TensorSpec(Fact, frozen=True, kw_only=True):
    """One input or output as an application sees it.

    ``shape`` counts the leading batch dimension (1). ``scale`` and ``zero_point`` are those of
    ``real = scale * (quantized - zero_point)``; both are absent for float tensors.
    """

    name: str
    shape: tuple[Positive, ...]
    dtype: Dtype
    scale: float | None = None
    zero_point: int | None = None


class Interface(Fact, frozen=True, kw_only=True):
    """What an application may rely on. ``labels`` name the classes of the first output, or are empty.

    ``roles`` say what each output of a detector is; other tasks leave them empty.
    """

    inputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(min_length=1)]
    labels: tuple[str, ...] = ()
    roles: tuple[DetectionRole, ...] = ()


class ImagePreprocessing(Fact, frozen=True, kw_only=True):
    """From an 8-bit RGB picture (height × width × 3) to the model's real-valued input.

    Resize to ``size`` (height, width) with ``resize``, pick ``channels``, then ``pixel * scale + offset``.
    """

    size: tuple[Positive, Positive]
    channels: Literal["RGB", "BGR", "GRAY"] = "RGB"
    resize: Literal["bilinear", "nearest", "area"] = "bilinear"
    scale: float = 1.0
    offset: float = 0.0


class AudioPreprocessing(Fact, frozen=True, kw_only=True):
    """From a mono clip (int16, or float32 in [-1, 1)) to the model's real-valued input.

    The clip is cut or padded with zeros to ``clip_samples`` at ``sample_rate_hz``. ``waveform`` ends there. ``log-mel``
    and ``mfcc`` take frames of ``frame_samples`` every ``stride_samples`` under a periodic Hann window, a real FFT of
    ``fft_samples``, magnitudes through ``mel_bins`` triangular HTK mel filters from ``low_hz`` to ``high_hz``, and
    ``ln(mel + log_offset)``; ``mfcc`` keeps the first ``coefficients`` of an orthonormal DCT-II. Then ``x * scale +
    offset``. The result has the shape (frames, bins or coefficients), or (clip_samples,).
    """

    kind: Literal["waveform", "log-mel", "mfcc"]
    sample_rate_hz: Positive
    clip_samples: Positive
    frame_samples: Positive = 480
    stride_samples: Positive = 320
    fft_samples: Positive = 512
    mel_bins: Positive = 40
    low_hz: float = 20.0
    high_hz: float = 4000.0
    log_offset: float = 1e-6
    coefficients: Positive = 10
    scale: float = 1.0
    offset: float = 0.0


class FeaturePreprocessing(Fact, frozen=True, kw_only=True):
    """From a row of numbers to the model's real-valued input: ``(x - mean) / deviation``, column by column."""

    mean: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)]
    deviation: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)]


class Preprocessing(Fact, frozen=True, kw_only=True):
    """How a product's raw inputs become model inputs; at most one part is given, none: already in model units."""

    image: ImagePreprocessing | None = None
    audio: AudioPreprocessing | None = None
    features: FeaturePreprocessing | None = None


class Accelerator(Fact, frozen=True, kw_only=True):
    """An NPU that the model was compiled for; ``npu_share`` is the share of its operators that run there."""

    id: Name
    npu_share: Share


class RuntimeRequirement(Fact, frozen=True, kw_only=True):
    """The interpreter that the bundle was proved on, and the oldest release of it that runs the bundle right."""

    kind: RuntimeKind
    minimum_version: str
    numerics: Numerics
    accelerator: Accelerator | None = None


class ArenaPlan(Fact, frozen=True, kw_only=True):
    """Where a microcontroller's interpreter keeps activations, in bytes.

    ``tflm-greedy`` is the interpreter's own plan; ``offline`` is embedded in the model (OfflineMemoryAllocation).
    ``head_bytes`` is what the plan takes, ``bound_bytes`` what no plan can go below; ``total_bytes`` adds the
    interpreter's own structures on that board.
    """

    planner: Literal["tflm-greedy", "offline"]
    head_bytes: Natural
    bound_bytes: Natural
    total_bytes: Natural


class ProfileReference(Fact, frozen=True, kw_only=True):
    """The board that the bundle was made for; ``compat_hash`` decides whether it runs on another."""

    id: Name
    compat_hash: Sha256


class Tolerances(Fact, frozen=True, kw_only=True):
    """How far outputs may lie from the parity vectors.

    ``unit`` is ``lsb`` for integer outputs, ``absolute`` for float outputs. ``reference`` bounds the reference
    kernels (0 for integers), ``production`` the production kernels, as told at conversion from what small changes of
    the inputs do, so that it does not depend on the processor that converts. Where the top two expected outputs lie
    further apart than twice the tolerance, the top-1 class must be the same.
    """

    unit: Literal["lsb", "absolute"]
    reference: float
    production: float


class ParityVectors(Fact, frozen=True, kw_only=True):
    """Raw little-endian tensors, ``samples`` of each, concatenated; one member per input and per output.

    ``inputs[i]`` and ``outputs[i]`` are member paths, in the order of the interface.
    """

    samples: Positive
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class AcceptanceExamples(Fact, frozen=True, kw_only=True):
    """The labelled examples that the bundle carries a copy of (``x`` raw, before preprocessing; ``y`` labels).

    ``value`` is what the model scored on them at conversion, with the reference kernels where others are in doubt; the
    minimum is not here: the release policy pins it, and the hash.
    """

    path: Literal["golden/acceptance.npz"]
    sha256: Sha256
    samples: Positive
    metric: str
    value: float


class Budgets(Fact, frozen=True, kw_only=True):
    """Limits of the board for this model; an absent one is not limited."""

    model_bytes: Natural | None = None
    arena_bytes: Natural | None = None
    latency_p99_us: Natural | None = None


class ReferenceHistograms(Fact, frozen=True, kw_only=True):
    """What the model answered on the evaluation samples, to compare live answers with.

    ``classes[i]`` counts the samples answered with class i; ``confidence[b]`` counts top-1 confidences in
    ``len(confidence)`` equal bins over [0, 1].
    """

    classes: tuple[Natural, ...]
    confidence: tuple[Natural, ...]


class Tool(Fact, frozen=True, kw_only=True):
    """One tool that took part in the conversion, by package name and version."""

    name: str
    version: str


class Lineage(Fact, frozen=True, kw_only=True):
    """What the bundle was made from. Sample sets are hashed over their content, independent of order and path.

    ``rewrites`` names what was done to the model besides quantizing it, in order.
    """

    source_sha256: Sha256
    recipe_sha256: Sha256
    rewrites: tuple[str, ...] = ()
    calibration_sha256: Sha256 | None = None
    evaluation_sha256: Sha256 | None = None
    tools: tuple[Tool, ...] = ()
    git_commit: str | None = None


class Member(Fact, frozen=True, kw_only=True):
    """One file of the bundle besides the manifest."""

    path: Annotated[str, msgspec.Meta(pattern=MEMBER_PATH_PATTERN)]
    sha256: Sha256
    size_bytes: Natural


class Manifest(Fact, frozen=True, kw_only=True):
    """The whole description of a bundle. ``model`` is the path of the model's member.

    ``execution`` is ``compiled-not-run`` where nothing at conversion could run the model as the board will; publishing
    such a bundle needs a policy that says so.
    """

    format_version: Literal[1]
    name: Name
    version: Version
    task: Task
    metric: str
    precision: Precision
    execution: Literal["proved", "compiled-not-run"] = "proved"
    profile: ProfileReference
    runtime: RuntimeRequirement
    interface: Interface
    preprocessing: Preprocessing
    tolerances: Tolerances
    budgets: Budgets
    parity: ParityVectors
    acceptance: AcceptanceExamples | None = None
    reference: ReferenceHistograms | None = None
    arena: ArenaPlan | None = None
    model: Annotated[str, msgspec.Meta(pattern=r"^model/")]
    members: Annotated[tuple[Member, ...], msgspec.Meta(min_length=1, max_length=63)]
    lineage: Lineage
