# SPDX-License-Identifier: Apache-2.0
"""LiteRT's interpreter on reference kernels with every tensor kept, so that all can be read after an inference."""

import warnings
from typing import Any

from edgefleet.contracts.errors import UnsupportedModelError


def keeping_interpreter(model: bytes) -> Any:  # LiteRT is untyped
    """Return an interpreter whose tensors are allocated; make it in the main thread, for it switches warnings off.

    Raises:
        UnsupportedModelError: the reference kernels cannot load the model.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the memory that kept tensors take is wanted here
            interpreter = Interpreter(
                model_content=model,
                experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
                experimental_preserve_all_tensors=True,
            )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnsupportedModelError(
            f"LiteRT's reference kernels cannot load the model: {what}",
            hint="change the operator that is named: calibration and explanations need the reference kernels",
        ) from error
    return interpreter
