# SPDX-License-Identifier: Apache-2.0
"""Is this the same model, run right? A bundle's parity vectors, run with reference or production kernels."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.bundle import Bundle
from edgefleet.contracts.errors import BundleError
from edgefleet.contracts.manifest import TensorSpec
from edgefleet.runtimes.litert import Kernels
from edgefleet.runtimes.loaded_model import LoadedModel

Array = npt.NDArray[Any]


class ParityReport(NamedTuple):
    """The outcome of one parity stage.

    ``worst`` is the largest difference from an expected output, in the manifest's unit (LSB or absolute; infinite
    for NaN); ``top1_changed`` counts samples with another top-1 class although the margin exceeds the tolerance.
    """

    samples: int
    worst: float
    tolerance: float
    top1_changed: int

    @property
    def passed(self) -> bool:
        """Tell whether every output lies within the tolerance and no clear top-1 changed."""
        return self.worst <= self.tolerance and self.top1_changed == 0


def read_vectors(bundle: Bundle) -> tuple[list[Array], list[Array]]:
    """Return the parity inputs and expected outputs, one array a tensor, first axis samples.

    Raises:
        BundleError: a member's size does not fit the interface.
    """
    manifest = bundle.manifest
    inputs = [_read(bundle, p, s) for p, s in zip(manifest.parity.inputs, manifest.interface.inputs, strict=True)]
    outputs = [_read(bundle, p, s) for p, s in zip(manifest.parity.outputs, manifest.interface.outputs, strict=True)]
    return inputs, outputs


def check_parity(model: LoadedModel, bundle: Bundle, kernels: Kernels) -> ParityReport:
    """Run all parity vectors through a model that was loaded with ``kernels`` and compare.

    Raises:
        BundleError: the vectors do not fit the interface.
        ModelFailedError: the interpreter failed.
    """
    inputs, expected = read_vectors(bundle)
    tolerances = bundle.manifest.tolerances
    tolerance = tolerances.reference if kernels == "reference" else tolerances.production
    worst, changed = 0.0, 0
    for sample in range(bundle.manifest.parity.samples):
        got = model.invoke([tensor[sample] for tensor in inputs])
        wanted = [tensor[sample] for tensor in expected]
        worst = max(worst, *(difference(g, w) for g, w in zip(got, wanted, strict=True)))
        if bundle.manifest.task == "classification":
            changed += top1_differs(got[0], wanted[0], tolerance)
    return ParityReport(bundle.manifest.parity.samples, worst, tolerance, changed)


def difference(got: Array, wanted: Array) -> float:
    """Return the largest absolute difference of two tensors; infinite where only one of two values is finite."""
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):  # infinity minus infinity is NaN, and counts as infinitely far below
        delta = np.where(same, 0.0, np.abs(a - b))
    return float(np.nan_to_num(delta, nan=np.inf, posinf=np.inf).max(initial=0.0))


def top1_differs(got: Array, wanted: Array, tolerance: float) -> bool:
    """Tell whether the top-1 class changed although the expected margin exceeds twice the tolerance."""
    scores = wanted.reshape(-1).astype(np.float64)
    if scores.size < 2:
        return False
    second, first = np.sort(scores)[-2:]
    clear = first - second > 2.0 * tolerance
    return bool(clear) and int(got.reshape(-1).argmax()) != int(scores.argmax())


def _read(bundle: Bundle, path: str, spec: TensorSpec) -> Array:
    data = bundle.read(path)
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    shape = (bundle.manifest.parity.samples, *spec.shape)
    if len(data) != dtype.itemsize * int(np.prod(shape)):
        raise BundleError(
            f"'{bundle.path.name}' has {len(data)} bytes in '{path}', expected {list(shape)} of {spec.dtype}",
            hint="convert the model again; the bundle contradicts itself",
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape)
