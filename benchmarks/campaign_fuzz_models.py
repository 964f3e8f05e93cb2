# SPDX-License-Identifier: Apache-2.0
"""Damaged models through the whole converter: each ends in a sentence, or in a bundle that was proved.

    python -m benchmarks.campaign_fuzz_models [--count 10000] [--first 0] [--seed 1] [--model FILE.tflite ...]
        [--profile linux-x86_64] [--quantize-every 2] [--inspect] [--print-only]

Mutants, in turn of each model, go through ``converter.pipeline.convert``, every Nth one of a float model to int8 with
calibration samples. Half of them are damaged bytes, half are well-formed files that lie (benchmarks.model_mutations).
Each runs in a fork of its own, as on the command line. Counted:

refused    one of EdgeFleet's errors, nothing written
contained  the same, but only because the conversion runs in a fork: the model killed it past the probe, or made it
           raise something else (each is listed: a place that could refuse better)
done       the damage left a sound model (other weights, another name), which was proved and packed
crash      something else than an error of EdgeFleet's came out: a fault
many lines a refusal is no single sentence: a fault
hang       it took longer than ten seconds, twice: a fault

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
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.model_mutations import mutant
from benchmarks.record import ROOT, write
from converter import pipeline
from converter.adapters.containment import contained
from converter.core.recipe import Recipe
from converter.core.request import ConversionRequest
from converter.core.scoring import default_metric
from converter.inspection import inspect_and_draw
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.manifest import TensorSpec
from edgefleet.runtimes.litert import LiteRtInterpreter
from firmware_profiles import load_profile

Work = Callable[[Path], str]
HANG_S = 10.0
_DIGITS = ROOT / "examples" / "digits" / "v1_float32.tflite"
_CALIBRATION_SAMPLES = 8
_MOST_FAULTS = 50
_CONTAINED = ("the model killed the converter", "the converter cannot make sense of the model")
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_FAULTS = ("crash", "hang", "many lines")


def main() -> int:
    options = _options()
    models = [path.read_bytes() for path in options.model]
    with tempfile.TemporaryDirectory(prefix="edgefleet-fuzz-") as name:
        samples = [_write_calibration(Path(name) / f"{place}.npz", model) for place, model in enumerate(models)]

        def attempt(number: int) -> dict[str, Any]:
            place = number % len(models)
            damaged = mutant(models[place], options.seed, number, structure=is_lie(number, len(models)))
            work = _work(options, number, samples[place])
            once = _try(damaged, work, number, Path(name))
            # Another program may have taken the processor: a hang is one that comes again.
            return _try(damaged, work, number, Path(name)) if once["outcome"] == "hang" else once

        numbers = range(options.first, options.first + options.count)
        found = [attempt(number) for number in numbers] if options.workers == 1 else _shared_out(attempt, numbers)
    faults = [each for each in found if each["outcome"] in _FAULTS]
    summary = _summary(options, found, faults)
    if options.print_only:
        print(json.dumps(summary))
    else:
        write("campaign_fuzz_models", summary)
    return 1 if faults else 0


def _shared_out(attempt: Callable[[int], dict[str, Any]], numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Let forks of this process take every Nth mutant each, and return what all of them found."""
    answers = []
    for worker in range(_options().workers):
        reading, writing = os.pipe()
        if os.fork() == 0:
            with os.fdopen(writing, "w") as stream:
                json.dump([attempt(number) for number in numbers[worker :: _options().workers]], stream)
            os._exit(0)
        os.close(writing)
        answers.append(os.fdopen(reading))
    return [each for stream in answers for each in json.load(stream)]


def is_lie(number: int, models: int) -> bool:
    """Tell whether a mutant is of the second kind: every other one of each model."""
    return number // models % 2 == 1


def _write_calibration(path: Path, model: bytes) -> Path:
    specs = LiteRtInterpreter(model, kernels="reference").inputs
    np.savez(path, **{_key(specs, spec): _samples(spec) for spec in specs})
    return path


def _key(specs: tuple[TensorSpec, ...], spec: TensorSpec) -> str:
    return "x" if len(specs) == 1 else spec.name


def _samples(spec: TensorSpec) -> npt.NDArray[Any]:
    shape = (_CALIBRATION_SAMPLES, *spec.shape[1:])
    return np.random.default_rng(7).random(shape).astype(np.float32)


def _work(options: argparse.Namespace, number: int, calibration: Path) -> Work:
    """Return what is done with a mutant's file: it is inspected or converted, to floats or to int8."""
    if options.inspect:
        return lambda path: inspect_and_draw(path)[0].model.precision
    samples = None if number // (2 * len(options.model)) % options.quantize_every else calibration
    request = _request(samples, options.profile)
    return lambda path: pipeline.convert(replace(request, model=path), now=_NOW).manifest.precision


def _try(model: bytes, work: Work, number: int, folder: Path) -> dict[str, Any]:
    """Do as the command line does with one mutant, and return its outcome."""
    path = folder / f"{os.getpid()}.tflite"
    path.write_bytes(model)
    started = time.monotonic()
    outcome = _outcome(lambda: _quietly(work, path))
    took_s = time.monotonic() - started
    return {"number": number, "took_s": round(took_s, 3), **(outcome if took_s <= HANG_S else {"outcome": "hang"})}


def _outcome(work: Callable[[], str]) -> dict[str, str]:
    try:
        return {"outcome": "done", "what": contained(work)}
    except EdgeFleetError as error:
        if len(error.message.splitlines()) != 1 or not error.hint:
            return {"outcome": "many lines", "what": error.message}
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


def _request(calibration: Path | None, profile: str) -> ConversionRequest:
    return ConversionRequest(
        model=_DIGITS, profile=load_profile(profile), name="mutant", version="1.0.0", task="classification",
        metric=default_metric("classification"), calibration=calibration,
        recipe=Recipe(precision="float32") if calibration is None else None,
    )  # fmt: skip


def _import_early() -> None:
    """Import here, once for all forks, what a conversion imports late."""
    for late in ("ai_edge_litert.interpreter", "ai_edge_quantizer.quantizer", "ai_edge_quantizer.recipe_manager"):
        importlib.import_module(late)


def _summary(options: argparse.Namespace, found: list[dict[str, Any]], faults: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "models": [path.name for path in options.model],
        "profile": options.profile,
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
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--profile", default="linux-x86_64")
    parser.add_argument("--model", type=Path, nargs="+", default=[_DIGITS])
    return parser.parse_args()


if __name__ == "__main__":
    _import_early()
    sys.exit(main())
