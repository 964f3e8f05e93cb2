# SPDX-License-Identifier: Apache-2.0
"""Every operator's C kernels against both oracles: a million output elements of two thousand parameter sets each.

``python -m benchmarks.campaign_operators [ELEMENTS SETS] [ROW...]``: ``tflm/1`` against the tflite-micro wheel and
``litert/1`` against LiteRT's reference kernels. It fails where a single bit differs, and counts what an oracle or we
refuse. Named rows replace those of the kept result; the others stay.
"""

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.operator_cases.comparison import Bench
from benchmarks.operator_cases.host_kernels import HostKernels, build
from benchmarks.operator_cases.oracles import NUMERICS
from benchmarks.operator_cases.rows import ROWS
from benchmarks.record import RESULTS, write
from converter.c.core.lowering import LOWERINGS

_ELEMENTS, _SETS = 1_000_000, 2_000
_SEED = 1_000_000
_NAME = "campaign_operators"


def main() -> int:
    numbers = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    elements, sets = numbers if numbers else (_ELEMENTS, _SETS)
    named = [word for word in sys.argv[1:] if not word.isdecimal()]
    results = _kept() if named else {}
    with tempfile.TemporaryDirectory() as folder:
        kernels = HostKernels(build(Path(folder)))
        for row in named or ROWS:
            results[row] = {numerics: _swept(kernels, row, numerics, elements, sets) for numerics in NUMERICS}
    write(
        _NAME,
        {
            "oracles": {"tflm/1": version("tflite-micro"), "litert/1": version("ai-edge-litert")},
            "asked": {"elements": elements, "parameter_sets": sets},
            "rows": {row: results[row] for row in ROWS if row in results},
        },
    )
    return 1 if any(found["mismatches"] for both in results.values() for found in both.values()) else 0


def _swept(kernels: HostKernels, row: str, numerics: Any, elements: int, sets: int) -> dict[str, Any]:
    started = time.monotonic()
    tally = Bench(kernels, LOWERINGS, numerics).sweep(ROWS[row], elements=elements, sets=sets, seed=_SEED)
    print(
        f"{row:32}{numerics:10}{tally.elements:>10} elements {len(tally.sets):>6} sets "
        f"{tally.mismatches:>4} mismatches {time.monotonic() - started:>6.1f} s {tally.first}",
        flush=True,
    )
    return tally.document()


def _kept() -> dict[str, Any]:
    path = RESULTS / f"{_NAME}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))["rows"]) if path.exists() else {}


if __name__ == "__main__":
    sys.exit(main())
