# SPDX-License-Identifier: Apache-2.0
"""Modules that a library imports and hardly ever uses: they are loaded when something in them is first asked for.

The standard library's ``LazyLoader`` does not do: in Python 3.11 the very ``import`` statement loads such a module.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


def import_late(name: str) -> None:
    """Let ``import name`` take no time until an attribute of the module is used; nothing if it is there or missing."""
    if name in sys.modules:
        return
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # its parent is missing
        return
    if spec is None:
        return
    stand_in = ModuleType(name)
    stand_in.__spec__ = spec

    def load(attribute: str) -> Any:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    vars(stand_in)["__getattr__"] = load  # PEP 562
    sys.modules[name] = stand_in
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, stand_in)
