# SPDX-License-Identifier: Apache-2.0
"""How the generator says that it has no kernel for an operator: one sentence with name, number and reason."""

from converter.c.core.program import Operator
from edgefleet.contracts.errors import UnsupportedModelError

_HINT = "write this part of the model in another way, or choose a profile whose runtime has the operator"
_QUANTIZE = "quantize the model to int8 first: 'edgefleet convert' does, with samples for --calibration"


def unsupported(operator: Operator, reason: str, *, hint: str = _HINT) -> UnsupportedModelError:
    """Return the error that names the operator, its place in the file, and why no C can be written for it."""
    return UnsupportedModelError(
        f"the operator {operator.name} (number {operator.number}) cannot be written as C: {reason}", hint=hint
    )


def wrong_type(operator: Operator, dtype: str, reason: str) -> UnsupportedModelError:
    """Return the error for an operand of a type that no kernel takes; whoever has a float model is told to quantize."""
    return unsupported(operator, reason, hint=_QUANTIZE if dtype == "float32" else _HINT)
