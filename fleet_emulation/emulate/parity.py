# SPDX-License-Identifier: Apache-2.0
"""One model on this machine, on 64-bit Arm and on a microcontroller: bit for bit, layer by layer.

The reference is the interpreter whose numerics the model names. What is compared with it:

1. generated C with portable kernels, on this machine;
2. the same on arm64, and LiteRT's reference kernels on arm64 where the numerics are LiteRT's;
3. generated C with the board's own kernels, on the emulated board.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from converter.c.core.program import KernelSet, Target
from converter.c.exports import check_memory
from converter.c.generate import Generated, generate
from edgefleet.boards.inference import build_inference, run_inference
from edgefleet.boards.native import Machine, build_native, run_native
from edgefleet.boards.toolchains import find_toolchain
from edgefleet.contracts.errors import MissingProgramError, UnreachableError
from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.profile import kernel_set
from fleet_emulation.emulate.reference_layers import Array, LayerOutputs, Reference, reference_layers, samples_for
from fleet_emulation.emulate.running import BoardModel, BoardOptions, open_for_board


class Difference(Fact, frozen=True, kw_only=True):
    """Where a layer first differs from the reference: in which sample, how many elements, and the first of them."""

    operator: str
    tensor: str
    sample: int
    elements: int
    of: int
    first: int
    expected: float
    got: float


class Comparison(Fact, frozen=True, kw_only=True):
    """One place where the model ran; ``not-run`` says why. ``difference`` is the first layer's that differs."""

    where: str
    result: Literal["same", "different", "not-run"]
    layers: int = 0
    difference: Difference | None = None
    why: str | None = None


class ParityDocument(Fact, frozen=True, kw_only=True):
    """All comparisons; ``same`` where every place that ran gave the reference's bytes in every layer.

    ``complete`` where every place ran.
    """

    model: str
    reference: str
    numerics: str
    samples: int
    same: bool
    complete: bool
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class _Case:
    chosen: BoardModel
    portable: Generated
    on_board: Generated
    reference: Reference
    compiler: Literal["gcc", "zig"] | None
    folder: Path


def compare(path: Path, options: BoardOptions) -> ParityDocument:
    """Compare a model's layers in all places; where a program is missing, the place is told as not run.

    Raises:
        EdgeFleetError: the model cannot be used, no C can be written for it, or it does not fit the board.
    """
    chosen = open_for_board(path, options.profile, options.numerics)
    portable, on_board = _generated(chosen, "portable"), _generated(chosen, kernel_set(chosen.profile))
    check_memory(on_board, chosen.profile)
    reference = reference_layers(chosen.model, chosen.numerics, samples_for(path, portable.inputs))
    with tempfile.TemporaryDirectory(prefix="edgefleet-parity-") as folder:
        case = _Case(chosen, portable, on_board, reference, options.compiler, Path(folder))
        comparisons = tuple(_compared(case, where, run) for where, run in _places(case))
    return ParityDocument(
        model=path.name,
        reference="TFLM" if chosen.numerics == "tflm/1" else "LiteRT, reference kernels",
        numerics=chosen.numerics,
        samples=reference.samples,
        same=all(comparison.result != "different" for comparison in comparisons),
        complete=all(comparison.result != "not-run" for comparison in comparisons),
        comparisons=comparisons,
    )


def _generated(chosen: BoardModel, kernels: KernelSet) -> Generated:
    return generate(chosen.model, name=chosen.name, target=Target(chosen.numerics, kernels))


def _places(case: _Case) -> Iterator[tuple[str, Callable[[], LayerOutputs]]]:
    yield "this machine, generated C", lambda: _native(case, "host")
    yield "arm64 Linux, generated C", lambda: _native(case, "aarch64")
    if case.chosen.numerics == "litert/1":
        yield "arm64 Linux, LiteRT reference kernels", lambda: _litert_on_arm(case)
    yield f"{case.chosen.profile.id}, generated C", lambda: _on_board(case)


def _native(case: _Case, machine: Machine) -> LayerOutputs:
    program = build_native(case.portable, machine=machine, folder=case.folder / f"build-{machine}")
    inputs, samples = case.reference.sample_bytes(), case.reference.samples
    done = run_native(program, inputs, samples, folder=case.folder / f"run-{machine}")
    return _by_tensor(case, case.portable, done.layers)


def _on_board(case: _Case) -> LayerOutputs:
    board, generated = case.chosen.profile, case.on_board
    image = build_inference(
        generated,
        profile=board,
        toolchain=find_toolchain(board.cpu, prefer=case.compiler),
        folder=case.folder / "build-board",
        keep_layers=True,
    )
    inputs, samples = case.reference.sample_bytes(), case.reference.samples
    done = run_inference(image, inputs, samples, folder=case.folder / "run-board", counting=False)
    return _by_tensor(case, generated, done.layers)


def _litert_on_arm(case: _Case) -> LayerOutputs:
    from fleet_emulation.linux_devices.inference import infer_in_user_mode
    from fleet_emulation.linux_devices.user_mode import arm_python

    reference = case.reference
    answers = infer_in_user_mode(arm_python(), reference.model, reference.inputs, kernels="reference")
    return {number: list(values) for number, values in zip(reference.numbers, answers, strict=True)}


def _by_tensor(case: _Case, generated: Generated, layers: Sequence[Sequence[bytes]]) -> LayerOutputs:
    """Return what layers made by their tensors' numbers: where several write one tensor, it is whole after the last."""
    made: dict[int, list[Array]] = {}
    for place, facts in enumerate(generated.layers):
        if facts.value is None or facts.value not in case.reference.layers:
            continue
        like = case.reference.layers[facts.value][0]
        made[facts.value] = [_tensor(generated, facts.value, sample[place], like) for sample in layers]
    return made


def _tensor(generated: Generated, number: int, data: bytes, like: Array) -> Array:
    """Return a layer's output as the model has it: with the channels that the code left out, as proved."""
    narrowed = generated.narrowed.get(number)
    if narrowed is None:
        return np.frombuffer(data, like.dtype).reshape(like.shape)
    return narrowed.widened(np.frombuffer(data, np.int8).reshape(*like.shape[:-1], len(narrowed.kept)))


def _compared(case: _Case, where: str, run: Callable[[], LayerOutputs]) -> Comparison:
    try:
        made = run()
    except (MissingProgramError, UnreachableError) as error:
        return Comparison(where=where, result="not-run", why=f"{error.message}; {error.hint}")
    found = next(_differences(case, made), None)
    return Comparison(where=where, result="different" if found else "same", layers=len(made), difference=found)


def _differences(case: _Case, made: LayerOutputs) -> Iterator[Difference]:
    """Yield what differs, in the order of execution."""
    makers = {facts.value: f"{facts.operator} {facts.operator_name}" for facts in case.portable.layers}
    for number in _in_order(case, made):
        for sample, (expected, got) in enumerate(zip(case.reference.layers[number], made[number], strict=True)):
            wrong = np.flatnonzero(
                expected.ravel().view(f"V{expected.itemsize}") != got.ravel().view(f"V{got.itemsize}")
            )
            if len(wrong):
                first = int(wrong[0])
                yield Difference(
                    operator=makers.get(number, "an operator"),
                    tensor=case.reference.names[number],
                    sample=sample,
                    elements=len(wrong),
                    of=expected.size,
                    first=first,
                    expected=float(expected.ravel()[first]),
                    got=float(got.ravel()[first]),
                )


def _in_order(case: _Case, made: LayerOutputs) -> list[int]:
    executed = [facts.value for facts in case.portable.layers if facts.value in made]
    rest = [number for number in made if number not in executed]
    return [number for number in dict.fromkeys([*executed, *rest]) if number is not None]
