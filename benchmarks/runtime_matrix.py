# SPDX-License-Identifier: Apache-2.0
"""Every mode on every runtime: who computes what right, who refuses, and who is wrong without a word.

    python -m benchmarks.runtime_matrix [--samples 100]

Models are made with ai-edge-quantizer's recipes from the digits example and, where they are there, the shared models.
Each cell is run even where the table (converter.core.board.runtime_rules) refuses it, so that the table itself is
checked.
A cell is right where its answers score within one point of the same model's on LiteRT's reference kernels. ResNet-8 has
no labelled pictures here: there not one clear answer in a hundred may be of another class than the reference kernels'.
"""

import argparse
import contextlib
import csv
import io
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter as LiteRt
from ai_edge_litert.interpreter import OpResolverType
from ai_edge_quantizer import quantizer
from ai_edge_quantizer.recipe_manager import RecipeManager as Recipe

from benchmarks.quantizer_recipes import MODES
from benchmarks.record import ROOT, SHARED, skip, write
from converter.adapters.flatbuffers.reading import read_facts, with_modern_operator_codes, with_signature_list
from converter.adapters.flatbuffers.reading import with_versions_written as _written
from converter.core.board.runtime_rules import MEASURED, first_refusal
from edgefleet.contracts.errors import EdgeFleetError, MissingExtraError
from edgefleet.contracts.manifest import RuntimeKind
from edgefleet.runtimes.litert import Kernels
from edgefleet.runtimes.oracle import Interpreter, open_oracle, oracle_tool
from edgefleet.runtimes.tensors import dequantize, to_model_inputs

Array = npt.NDArray[Any]
Score = Callable[[Array, Array], float]
#: The runtimes of the matrix; LiteRT twice, as its two kernel sets differ.
COLUMNS: tuple[tuple[RuntimeKind, Kernels], ...] = (
    ("litert", "production"),
    ("litert", "reference"),
    ("tflite-runtime", "production"),
    ("tflm", "reference"),
)
_ONE_POINT = 0.01
_CALIBRATION = 20


@dataclass(frozen=True)
class Subject:
    """A float model with inputs in its own units, and what its answers are worth (0 to 1, given inputs and answers).

    ``by_score`` tells whether the score decides what is right, or the classes of clear answers do.
    """

    name: str
    model: bytes
    samples: Array
    score: Score
    calibration: Array
    by_score: bool = True
    ranges: dict[str, Any] = field(default_factory=dict)


class Cell(NamedTuple):
    """One model on one runtime: what the table says, and what happened when it was run all the same.

    ``changed`` counts answers of another class than the reference's, where that one leads by half.
    """

    refusal: str | None
    score: float | None
    reference: float | None
    changed: int
    samples: int
    by_score: bool
    said: str

    @property
    def right(self) -> bool:
        """Tell whether it ran, and within a point of the mode's reference (or one sample, where they are few)."""
        if self.score is None or self.reference is None:
            return False
        slack = max(_ONE_POINT, 1 / self.samples) + 1e-9
        off = abs(self.score - self.reference) if self.by_score else self.changed / self.samples
        return off <= slack

    @property
    def verdict(self) -> str:
        """Return right, refused, or what must not be."""
        if self.refusal is None:
            return "right" if self.right else "WRONG" if self.score is not None else "NOT RUN"
        return "refused"


def main() -> None:
    options = _options()
    missing = _missing()
    if missing:
        skip(missing)
    subjects = [digits(options.samples), *shared(options.samples)]
    rows = [row for subject in subjects for row in _rows(subject)]
    bad = [row for row in rows if row["verdict"] not in ("right", "refused")]
    write("runtime_matrix", {
        "tools": {kind: oracle_tool(kind).version for kind, _ in COLUMNS},
        "samples": {subject.name: len(subject.samples) for subject in subjects},
        "cells": rows, "neither_right_nor_refused": len(bad),
    })  # fmt: skip
    print(table(rows))
    sys.exit(1 if bad else 0)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the matrix as text, one line a model and mode."""
    lines = [f"{'model':7}{'mode':32}" + "".join(f"{f'{kind} {kernels}':28}" for kind, kernels in COLUMNS)]
    for name, mode in dict.fromkeys((row["model"], row["mode"]) for row in rows):
        cells = [row for row in rows if (row["model"], row["mode"]) == (name, mode)]
        lines.append(f"{name:7}{mode:32}" + "".join(f"{_short(cell):28}" for cell in cells))
    return "\n".join(lines)


def _short(cell: dict[str, Any]) -> str:
    figure = "" if cell["score"] is None else f" {cell['score']:.3f}"
    return (
        f"{cell['verdict']}{figure}" if cell["verdict"] == "right" else f"{cell['verdict']} ({cell['anyway']}{figure})"
    )


def _rows(subject: Subject) -> list[dict[str, Any]]:
    rows = []
    for mode in MODES:
        model = make(subject, mode)
        for kind, kernels in COLUMNS if model is not None else ():
            assert model is not None
            found = cell(subject, model, kind, kernels)
            failed = "NaN" if "answers NaN" in found.said else "refuses itself"
            anyway = "as the reference" if found.right else "wrong" if found.score is not None else failed
            rows.append({
                "model": subject.name, "mode": mode, "runtime": kind, "kernels": kernels, "bytes": len(model),
                "verdict": found.verdict, "score": found.score, "reference": found.reference,
                "clear_changed": found.changed, "refusal": found.refusal, "anyway": anyway, "said": found.said,
            })  # fmt: skip
    return rows


def cell(subject: Subject, model: bytes, kind: RuntimeKind, kernels: Kernels) -> Cell:
    """Ask the table about a model, and run it all the same."""
    refusal = first_refusal(read_facts(model), kind, MEASURED[kind])
    wanted = reference_answers(subject, model)
    score = reference = None
    said, changed = "", 0
    try:
        got = answers(open_oracle(model, kind=kind, kernels=kernels), subject)
        score = subject.score(subject.samples, got)
    except EdgeFleetError as error:
        said = error.message
    if wanted is not None:
        reference = subject.score(subject.samples, wanted)
        changed = 0 if score is None else int((got.argmax(1) != wanted.argmax(1))[_clear(wanted)].sum())
    refused = None if refusal is None else str(refusal)
    return Cell(refused, score, reference, changed, len(subject.samples), subject.by_score, said)


def reference_answers(subject: Subject, model: bytes) -> Array | None:
    """Return what the mode answers on LiteRT's reference kernels, or on TFLM where they do not run it."""
    return _reference_answers(_Same(subject), model)


@cache
def _reference_answers(same: "_Same", model: bytes) -> Array | None:
    for kind in ("litert", "tflm"):
        with contextlib.suppress(EdgeFleetError):
            return answers(open_oracle(model, kind=kind, kernels="reference"), same.subject)
    return None


class _Same(NamedTuple):
    """A subject by identity: arrays have no hash."""

    subject: Subject

    def __hash__(self) -> int:
        return id(self.subject)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.subject is self.subject


def answers(oracle: Interpreter, subject: Subject) -> Array:
    """Return the first output's real values for each sample, one row a sample."""
    rows = []
    for sample in subject.samples:
        (output, *_) = oracle.invoke(to_model_inputs([sample], oracle.inputs))
        rows.append(dequantize(output, oracle.outputs[0]).reshape(-1))
    return np.stack(rows)


def digits(count: int) -> Subject:
    """The example of this repository: frames with labels, 98.8 % right in float."""
    folder = ROOT / "examples" / "digits"
    with np.load(folder / "digits.npz") as stored:
        x, y = stored["live_x"][:count].astype(np.float32), stored["live_y"][:count]
        calibration = stored["calibration_x"][:_CALIBRATION].astype(np.float32)
    return _subject("digits", (folder / "v1_float32.tflite").read_bytes(), x, _accuracy(y), calibration)


def shared(count: int) -> list[Subject]:
    """The shared models, where they are; none otherwise."""
    folder = SHARED / "models"
    if not (folder / "vww_float32.tflite").is_file():
        return []
    small, y = photographs("evaluation", 32, count)
    large, _ = photographs("evaluation", 96, count)
    draw = np.random.default_rng(0)
    features = made_up_features(draw, (folder / "ad_int8.tflite").read_bytes(), count + _CALIBRATION)
    read = {name: (folder / f"{name}_float32.tflite").read_bytes() for name in ("vww", "ic_resnet8", "ad")}
    bgr, bgr_calibration = (
        pictures[..., ::-1] / np.float32(255) for pictures in (large, photographs("calibration", 96, _CALIBRATION)[0])
    )
    ic = _subject("ic", read["ic_resnet8"], small, _unknown, photographs("calibration", 32, _CALIBRATION)[0])
    ad = _subject("ad", read["ad"], features[_CALIBRATION:], _unknown, features[:_CALIBRATION])
    on_ic, on_ad = _float_answers(ic), _float_answers(ad)
    return [
        _subject("vww", read["vww"], bgr, _accuracy(y), bgr_calibration),
        replace(ic, score=_agreement(on_ic), by_score=False),
        replace(ad, score=_rank(on_ad)),
    ]


def _subject(name: str, model: bytes, samples: Array, score: Score, calibration: Array) -> Subject:
    modern = with_signature_list(with_modern_operator_codes(model))
    return Subject(name, modern, samples, score, calibration)


def _float_answers(subject: Subject) -> Array:
    return answers(open_oracle(subject.model, kind="litert", kernels="reference"), subject)


def _unknown(_: Array, __: Array) -> float:
    return 0.0


def _clear(answered: Array) -> Array:
    """Tell which answers have a first class that leads by half."""
    second, first = np.sort(answered, axis=1)[:, -2:].T
    return np.asarray(first - second > 0.5)


def _accuracy(labels: Array) -> Score:
    return lambda _, answered: float((answered.argmax(1) == labels).mean())


def _agreement(expected: Array) -> Score:
    """Agreement of the top-1 class with the float model's where that one's lead is clear: no picture is from CIFAR."""
    clear = _clear(expected)
    return lambda _, answered: float((answered.argmax(1) == expected.argmax(1))[clear].mean())


def _rank(expected: Array) -> Score:
    """Rank correlation of the reconstruction errors with the float model's."""

    def score(samples: Array, answered: Array) -> float:
        flat = samples.reshape(len(samples), -1)
        mine, theirs = (((rows - flat) ** 2).mean(1).argsort().argsort() for rows in (answered, expected))
        return float(np.corrcoef(mine, theirs)[0, 1])

    return score


def photographs(part: str, size: int, count: int) -> tuple[Array, Array]:
    from PIL import Image

    folder = SHARED / "data" / "vww" / part
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))[1 : count + 1]
    opened = [
        Image.open(folder / row[0]).convert("RGB").resize((size, size), Image.Resampling.BILINEAR) for row in rows
    ]
    return np.stack([np.asarray(picture, np.float32) for picture in opened]), np.array([int(row[1]) for row in rows])


def made_up_features(draw: np.random.Generator, int8_model: bytes, count: int) -> Array:
    """Made-up spectrograms inside the range that the int8 model takes."""
    (spec,) = open_oracle(int8_model, kind="litert").inputs
    assert spec.scale is not None
    assert spec.zero_point is not None
    low, high = spec.scale * (-128 - spec.zero_point), spec.scale * (127 - spec.zero_point)
    knots, bins = np.linspace(0, 1, 12), np.linspace(0, 1, 128)
    rows = []
    for _ in range(count):
        base = np.interp(bins, knots, draw.normal(0.5, 0.12, 12))
        frames = np.clip(base + draw.normal(0, 0.04, (5, 128)), 0, 1)
        rows.append((low + (high - low) * frames).reshape(640))
    return np.stack(rows).astype(np.float32)


def ranges(subject: Subject) -> dict[str, Any]:
    """Return the smallest and largest value of every activation over the calibration samples, on reference kernels."""
    if not subject.ranges:
        interpreter = LiteRt(
            model_content=subject.model,
            experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
        (given,) = interpreter.get_input_details()
        # a range for a constant would give its weights one scale for all channels
        flowing = {tensor.name for tensor in read_facts(subject.model).tensors if not tensor.constant_bytes}
        details = interpreter.get_tensor_details()
        floats = [detail for detail in details if detail["dtype"] == np.float32 and detail["name"] in flowing]
        for sample in subject.calibration:
            interpreter.set_tensor(given["index"], sample.reshape(given["shape"]))
            interpreter.invoke()
            for detail in floats:
                with contextlib.suppress(ValueError):  # a tensor that is never computed has no data
                    _widen(subject.ranges, detail, interpreter.get_tensor(detail["index"]))
    return subject.ranges


def _widen(known: dict[str, Any], detail: dict[str, Any], values: Array) -> None:
    shape = [1] * len(detail["shape"])
    low, high = (np.full(shape, edge, np.float32) for edge in (values.min(), values.max()))
    before = known.get(detail["name"], {"min": low, "max": high})
    known[detail["name"]] = {"min": np.minimum(before["min"], low), "max": np.maximum(before["max"], high)}


def make(subject: Subject, mode: str) -> bytes | None:
    """Return the subject in a mode, versions written; None where no operator of it can have that mode."""
    raw = make_raw(subject, mode)
    return None if raw is None else _written(raw)


def make_raw(subject: Subject, mode: str) -> bytes | None:
    """Return what ai-edge-quantizer makes, as it writes it."""
    how = MODES[mode]
    if how is None:
        return subject.model
    recipe = Recipe()
    how(recipe)
    static = mode.startswith(("int", "mixed"))
    logging.getLogger("absl").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        made = quantizer.Quantizer(subject.model, recipe.get_quantization_recipe()).quantize(
            ranges(subject) if static else None, enable_progress_bar=False, enable_progress_report=False
        )
    model = bytes(made.quantized_model)
    return model if _four_bits(model) or "int4" not in mode else None


def _four_bits(model: bytes) -> bool:
    return any(tensor.dtype == "int4" for tensor in read_facts(model).tensors)


def _missing() -> str | None:
    for kind, _ in COLUMNS:
        try:
            oracle_tool(kind)
        except MissingExtraError as error:
            return f"{error.message}; {error.hint}"
    return None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100)
    return parser.parse_args()


if __name__ == "__main__":
    main()
