# SPDX-License-Identifier: Apache-2.0
"""Rows of numbers in C: the reference's IEEE operations in the same order, so the result is exact."""

from converter.c.core.preprocessing_source import Part, array
from edgefleet.contracts.manifest import FeaturePreprocessing, TensorSpec


def columns_part(how: FeaturePreprocessing, spec: TensorSpec, name: str) -> Part:
    """Return the C that centres, scales and quantizes a row of float32 numbers."""
    count = len(how.mean)
    scale = _hexadecimal(spec.scale or 1.0)
    return Part(
        title=f"Rows of {count} numbers: (x - mean) / deviation, exact.",
        declarations=(
            f"extern const ef_columns_facts {name}_columns;\n\n"
            f"/* {count} numbers; 0 where one of them is not a number, 1 else. Needs no scratch. */\n"
            f"int {name}_preprocess(const float *row, int8_t *input);\n"
        ),
        definitions=(
            array("double", "mean", map(_hexadecimal, how.mean))
            + array("double", "deviation", map(_hexadecimal, how.deviation))
            + f"\nconst ef_columns_facts {name}_columns = {{\n"
            + f"    {count}, {spec.zero_point}, (float){scale}, mean, deviation,\n}};\n\n"
            + f"int {name}_preprocess(const float *row, int8_t *input)\n{{\n"
            + f"    return ef_columns(&{name}_columns, row, input);\n}}\n"
        ),
        kernel_sources=("preprocess/columns.c",),
    )


def _hexadecimal(number: float) -> str:
    """Write a double in C's hexadecimal form: every bit of it."""
    return float(number).hex()
