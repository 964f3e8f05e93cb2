# SPDX-License-Identifier: Apache-2.0
"""``python torch_to_tflite.py MODULE FUNCTION OUT``: runs where litert-torch is installed, in the user's folder.

Imports nothing else of EdgeFleet. ``FUNCTION()`` returns (module, inputs). Inputs of a tuple get the names of the
parameters of the module's ``forward``; outputs in a dictionary get its keys.
"""

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Convert in float, the module in evaluation mode."""
    module_name, function_name, out = sys.argv[1:4]
    function = getattr(importlib.import_module(module_name), function_name, None)
    if not callable(function):
        raise SystemExit(f"the module '{module_name}' has no function '{function_name}'")
    module, inputs = _parts(function())
    named = _by_name(module, inputs)
    edge = importlib.import_module("litert_torch").convert(
        module.eval(), **({"sample_kwargs": named} if named else {"sample_args": inputs})
    )
    edge.export(out)


def _parts(made: Any) -> tuple[Any, Any]:
    """Return the module and its sample inputs, a tuple or a dictionary."""
    torch = importlib.import_module("torch")
    if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[0], torch.nn.Module):
        raise SystemExit(f"the function returned {type(made).__name__}, expected (module, inputs)")
    module, inputs = made
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    values = list(inputs.values()) if isinstance(inputs, dict) else list(inputs)
    if not values or not all(isinstance(value, torch.Tensor) for value in values):
        raise SystemExit("the inputs are not tensors, expected a tuple of them, or a dictionary by name")
    return module, inputs if isinstance(inputs, dict) else tuple(inputs)


def _by_name(module: Any, inputs: Any) -> dict[str, Any] | None:
    """Return inputs by the names of the parameters that take them; None where they cannot be given by name."""
    if isinstance(inputs, dict):
        return inputs
    parameters = list(inspect.signature(module.forward).parameters.values())
    if len(parameters) < len(inputs) or any(p.kind is not p.POSITIONAL_OR_KEYWORD for p in parameters[: len(inputs)]):
        return None
    return {parameter.name: value for parameter, value in zip(parameters, inputs, strict=False)}


if __name__ == "__main__":
    sys.path[0] = str(Path.cwd())  # the user's module lies there, and nothing of this file's folder is meant
    main()
