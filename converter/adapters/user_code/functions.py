# SPDX-License-Identifier: Apache-2.0
"""A function of the user's own, named ``module:function``; modules beside the present folder are found."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgefleet.contracts.errors import InputError


def load_function(name: str, *, what: str, hint: str) -> Callable[..., Any]:
    """Import and return a function; ``what`` is what the user calls it (a metric, a generator).

    Raises:
        InputError: it cannot be imported, or is no function.
    """
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise InputError(f"the {what} '{name}' cannot be loaded: {error}", hint=hint) from error
    if not callable(function):
        raise InputError(f"the {what} '{name}' is no function", hint=hint)
    loaded: Callable[..., Any] = function
    return loaded
