# SPDX-License-Identifier: Apache-2.0
"""LiteRT's interpreter behind EdgeFleet's terms: production kernels (XNNPACK) or the reference kernels.

The reference kernels give the same bits on x86-64 and aarch64; the production kernels do not.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.errors import EdgeFleetError, MissingExtraError, ModelFailedError, UnsupportedModelError
from edgefleet.contracts.manifest import Dtype, TensorSpec

Kernels = Literal["production", "reference"]
Array = npt.NDArray[Any]
_DTYPES = frozenset(get_args(Dtype))
_UNKNOWN_OPERATOR = "Didn't find op for builtin opcode"
#: CEIL, ELU and ROUND have production kernels only.
_UNPROVABLE = "a bundle is proved on LiteRT's reference kernels, which lack this operator: train the model without it"


class LiteRtInterpreter:
    """One loaded model; not for use from two threads at once.

    Raises:
        UnsupportedModelError: LiteRT cannot load the model or prepare its operators.
        MissingExtraError: LiteRT is not installed.
    """

    def __init__(self, model: bytes, *, kernels: Kernels = "production", threads: int = 1) -> None:
        self._interpreter = _load(model, kernels, threads)
        inputs, outputs = _details(self._interpreter)
        self.inputs = tuple(_spec(detail) for detail in inputs)
        self.outputs = tuple(_spec(detail) for detail in outputs)
        self._input_ids = [int(detail["index"]) for detail in inputs]
        self._output_ids = [int(detail["index"]) for detail in outputs]

    def invoke(self, inputs: Sequence[Array]) -> list[Array]:
        """Run one inference; arrays have the shapes and dtypes of ``self.inputs`` and come back as ``self.outputs``.

        Raises:
            ModelFailedError: an input does not fit, or the interpreter failed.
        """
        try:
            for tensor_id, value in zip(self._input_ids, inputs, strict=True):
                self._interpreter.set_tensor(tensor_id, value)
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(tensor_id) for tensor_id in self._output_ids]
        except (ValueError, RuntimeError) as error:
            raise ModelFailedError(
                f"the model failed to run: {_first_line(error)}", hint="check the inputs' number, shape and dtype"
            ) from error

    def reset_state(self) -> None:
        """Set the model's state variables back to their start."""
        self._interpreter.reset_all_variables()


def runtime_version() -> str:
    """Return the installed LiteRT's release.

    Raises:
        MissingExtraError: LiteRT is not installed.
    """
    try:
        import ai_edge_litert
    except ImportError as error:
        raise _missing() from error
    return str(ai_edge_litert.__version__)


def _load(model: bytes, kernels: Kernels, threads: int) -> Any:  # LiteRT is untyped
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise _missing() from error
    resolver = OpResolverType.BUILTIN_REF if kernels == "reference" else OpResolverType.AUTO
    try:
        interpreter = Interpreter(model_content=model, num_threads=threads, experimental_op_resolver_type=resolver)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise UnsupportedModelError(
            f"LiteRT cannot load the model: {_first_line(error)}",
            hint=_UNPROVABLE
            if kernels == "reference" and _UNKNOWN_OPERATOR in str(error)
            else "convert the model again for this board, or choose a profile whose runtime has the operator",
        ) from error
    return interpreter


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
        raise _damaged(f"its tensor '{detail['name']}' has the type {dtype}, which no input or output may have")
    return TensorSpec(
        name=str(detail["name"]),
        shape=tuple(int(size) for size in detail["shape"]),
        dtype=dtype,
        scale=float(scale) if quantized else None,
        zero_point=int(zero_point) if quantized else None,
    )
