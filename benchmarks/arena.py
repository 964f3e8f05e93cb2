# SPDX-License-Identifier: Apache-2.0
"""Arena plans and predictions against TensorFlow Lite Micro itself, for every shared model and the digits.

    python -m benchmarks.arena

The baseline is the interpreter's own greedy plan, as its recording allocator reports it. For each model: our greedy
plan against its head, the optimal plan and the bound, the head once that plan is embedded, the predicted total against
the measured one (the wheel's structures, with pointers of 8 bytes), and the smallest arena that loads the model there
and on a board with pointers of 4 bytes.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, SHARED, skip, write
from converter.adapters.flatbuffers.offline_plan import embed_plan, plan_for
from converter.adapters.flatbuffers.reading import read_facts
from converter.core.board.cost import Interpreter, arena_memory
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.runtimes.tflm_arena import measure_arena

_COLUMNS = (
    "head",
    "greedy",
    "optimal",
    "bound",
    "embedded_head",
    "total",
    "predicted_total",
    "needed",
    "needed_32_bit",
)


def main() -> None:
    if find_spec("tflite_micro") is None:
        skip("install TensorFlow Lite Micro: pip install 'edgefleet[mcu]'")
    folders = (SHARED / "models", ROOT / "examples" / "digits")
    rows = [row for folder in folders for path in sorted(folder.glob("*.tflite")) if (row := _row(path)) is not None]
    print(f"{'model':<22}" + "".join(f"{column:>17}" for column in _COLUMNS))
    for row in rows:
        print(f"{row['model']:<22}" + "".join(f"{row[column]:>17,}" for column in _COLUMNS))
    write("arena", _document(rows))


def _row(path: Path) -> dict[str, Any] | None:
    model = path.read_bytes()
    try:
        measured = measure_arena(model)
    except UnsupportedModelError as error:
        print(f"{path.stem}: {error.message}")
        return None
    own, best = plan_for(model)
    facts = read_facts(model)
    wheel = arena_memory(facts, own, Interpreter(pointer_bytes=8, wheel=True))
    return {
        "model": path.stem,
        "head": measured.head_bytes,
        "greedy": own.size_bytes,
        "optimal": best.size_bytes,
        "bound": best.bound_bytes,
        "proved": best.proved,
        "embedded_head": measure_arena(embed_plan(model, best)).head_bytes,
        "total": measured.total_bytes,
        "predicted_total": wheel.total_bytes,
        "needed": wheel.needed_bytes,
        "needed_32_bit": arena_memory(facts, own, Interpreter(pointer_bytes=4)).needed_bytes,
    }


def _document(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "baseline": "TFLM's greedy plan, as its recording allocator reports it (tflite-micro wheel)",
        "greedy_equals_tflm": all(row["greedy"] == row["head"] for row in rows),
        "optimal_never_over_greedy": all(row["bound"] <= row["optimal"] <= row["greedy"] for row in rows),
        "embedded_plans_carried_out": all(row["embedded_head"] == row["optimal"] for row in rows),
        "smallest_head_ratio": round(min(row["optimal"] / row["head"] for row in rows), 4),
        "predicted_total_ratio": [
            round(choose(row["predicted_total"] / row["total"] for row in rows), 4) for choose in (min, max)
        ],
        "models": rows,
    }


if __name__ == "__main__":
    main()
