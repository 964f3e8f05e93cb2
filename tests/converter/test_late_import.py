# SPDX-License-Identifier: Apache-2.0
"""A module that is imported late costs nothing until it is used, and is itself then."""

import subprocess
import sys

_LATE = """
import sys
from converter.adapters.late_import import import_late
import_late("{name}")
import_late("no.such.module")
before = set(sys.modules)
import {name}
assert set(sys.modules) == before, "it was loaded"
assert {name}.{attribute} is not None
assert set(sys.modules) != before, "it was there already"
"""


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr


def test_a_module_is_loaded_when_it_is_first_used() -> None:
    assert _run(_LATE.format(name="xmlrpc.client", attribute="ServerProxy")) == ""


def test_the_quantizer_comes_without_the_linear_algebra_that_it_does_not_use() -> None:
    code = (
        "import sys\n"
        "from converter.adapters.late_import import import_late\n"
        "import_late('scipy.linalg')\n"
        "import ai_edge_quantizer.quantizer\n"
        "assert 'scipy.linalg._basic' not in sys.modules\n"
    )
    assert _run(code) == ""
