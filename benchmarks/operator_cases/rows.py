# SPDX-License-Identifier: Apache-2.0
"""All rows of the campaign, and the lowerings that they try."""

from collections.abc import Callable, Mapping

from benchmarks.operator_cases import others
from benchmarks.operator_cases.case import Case
from benchmarks.operator_cases.drawing import Draw
from converter.c.core.weightless import WEIGHTLESS, Lowering

ROWS: Mapping[str, Callable[[Draw], Case]] = {**others.ROWS}
LOWERINGS: Mapping[str, Lowering] = {**WEIGHTLESS}
