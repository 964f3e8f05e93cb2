# SPDX-License-Identifier: Apache-2.0
"""Models in the worker's memory: loaded out of their slots, warmed, and proved by fresh inferences."""

import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_agent.core.evidence.silence import patience_s
from device_agent.core.serving import ModelRef, Verified
from device_agent.worker.accelerator import Accelerator
from device_agent.worker.asking import asker
from edgefleet.contracts.bundle import Bundle, open_bundle
from edgefleet.contracts.errors import BundleError, EdgeFleetError, SampleError
from edgefleet.contracts.manifest import TensorSpec
from edgefleet.contracts.messages import RunningRelease
from edgefleet.runtimes.loaded_model import LoadedModel
from edgefleet.runtimes.parity import check_parity, read_vectors
from edgefleet.runtimes.quick_answers import Kept, as_arrays
from edgefleet.runtimes.quick_inputs import quick_input
from edgefleet.runtimes.tensors import Floats, dequantize

Array = npt.NDArray[Any]


class Resident:
    """A loaded, warmed model; :attr:`lock` is held while it runs, as no interpreter may be used by two threads."""

    def __init__(self, model: LoadedModel, release: RunningRelease, *, first_call_s: float = 0.0) -> None:
        manifest = model.manifest
        self.model = model
        self.release = release
        self.name = f"{release.name} {release.version}"
        self.labels = manifest.interface.labels
        self.outputs = manifest.interface.outputs
        self.classes = math.prod(self.outputs[0].shape)
        self.lock = threading.Lock()
        #: How long one call may take before the model hangs.
        self.patience_s = patience_s(manifest.budgets.latency_p99_us, first_call_s)
        self._quick_input = quick_input(manifest.interface.inputs, manifest.preprocessing)
        #: Runs the model on one raw sample; returns what is kept of its outputs, and what they say.
        self.ask = asker(model, self.prepare, self.lock)
        #: Returns the first output's real values as little-endian float32.
        self.real_bytes = _real_bytes(self.outputs[0])

    @property
    def sha256(self) -> str:
        """The bundle's hash."""
        return self.release.bundle_sha256

    def prepare(self, raw: Sequence[Array]) -> Sequence[Array]:
        """Turn one raw sample into the model's tensors.

        Raises:
            SampleError: it does not fit, or has NaN or infinite values.
        """
        if len(raw) == 1:
            tensor = self._quick_input(raw[0])
            if tensor is not None:
                return (tensor,)
        if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in raw):
            raise SampleError("the input has NaN or infinite values", hint="check the sensor")
        return self.model.prepare(raw)

    def real(self, kept: Kept) -> tuple[Floats, ...]:
        """Return outputs of the model as real values."""
        outputs = as_arrays(kept, self.outputs)
        return tuple(dequantize(output, spec) for output, spec in zip(outputs, self.outputs, strict=True))


def _real_bytes(spec: TensorSpec) -> Callable[[Kept], bytes]:
    """Return what makes bytes of the first output's real values; those of 8-bit levels are looked up, being few."""
    if spec.dtype in ("int8", "uint8") and spec.scale is not None:
        table = dequantize(np.arange(256).astype(np.uint8).view(spec.dtype), spec).astype("<f4")
        texts = [value.tobytes() for value in table]

        def look_up(kept: Kept) -> bytes:
            if isinstance(kept, bytes):
                return b"".join([texts[level] for level in kept])
            return table[kept[0].view(np.uint8)].tobytes()

        return look_up
    of_bytes = spec.dtype == "float32" and sys.byteorder == "little"

    def convert(kept: Kept) -> bytes:
        if of_bytes and isinstance(kept, bytes):
            return kept
        return dequantize(as_arrays(kept, [spec])[0], spec).astype("<f4", copy=False).tobytes()

    return convert


def load(ref: ModelRef, *, threads: int = 1, accelerator: Accelerator | None = None) -> Resident:
    """Load and warm a bundle's model; the whole file's hash is checked.

    Raises:
        EdgeFleetError: the file is not the bundle, or its model does not load or run.
    """
    bundle = open_slot(ref)
    model = (accelerator or Accelerator()).load(bundle, threads=threads)
    inputs, _ = read_vectors(bundle)
    started = time.perf_counter()
    model.invoke([tensor[0] for tensor in inputs])
    return Resident(model, ref.release, first_call_s=time.perf_counter() - started)


def open_slot(ref: ModelRef) -> Bundle:
    """Open a slot's bundle.

    Raises:
        EdgeFleetError: it is not a bundle, or not the one that the slot is named for.
    """
    bundle = open_bundle(Path(ref.path))
    if bundle.sha256 != ref.release.bundle_sha256:
        raise BundleError(
            f"the slot holds the bundle {bundle.sha256[:12]}…, expected {ref.release.bundle_sha256[:12]}…",
            hint="the disk changed the file; it is fetched again when it is ordered again",
        )
    return bundle


def verify(ref: ModelRef) -> Verified:
    """Prove that a model works by fresh inferences of its own parity vectors."""
    try:
        bundle = open_slot(ref)
        parity = check_parity(LoadedModel.from_bundle(bundle), bundle, "production")
    except EdgeFleetError as error:
        return Verified(
            bundle_sha256=ref.release.bundle_sha256, passed=False, cause=error.code, detail=error.message[:1000]
        )
    detail = f"{parity.samples} parity vectors, worst difference {parity.worst:g}, tolerance {parity.tolerance:g}"
    return Verified(
        bundle_sha256=ref.release.bundle_sha256, passed=parity.passed, cause="parity-production", detail=detail
    )
