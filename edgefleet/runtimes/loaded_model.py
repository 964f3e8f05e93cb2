# SPDX-License-Identifier: Apache-2.0
"""A bundle's model, loaded: raw inputs in, real-valued outputs out, exactly as the manifest says."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from edgefleet.contracts.bundle import Bundle
from edgefleet.contracts.errors import IncompatibleError, ModelFailedError
from edgefleet.contracts.manifest import Manifest, TensorSpec
from edgefleet.runtimes.answers import silenced
from edgefleet.runtimes.interpreter import Interpreter
from edgefleet.runtimes.litert import Delegate, Kernels, LiteRtInterpreter, installed_library
from edgefleet.runtimes.preprocessing import preprocess
from edgefleet.runtimes.tensors import Floats, dequantize, to_model_inputs

Array = npt.NDArray[Any]
#: Digits of a release's number that are looked at: no release has as many.
_LONGEST_NUMBER = 18


class LoadedModel:
    """One interpreter with the manifest that says how to feed and read it; not for two threads at once."""

    def __init__(self, manifest: Manifest, interpreter: Interpreter) -> None:
        self.manifest = manifest
        self.interpreter = interpreter
        _check_interface(manifest, interpreter)
        if not manifest.interface.roles:  # there are no rows to silence
            self.invoke = interpreter.invoke  # type: ignore[method-assign]

    @classmethod
    def from_bundle(
        cls, bundle: Bundle, *, kernels: Kernels = "production", threads: int = 1, delegate: Delegate | None = None
    ) -> "LoadedModel":
        """Load a verified bundle's model into LiteRT, with an accelerator's ``delegate`` if there is one.

        Raises:
            BundleError: the model's bytes changed on disk.
            IncompatibleError: the model is not the one that the manifest describes, or needs another runtime.
            UnsupportedModelError: the runtime cannot load it.
        """
        _check_runtime(bundle.manifest, kernels)
        model = bundle.read(bundle.manifest.model)
        return cls(bundle.manifest, LiteRtInterpreter(model, kernels=kernels, threads=threads, delegate=delegate))

    def answer(self, raw: Sequence[Array]) -> list[Floats]:
        """Answer one raw sample (one array an input, before preprocessing) with de-quantized float32 outputs.

        Raises:
            SampleError: the sample does not fit.
            ModelFailedError: the interpreter failed.
        """
        outputs = self.invoke(self.prepare(raw))
        return [dequantize(o, spec) for o, spec in zip(outputs, self.manifest.interface.outputs, strict=True)]

    def prepare(self, raw: Sequence[Array]) -> list[Array]:
        """Turn one raw sample into the tensors that the model takes: preprocessed, quantized, with a batch dimension.

        Raises:
            SampleError: the sample does not fit.
        """
        prepared = [preprocess(value, self.manifest.preprocessing) for value in raw]
        return to_model_inputs(prepared, self.manifest.interface.inputs)

    def invoke(self, inputs: Sequence[Array]) -> list[Array]:
        """Run the model on tensors as it takes them, and return its tensors as they are (see :func:`silenced`)."""
        outputs = self.interpreter.invoke(inputs)
        return silenced(outputs, self.interpreter.outputs, self.manifest.interface.roles)


def _check_runtime(manifest: Manifest, kernels: Kernels) -> None:
    needed = manifest.runtime
    installed = installed_library()
    if needed.kind != installed.kind:
        if kernels == "reference":  # with these a host stands in for the board, whatever its runtime's release
            return
        raise IncompatibleError(
            f"the bundle is for the runtime '{needed.kind}', this one is '{installed.kind}'",
            hint="use a bundle made for this board's profile",
        )
    if _release(installed.version) < _release(needed.minimum_version):
        raise IncompatibleError(
            f"the bundle needs {installed.title} {needed.minimum_version} or later, {installed.version} is installed",
            hint=f"install a later release of {installed.package.replace('_', '-')}, "
            "or convert for the profile of this board",
        )


def _release(version: str) -> tuple[int, ...]:
    """Return a release's numbers without trailing zeros, so that 2.3 equals 2.3.0; what is no number counts as 0.

    Digits without end count as a release that never comes.
    """
    numbers = [int(part[:_LONGEST_NUMBER]) if part.isdecimal() else 0 for part in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _check_interface(manifest: Manifest, interpreter: Interpreter) -> None:
    for where, said, found in (
        ("input", manifest.interface.inputs, interpreter.inputs),
        ("output", manifest.interface.outputs, interpreter.outputs),
    ):
        if [_essence(spec) for spec in said] != [_essence(spec) for spec in found]:
            raise ModelFailedError(
                f"the model's {where}s are not those of manifest.interface.{where}s",
                hint="convert the model again; the bundle contradicts itself",
            )

    roles = manifest.interface.roles
    if roles and len(roles) != len(interpreter.outputs):
        raise ModelFailedError(
            f"manifest.interface.roles are {len(roles)}, and the model has {len(interpreter.outputs)} outputs",
            hint="convert the model again; the bundle contradicts itself",
        )


def _essence(spec: TensorSpec) -> tuple[object, ...]:
    return (spec.shape, spec.dtype, spec.scale, spec.zero_point)
