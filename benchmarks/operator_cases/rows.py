# SPDX-License-Identifier: Apache-2.0
"""All rows of the campaign."""

from collections.abc import Callable, Mapping

from benchmarks.operator_cases import others, weighted
from benchmarks.operator_cases.case import Case
from benchmarks.operator_cases.drawing import Draw

ROWS: Mapping[str, Callable[[Draw], Case]] = {**weighted.ROWS, **others.ROWS}
