# SPDX-License-Identifier: Apache-2.0
"""Batches for boards: one input or several, with or without an axis for one sample; what does not fit is a sentence."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.operator_cases.case import GraphWriter, flatbuffer

_NPZ_HINT = "the model has several inputs: store an array named like each with numpy.savez, first axis samples"
_BATCH_HINT = "quantize the samples as the model's input says, and put them along the first axis"


def _sum_of_two() -> bytes:
    graph = GraphWriter()
    one, two, made = (graph.tensor((1, 4), 0.5, 0) for _ in range(3))
    graph.operator("ADD", [one, two], [made])
    rows = np.zeros((1, 4), np.int8)
    return flatbuffer(graph.case("sum", {one: rows, two: rows}, [made]).graph)


def _squashed(shape: tuple[int, ...]) -> bytes:
    """Return a model whose input and output have a shape, with no axis for samples."""
    graph = GraphWriter()
    value, made = graph.tensor(shape, 0.1, 3), graph.tensor(shape, 1 / 256, -128)
    graph.values[made] = replace(graph.values[made], name="made")
    graph.operator("LOGISTIC", [value], [made])
    return flatbuffer(graph.case("squashed", {value: np.zeros(shape, np.int8)}, [made]).graph)


@pytest.fixture(name="ran")
def _ran(tmp_path: Path, edgefleet_command: Callable[..., Any]) -> Callable[..., Any]:
    def run(model: bytes, batch: Path) -> Any:
        (tmp_path / "model.tflite").write_bytes(model)
        return edgefleet_command(
            *("emulate", "run", tmp_path / "model.tflite", "--profile", "mps2-an386"),
            *("--input", batch, "--output", tmp_path / "y.npy"),
        )

    return run


@pytest.mark.boards
def test_a_model_with_two_inputs_takes_an_array_for_each(tmp_path: Path, ran: Callable[..., Any]) -> None:
    one = np.arange(12, dtype=np.int8).reshape(3, 4)
    two = np.full((3, 1, 4), 10, np.int8)
    np.savez(tmp_path / "x.npz", t1=two, t0=one)
    assert ran(_sum_of_two(), tmp_path / "x.npz").status == 0
    assert np.load(tmp_path / "y.npy").tolist() == (one + 10).tolist()


@pytest.mark.boards
@pytest.mark.parametrize("shape", [(4,), (2, 4)])
def test_a_model_without_an_axis_of_samples_takes_them_behind_one(
    shape: tuple[int, ...], tmp_path: Path, ran: Callable[..., Any]
) -> None:
    samples = np.arange(-12, 12, dtype=np.int8).reshape(-1, *shape)
    np.save(tmp_path / "x.npy", samples)
    assert ran(_squashed(shape), tmp_path / "x.npy").status == 0
    answers = np.load(tmp_path / "y.npy")
    real = 1 / (1 + np.exp(-0.1 * (samples.astype(float) - 3)))
    assert answers.shape == samples.shape
    assert answers.tolist() == (np.round(real * 256) - 128).astype(int).tolist()


def _npy(folder: Path) -> Path:
    np.save(folder / "x.npy", np.zeros((3, 4), np.int8))
    return folder / "x.npy"


def _npz(folder: Path, **arrays: "np.ndarray[Any, Any]") -> Path:
    np.savez(folder / "x.npz", **arrays)  # type: ignore[arg-type]
    return folder / "x.npz"


_ROWS = np.zeros((3, 4), np.int8)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (lambda at: at / "none.npz",
         "error: cannot read the batch '{at}/none.npz': No such file or directory\n"
         "hint: check the path and its permissions\n"),
        (_npy, f"error: 'x.npy' is not a readable .npz: it is no zip file\nhint: {_NPZ_HINT}\n"),
        (lambda at: _npz(at, t0=_ROWS), f"error: 'x.npz' has no array 't1', only ['t0']\nhint: {_NPZ_HINT}\n"),
        (lambda at: _npz(at, t0=_ROWS, t1=np.zeros((0, 4), np.int8)),
         f"error: 'x.npz' holds no samples of 't1'\nhint: {_NPZ_HINT}\n"),
        (lambda at: _npz(at, t0=_ROWS, t1=_ROWS[:2]),
         "error: the batch has different numbers of samples: 3 of 't0', 2 of 't1'\n"
         "hint: store as many of each input\n"),
        (lambda at: _npz(at, t0=_ROWS, t1=_ROWS.astype(np.uint8)),
         "error: the batch of 't1' is uint8[3, 4], and this input is int8[4] behind the axis of samples\n"
         f"hint: {_BATCH_HINT}\n"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_several_inputs_are_refused(
    batch: Callable[[Path], Path], message: str, tmp_path: Path, ran: Callable[..., Any]
) -> None:
    told = ran(_sum_of_two(), batch(tmp_path))
    assert (told.out, told.err) == ("", message.replace("{at}", str(tmp_path)))
    assert told.status == (2 if "No such file" in message else 3)
    assert not (tmp_path / "y.npy").exists()


def test_a_batch_for_a_model_of_several_rows_needs_an_axis_of_samples(tmp_path: Path, ran: Callable[..., Any]) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 4), np.int8))
    assert ran(_squashed((2, 4)), tmp_path / "x.npy").err == (
        "error: the batch is int8[2, 4], and the model takes int8[2, 4] behind the axis of samples\n"
        f"hint: {_BATCH_HINT}\n"
    )
