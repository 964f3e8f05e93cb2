# SPDX-License-Identifier: Apache-2.0
"""The same cases on another build of the kernels: ``python -m benchmarks.operator_cases.replay LIBRARY CASES ROW...``.

It prints a digest of every output, and loads no oracle: sanitizers watch the whole process.
"""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.operator_cases.drawing import Draw
from benchmarks.operator_cases.host_kernels import HostKernels, Program, lowered
from benchmarks.operator_cases.rows import ROWS
from converter.c.core.lowering import LOWERINGS
from converter.c.core.program import Target
from edgefleet.contracts.errors import UnsupportedModelError


def digest(kernels: HostKernels, rows: Iterable[str], cases: int) -> str:
    """Return the digest of all outputs of so many cases of each row."""
    seen = hashlib.sha256()
    for row in rows:
        for seed in range(cases):
            case = ROWS[row](Draw(seed))
            try:
                parts = lowered(case.graph, Target("litert/1", "portable"), LOWERINGS)
            except UnsupportedModelError:
                continue
            for outputs in kernels.run(Program(case.graph, parts), case.steps):
                for output in outputs:
                    seen.update(output.tobytes())
    return seen.hexdigest()


if __name__ == "__main__":
    print(digest(HostKernels(Path(sys.argv[1])), sys.argv[3:], int(sys.argv[2])))
