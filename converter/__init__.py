# SPDX-License-Identifier: Apache-2.0
"""Model in, bundle out: import, calibrate, quantize, check, pack.

For programs: :func:`convert`, :func:`rebuild`, :func:`verify` and :func:`inspect`, described in :mod:`converter.api`.
They are loaded when they are first used, so that importing a part of this package stays quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converter.api import Converted as Converted
    from converter.api import convert as convert
    from converter.api import inspect as inspect
    from converter.api import rebuild as rebuild
    from converter.api import verify as verify

__all__ = ["Converted", "convert", "inspect", "rebuild", "verify"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("converter.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
