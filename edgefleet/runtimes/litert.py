# SPDX-License-Identifier: Apache-2.0
"""LiteRT's interpreter behind EdgeFleet's terms: production kernels (XNNPACK) or the reference kernels.

Where LiteRT is not installed and its predecessor tflite-runtime is (boards with 32-bit Arm), that one runs models.

The reference kernels give the same bits on x86-64 and aarch64; the production kernels do not.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.errors import EdgeFleetError, MissingExtraError, ModelFailedError, UnsupportedModelError
from edgefleet.contracts.manifest import Dtype, RuntimeKind, TensorSpec
from edgefleet.runtimes.litert_memory import InPlace, in_place

Kernels = Literal["production", "reference"]
Array = npt.NDArray[Any]
_DTYPES = frozenset(get_args(Dtype))
_LIBRARIES: tuple[tuple[RuntimeKind, str, str], ...] = (
    ("litert", "LiteRT", "ai_edge_litert"),
    ("tflite-runtime", "tflite-runtime", "tflite_runtime"),
)
_UNKNOWN_OPERATOR = "Didn't find op for builtin opcode"
#: What LiteRT says where an output came out empty.
_EMPTY = "Invalid tensor size."
_FIXED_HINT = (
    "export the model with outputs of fixed sizes: a detector with as many rows as it may find, and their count"
)
#: CEIL, ELU and ROUND have production kernels only.
_UNPROVABLE = "a bundle is proved on LiteRT's reference kernels, which lack this operator: train the model without it"


class Library(NamedTuple):
    """The installed runtime: its kind in manifests, its name, its package and its release."""

    kind: RuntimeKind
    title: str
    package: str
    version: str

    @property
    def interpreter(self) -> ModuleType:
        """The module that has the interpreter."""
        return import_module(f"{self.package}.interpreter")


class Delegate(NamedTuple):
    """An external delegate: a shared library that runs parts of a model on an accelerator, and its options."""

    library: str
    options: Mapping[str, str]


class Direct:
    """A model whose only input and only output lie where they are for good, for those to whom microseconds matter.

    ``run`` is the bare inference, which raises what the runtime raises: :func:`failed` says it in EdgeFleet's terms.
    """

    def __init__(self, views: InPlace, run: Callable[[], None], set_input: Callable[[Array, int], None]) -> None:
        self.taken, self.given = views
        self.run = run
        self._set_input = set_input

    def invoke(self, inputs: Sequence[Array]) -> list[Array]:
        """Run one inference on a copy of the input, or on what was written into :attr:`taken`."""
        try:
            (value,) = inputs
            if value is not self.taken:
                self._set_input(value, 0)  # which looks at its shape and dtype
            self.run()
            return [self.given.copy()]
        except (ValueError, RuntimeError) as error:
            raise failed(error) from error


class LiteRtInterpreter:
    """One loaded model; not for use from two threads at once.

    Raises:
        UnsupportedModelError: LiteRT cannot load the model or prepare its operators.
        MissingExtraError: LiteRT is not installed.
    """

    def __init__(
        self, model: bytes, *, kernels: Kernels = "production", threads: int = 1, delegate: Delegate | None = None
    ) -> None:
        self._interpreter = _load(model, kernels, threads, delegate)
        inputs, outputs = _details(self._interpreter)
        self.inputs = tuple(_spec(detail) for detail in inputs)
        self.outputs = tuple(_spec(detail) for detail in outputs)
        self._shapes = [spec.shape for spec in self.outputs]
        self._input_ids = [int(detail["index"]) for detail in inputs]
        self._output_ids = [int(detail["index"]) for detail in outputs]
        self._set, self._run, self._get = _calls(self._interpreter)
        #: What uses the only input and the only output where these lie for good.
        self.direct: Direct | None = None
        if len(self._input_ids) == len(self._output_ids) == 1:
            self.invoke = self._one_to_one(delegated=delegate is not None)  # type: ignore[assignment,method-assign]

    def invoke(self, inputs: Sequence[Array]) -> list[Array]:
        """Run one inference; arrays have the shapes and dtypes of ``self.inputs`` and come back as ``self.outputs``.

        Raises:
            ModelFailedError: an input does not fit, or the interpreter failed.
        """
        try:
            for tensor_id, value in zip(self._input_ids, inputs, strict=True):
                self._set(tensor_id, value, 0)
            self._run()
            outputs = [self._get(tensor_id, 0) for tensor_id in self._output_ids]
        except (ValueError, RuntimeError) as error:
            raise failed(error) from error
        if [output.shape for output in outputs] != self._shapes:
            raise _resized(self._shapes, [output.shape for output in outputs])
        return outputs

    def _one_to_one(self, *, delegated: bool) -> Callable[[Sequence[Array]], list[Array]]:
        """Return :meth:`invoke` for one input and one output: its microseconds are what a small model's users feel."""
        set_tensor, run, get_tensor = self._set, self._run, self._get
        taken, given, shape = self._input_ids[0], self._output_ids[0], self._shapes[0]
        views = None if delegated else in_place(self._interpreter, taken, given)
        if views is not None:
            self.direct = Direct(views, run, partial(set_tensor, taken))
            return self.direct.invoke

        def invoke(inputs: Sequence[Array]) -> list[Array]:
            try:
                (value,) = inputs
                set_tensor(taken, value, 0)
                run()
                output = get_tensor(given, 0)
            except (ValueError, RuntimeError) as error:
                raise failed(error) from error
            if output.shape != shape:
                raise _resized([shape], [output.shape])
            return [output]

        return invoke

    def reset_state(self) -> None:
        """Set the model's state variables back to their start."""
        self._interpreter.reset_all_variables()


def runtime_version() -> str:
    """Return the installed runtime's release.

    Raises:
        MissingExtraError: none is installed.
    """
    return installed_library().version


def installed_library() -> Library:
    """Return the runtime that runs models here.

    Raises:
        MissingExtraError: none is installed.
    """
    for kind, title, package in _LIBRARIES:
        try:
            return Library(kind, title, package, str(import_module(package).__version__))
        except ImportError:
            continue
    raise _missing()


def _load(model: bytes, kernels: Kernels, threads: int, delegate: Delegate | None) -> Any:  # LiteRT is untyped
    installed = installed_library()
    library = installed.interpreter
    resolver = library.OpResolverType.BUILTIN_REF if kernels == "reference" else library.OpResolverType.AUTO
    delegates = None if delegate is None else [_opened(library, delegate)]
    try:
        interpreter = library.Interpreter(
            model_content=model,
            num_threads=threads,
            experimental_op_resolver_type=resolver,
            experimental_delegates=delegates,
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise UnsupportedModelError(
            f"{installed.title} cannot load the model: {_first_line(error)}",
            hint=_UNPROVABLE
            if kernels == "reference" and _UNKNOWN_OPERATOR in str(error)
            else "convert the model again for this board, or choose a profile whose runtime has the operator",
        ) from error
    return interpreter


def _opened(library: ModuleType, delegate: Delegate) -> Any:
    try:
        Path(delegate.library).stat()  # for the library leaves half an object behind where there is none
        return library.load_delegate(delegate.library, dict(delegate.options))
    except (OSError, AttributeError, ValueError) as error:  # no file, no delegate in it, no accelerator
        raise UnsupportedModelError(
            f"the delegate cannot be used: {' '.join(str(error).split())}",
            hint="look at the accelerator's library, driver and options",
        ) from error


def failed(error: Exception) -> ModelFailedError:
    """Return what is raised where a model does not run."""
    if _EMPTY in str(error):
        return ModelFailedError(
            "an output of the model came out without a value: its size depends on the input", hint=_FIXED_HINT
        )
    return ModelFailedError(
        f"the model failed to run: {_first_line(error)}", hint="check the inputs' number, shape and dtype"
    )


def _resized(said: Sequence[tuple[int, ...]], found: Sequence[tuple[int, ...]]) -> ModelFailedError:
    """Return what is raised where outputs have other sizes than the model says: applications count on these."""
    place = next(number for number, (one, other) in enumerate(zip(said, found, strict=True)) if one != other)
    return ModelFailedError(
        f"output {place} of the model has the shape {list(found[place])}, where the model says {list(said[place])}: "
        "its size depends on the input",
        hint=_FIXED_HINT,
    )


def _calls(interpreter: Any) -> tuple[Any, Any, Any]:
    """Return what sets a tensor, runs the model and gets a tensor.

    Beneath LiteRT's Python there is the same in C++; its Python only adds checks for views into the model's memory,
    which nothing here holds. Where a release names those functions otherwise, the Python ones do it.
    """
    inner: Any = getattr(interpreter, "_interpreter", None)
    if all(hasattr(inner, name) for name in ("SetTensor", "Invoke", "GetTensor")):
        return inner.SetTensor, inner.Invoke, inner.GetTensor
    return lambda where, value, _: interpreter.set_tensor(where, value), interpreter.invoke, interpreter.get_tensor


def _details(interpreter: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return LiteRT's descriptions of inputs and outputs; a damaged model has names or types that it cannot read."""
    try:
        return interpreter.get_input_details(), interpreter.get_output_details()
    except (ValueError, RuntimeError) as error:
        raise _damaged(f"its inputs and outputs cannot be read ({_first_line(error)})") from error


def _damaged(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"LiteRT loads the model, but {what}", hint="the file is damaged: convert or fetch the model again"
    )


def _missing() -> EdgeFleetError:
    return MissingExtraError(
        "running a model needs LiteRT, which is not installed",
        hint="run: pip install 'edgefleet[converter]' (on a device: 'edgefleet[device]')",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _spec(detail: dict[str, Any]) -> TensorSpec:
    """Turn LiteRT's description of a tensor into the contract's."""
    scale, zero_point = detail["quantization"]
    quantized = bool(scale)
    dtype = np.dtype(detail["dtype"]).name
    if dtype not in _DTYPES:
        raise UnsupportedModelError(
            f"the model's tensor '{detail['name']}' has the type {dtype}, which no input or output may have",
            hint=f"export the model with inputs and outputs of {', '.join(sorted(_DTYPES))}",
        )
    shape = tuple(int(size) for size in detail["shape"])
    if 0 in shape:
        raise UnsupportedModelError(
            f"the model's tensor '{detail['name']}' has the shape {list(shape)}: an input or output without a value",
            hint="export the model again with fixed shapes",
        )
    return TensorSpec(
        name=str(detail["name"]),
        shape=shape,
        dtype=dtype,
        scale=float(scale) if quantized else None,
        zero_point=int(zero_point) if quantized else None,
    )
