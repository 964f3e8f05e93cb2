# SPDX-License-Identifier: Apache-2.0
"""Turn a PyTorch module, named as ``module:function``, into a float TFLite model, in another process."""

import re
from pathlib import Path

from converter.adapters.imports.process import Framework, ImportFailedError, python_with, run_import
from edgefleet.contracts.errors import InputError, UnsupportedModelError

#: Names the Python of another environment that has litert-torch, where this one has not.
PYTHON_VARIABLE = "EDGEFLEET_TORCH_PYTHON"
_TORCH = Framework("litert_torch", "torch", PYTHON_VARIABLE)
_SPECIFICATION = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)
_SCRIPT = Path(__file__).with_name("torch_to_tflite.py")
_HINT = (
    "write a function() that returns (module, inputs), the inputs a tuple of tensors, or a dictionary of them by name, "
    "in a module that Python finds, or in this folder"
)


def names_a_function(text: str) -> bool:
    """Tell whether a model is named as ``module:function``."""
    return _SPECIFICATION.fullmatch(text) is not None


def torch_to_tflite(specification: str) -> bytes:
    """Convert the module that ``function()`` returns together with sample inputs, as :data:`_HINT` says.

    Raises:
        InputError: it is not named as ``module:function``.
        MissingExtraError: litert-torch is not installed.
        UnsupportedModelError: the function fails, or litert-torch cannot convert what it returns.
    """
    parts = _SPECIFICATION.fullmatch(specification)
    if parts is None:
        raise InputError(f"the model is '{specification}', expected module:function", hint=_HINT)
    python = python_with(_TORCH, f"reading the PyTorch model '{specification}'")
    try:
        return run_import(python, _SCRIPT, [parts[1], parts[2]], {})
    except ImportFailedError as error:
        raise UnsupportedModelError(
            f"the PyTorch model '{specification}' cannot be converted: {error}", hint=_HINT
        ) from error
