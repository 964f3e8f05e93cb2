# SPDX-License-Identifier: Apache-2.0
"""Damaged models through the whole converter: each ends in a sentence, or in a bundle that was proved.

    python -m benchmarks.campaign_fuzz_models [--count 10000] [--first 0] [--seed 1] [--model FILE.tflite]
        [--quantize-every 2] [--inspect] [--print-only]

Mutants of a float model go through ``converter.pipeline.convert``, every Nth one to int8 with calibration samples.
Each runs in a fork of its own, as on the command line; the probe forks again instead of starting a Python. Counted:

refused    one of EdgeFleet's errors, nothing written
contained  the same, but only because the conversion runs in a fork: the model killed it past the probe, or made it
           raise something else (each is listed: a place that could refuse better)
done       the damage left a sound model (other weights, another name), which was proved and packed
crash      something else than an error of EdgeFleet's came out: a fault
hang       it took longer than ten seconds: a fault

Exits with 1 if there was a fault. A mutant is made again from the seed and its number.
"""

import argparse
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.record import ROOT, write
from converter import pipeline
from converter.adapters.containment import contained
from converter.core.recipe import Recipe
from converter.core.request import ConversionRequest
from converter.core.scoring import default_metric
from converter.inspection import inspect_and_draw
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.manifest import TensorSpec
from edgefleet.runtimes import probe
from edgefleet.runtimes.litert import LiteRtInterpreter
from firmware_profiles import load_profile

Work = Callable[[Path], str]
HANG_S = 10.0
_DIGITS = ROOT / "examples" / "digits" / "v1_float32.tflite"
_CALIBRATION_SAMPLES = 8
_MOST_FAULTS = 50
_CONTAINED = ("the model killed the converter", "the converter cannot make sense of the model")
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_EXTREMES = (0, 1, -1, 2**31 - 1, -(2**31), 255, 65535, 2**16, 4, 8)


def main() -> int:
    options = _options()
    model = options.model.read_bytes()
    with tempfile.TemporaryDirectory(prefix="edgefleet-fuzz-") as name:
        calibration = _write_calibration(Path(name), options.model)
        found = [
            _try(mutant(model, options.seed, number), _work(options, number, calibration), number, Path(name))
            for number in range(options.first, options.first + options.count)
        ]
    faults = [each for each in found if each["outcome"] in ("crash", "hang")]
    summary = _summary(options, found, faults)
    if options.print_only:
        print(json.dumps(summary))
    else:
        write("campaign_fuzz_models", summary)
    return 1 if faults else 0


def mutant(model: bytes, seed: int, number: int) -> bytes:
    """Return a damaged copy: one to four of flipped bits, bytes, words, copied blocks, or a cut."""
    chance = np.random.default_rng([seed, number])
    data = bytearray(model)
    for _ in range(int(chance.integers(1, 5))):
        _damage(data, chance)
    while data == model:
        _damage(data, chance)
    return bytes(data)


def _damage(data: bytearray, chance: np.random.Generator) -> None:
    # Tables and offsets lie at the ends of the file, weights in its middle; four of five hits go where the tables are.
    table = min(len(data) - 8, 4096)
    at = int(chance.integers(8, table)) if chance.random() < 0.4 else int(chance.integers(8, len(data) - 8))
    if chance.random() < 0.4:
        at = len(data) - 8 - int(chance.integers(0, table - 8))
    kind = chance.integers(0, 6)
    if kind <= 1:
        data[at] ^= 1 << int(chance.integers(0, 8))
    elif kind == 2:
        data[at] = int(chance.integers(0, 256))
    elif kind == 3:
        data[at & ~3 : (at & ~3) + 4] = int(chance.choice(_EXTREMES)).to_bytes(4, "little", signed=True)
    elif kind == 4:
        start, length = int(chance.integers(8, len(data) - 64)), int(chance.integers(4, 33))
        data[at : at + length] = data[start : start + length]
    elif chance.random() < 0.2:
        del data[max(at, 64) :]


def _write_calibration(folder: Path, model: Path) -> Path:
    specs = LiteRtInterpreter(model.read_bytes(), kernels="reference").inputs
    np.savez(folder / "calibration.npz", **{_key(specs, spec): _samples(spec) for spec in specs})
    return folder / "calibration.npz"


def _key(specs: tuple[TensorSpec, ...], spec: TensorSpec) -> str:
    return "x" if len(specs) == 1 else spec.name


def _samples(spec: TensorSpec) -> npt.NDArray[Any]:
    shape = (_CALIBRATION_SAMPLES, *spec.shape[1:])
    return np.random.default_rng(7).random(shape).astype(np.float32)


def _work(options: argparse.Namespace, number: int, calibration: Path) -> Work:
    """Return what is done with a mutant's file: it is inspected or converted, to floats or to int8."""
    if options.inspect:
        return lambda path: inspect_and_draw(path)[0].model.precision
    samples = None if number % options.quantize_every else calibration
    return lambda path: pipeline.convert(_request(path, samples), now=_NOW).manifest.precision


def _try(model: bytes, work: Work, number: int, folder: Path) -> dict[str, Any]:
    """Do as the command line does with one mutant, and return its outcome."""
    path = folder / "mutant.tflite"
    path.write_bytes(model)
    started = time.monotonic()
    outcome = _outcome(lambda: _quietly(work, path))
    took_s = time.monotonic() - started
    return {"number": number, "took_s": round(took_s, 3), **(outcome if took_s <= HANG_S else {"outcome": "hang"})}


def _outcome(work: Callable[[], str]) -> dict[str, str]:
    try:
        return {"outcome": "done", "what": contained(work)}
    except EdgeFleetError as error:
        caught = error.message.startswith(_CONTAINED)
        return {"outcome": "contained" if caught else "refused", "what": error.message if caught else error.code}
    except Exception as error:  # noqa: BLE001  # this is what is looked for
        return {"outcome": "crash", "what": f"{type(error).__name__}: {error}"[:300]}


def _quietly(work: Work, path: Path) -> str:
    """Work in the fork, without output and not for ever."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    signal.setitimer(signal.ITIMER_REAL, 2 * HANG_S)
    return work(path)


def _request(path: Path, calibration: Path | None) -> ConversionRequest:
    return ConversionRequest(
        model=path, profile=load_profile("linux-x86_64"), name="mutant", version="1.0.0", task="classification",
        metric=default_metric("classification"), calibration=calibration,
        recipe=Recipe(precision="float32") if calibration is None else None,
    )  # fmt: skip


def _probe_by_forking() -> None:
    """Let every module that probes models fork instead of starting a Python: the same checks, a tenth of the time.

    What a conversion imports late is imported here, once for all forks.
    """
    for late in ("ai_edge_litert.interpreter", "ai_edge_quantizer.quantizer", "ai_edge_quantizer.recipe_manager"):
        importlib.import_module(late)
    original = probe.probe_model
    for module in list(sys.modules.values()):
        if getattr(module, "probe_model", None) is original:
            module.probe_model = probe.probe_in_fork  # type: ignore[attr-defined]


def _summary(options: argparse.Namespace, found: list[dict[str, Any]], faults: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "model": options.model.name,
        "seed": options.seed,
        "first": options.first,
        "mutants": len(found),
        "outcomes": dict(sorted(Counter(each["outcome"] for each in found).items())),
        "contained": dict(sorted(Counter(each["what"] for each in found if each["outcome"] == "contained").items())),
        "refusals": dict(sorted(Counter(each["what"] for each in found if each["outcome"] == "refused").items())),
        "slowest_s": round(max(each["took_s"] for each in found), 2),
        "mean_s": round(sum(each["took_s"] for each in found) / len(found), 4),
        "faults": faults[:_MOST_FAULTS],
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inspect", action="store_true", help="read and draw the mutants instead of converting them")
    parser.add_argument("--quantize-every", type=int, default=2, metavar="N")
    parser.add_argument("--print-only", action="store_true", help="keep no result")
    parser.add_argument("--model", type=Path, default=_DIGITS)
    return parser.parse_args()


if __name__ == "__main__":
    _probe_by_forking()
    sys.exit(main())
