# SPDX-License-Identifier: Apache-2.0
"""Generated preprocessing, compiled for this machine under the address and undefined-behaviour sanitizers."""

from collections.abc import Callable, Sequence

import pytest

from benchmarks.preprocessing_cases.case import Case
from benchmarks.preprocessing_cases.host import Run, compile_here


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[Case]], Run]:
    """Generate and compile cases into one program; the result runs the case of a number on a batch."""
    return lambda cases: compile_here(cases, tmp_path_factory.mktemp("preprocess"))
