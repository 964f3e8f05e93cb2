# SPDX-License-Identifier: Apache-2.0
"""The campaign of swaps, in short: no request gets lost, resident or cold."""

import pytest

from benchmarks.campaign_swaps import swapped


@pytest.mark.parametrize("swap", ["resident", "cold"])
def test_swaps_under_load_lose_no_request(tmp_path, swap):
    result = swapped(tmp_path / "swaps", swap, 20, baseline_s=0.2)
    assert result["swapping"]["requests"] > 0
    assert result["swapping"]["lost"] == 0
    assert result["worker_grew_mib"] < 8
