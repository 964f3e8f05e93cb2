# SPDX-License-Identifier: Apache-2.0
"""Rows of numbers: the same IEEE operations, so the same bytes; nothing where a number is none."""

import subprocess
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.preprocessing_cases.case import Case
from converter.c.core.preprocessing import generate_preprocessing
from edgefleet.contracts.manifest import FeaturePreprocessing, Preprocessing, TensorSpec

MEAN, DEVIATION = (0.0, 0.1, -1e6, 3.0, 1e-30), (1.0, 1 / 3, 2e5, -0.5, 1e-31)
HOW = Preprocessing(features=FeaturePreprocessing(mean=MEAN, deviation=DEVIATION))


def int8(scale: float, zero_point: int) -> TensorSpec:
    return TensorSpec(name="x", shape=(1, 5), dtype="int8", scale=scale, zero_point=zero_point)


def rows() -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(5)
    near = rng.normal(0, 2, (4000, 5)) * DEVIATION + MEAN
    halves = (rng.integers(-200, 200, (500, 5)) + 0.5) / 16 * DEVIATION + MEAN
    ends = np.array([[np.inf] * 5, [-np.inf] * 5, [3e38] * 5, [-3e38] * 5])
    return np.concatenate([near, halves, ends]).astype(np.float32)


def test_every_row_is_the_reference_s(compiled: Any) -> None:
    cases = [Case(HOW, int8(scale, zero), 20) for scale, zero in ((1 / 16, 0), (0.03, -128), (0.05, 127), (0.2, 3))]
    run = compiled(cases)
    for number, one in enumerate(cases):
        assert np.array_equal(run(number, rows()), one.expected(rows())), one.spec


def test_what_is_not_a_number_is_told(compiled: Any) -> None:
    run = compiled([Case(HOW, int8(0.1, 0), 20)])
    with pytest.raises(subprocess.CalledProcessError) as stopped:
        run(0, np.array([[0, 0, np.nan, 0, 0]], np.float32))
    assert stopped.value.returncode == 7  # the harness exits so where the call says 0


def test_inputs_in_model_units_need_no_c() -> None:
    made = generate_preprocessing(Preprocessing(), int8(0.1, 0), name="m")
    assert (dict(made.sources), made.kernel_sources, made.scratch_bytes) == ({}, (), 0)
