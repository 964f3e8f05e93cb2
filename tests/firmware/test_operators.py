# SPDX-License-Identifier: Apache-2.0
"""C kernels against both oracles, bit for bit: a slice of ``benchmarks/campaign_operators.py``, with other seeds."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.operator_cases.comparison import Bench, Tally
from benchmarks.operator_cases.drawing import Draw
from benchmarks.operator_cases.host_kernels import HostKernels, sanitizer_environment
from benchmarks.operator_cases.oracles import NUMERICS
from benchmarks.operator_cases.replay import digest
from benchmarks.operator_cases.rows import ROWS
from converter.c.core.lowering import LOWERINGS
from edgefleet.contracts.manifest import Numerics

_CASES = 25
#: Rows that one of the two reference runtimes does not know at all.
_UNKNOWN = {("relu -1 to 1", "tflm/1"), ("relu 0 to 1", "tflm/1")}


@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("row", ROWS)
def test_kernels_answer_as_the_reference_does(host_kernels: HostKernels, row: str, numerics: Numerics) -> None:
    tally = Tally()

    @settings(
        max_examples=_CASES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32 - 1))
    def try_case(seed: int) -> None:
        Bench(host_kernels, LOWERINGS, numerics).run(ROWS[row](Draw(seed)), tally, seed)

    try_case()
    assert (tally.mismatches, tally.first) == (0, "")
    if (row, numerics) in _UNKNOWN:
        assert (tally.elements, tally.refused_by_us) == (0, _CASES)
    else:
        assert len(tally.sets) >= _CASES // 2


def test_sanitizers_find_nothing_and_change_nothing(host_kernels: HostKernels, sanitized_library: Path) -> None:
    cases = 6
    command = [sys.executable, "-m", "benchmarks.operator_cases.replay", sanitized_library, str(cases), *ROWS]
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        command, cwd=root, env=sanitizer_environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stderr == ""
    assert run.stdout.strip() == digest(host_kernels, ROWS, cases)
