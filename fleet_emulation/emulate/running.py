# SPDX-License-Identifier: Apache-2.0
"""Run a model on an emulated board: generate, build, boot, and count what an inference costs."""

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from converter.adapters.imports.model_files import read_quantized
from converter.adapters.output_files import write_whole
from converter.adapters.settings import read_batches
from converter.c.core.names_in_c import c_name
from converter.c.core.program import Target
from converter.c.generate import Generated, LayerFacts, generate
from edgefleet.boards.cost import CostModel, assumed_cost, read_cost
from edgefleet.boards.counting import Counts
from edgefleet.boards.inference import Inference, InferenceImage, build_inference, run_inference
from edgefleet.boards.prediction import Prediction, predict
from edgefleet.boards.toolchains import Toolchain, find_toolchain
from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.errors import IncompatibleError
from edgefleet.contracts.manifest import Fact, Numerics
from edgefleet.contracts.profile import Profile, kernel_set
from firmware_profiles.loader import load_profile
from fleet_emulation.emulate.batches import batch_bytes, first_output

_SUFFIX = ".bundle"
_MAKE_ANOTHER = "name a microcontroller's profile with --profile; 'edgefleet profiles list' shows them"


@dataclass(frozen=True)
class BoardOptions:
    """How a model is to be tried: on which board, with which compiler, as which kind of firmware."""

    profile: str | None = None
    numerics: Numerics | None = None
    compiler: Literal["gcc", "zig"] | None = None
    updatable: bool = False
    reset_state: Literal["each", "never"] = "each"
    cost: Path | None = None


class LayerCost(Fact, frozen=True, kw_only=True):
    """What one layer costs, in the most expensive sample."""

    operator: str
    variant: str
    instructions: int
    loads: int
    stores: int


class BoardRun(Fact, frozen=True, kw_only=True):
    """What a batch on a board gave and cost.

    ``instructions``, ``loads`` and ``stores`` (in words) are those of one inference, the largest of the batch;
    ``flash_bytes`` is the whole image, ``model_bytes`` the blob in it; ``ram_bytes`` is everything but the stack.
    ``cycles`` is what a cost model makes of the counts; ``cost_model`` says whether it is calibrated, and on what.
    ``predicted`` is what was known before the build, where the compiler's sizes are known.
    """

    output: str
    samples: int
    profile: str
    compiler: str
    kernels: str
    numerics: str
    updatable: bool
    instructions: int
    loads: int
    stores: int
    init_instructions: int
    stack_bytes: int
    flash_bytes: int
    ram_bytes: int
    model_bytes: int
    code_bytes: int
    arena_bytes: int
    cycles: int
    cost_model: str
    predicted: Prediction | None
    layers: tuple[LayerCost, ...]


@dataclass(frozen=True)
class BoardModel:
    """A model, and what it is to run on."""

    name: str
    model: bytes
    profile: Profile
    numerics: Numerics


def run_on_board(path: Path, batch: Path, output: Path, options: BoardOptions) -> BoardRun:
    """Run a bundle's model, or an int8 model, on a batch, and write its first output.

    Raises:
        EdgeFleetError: a file that cannot be used, a model that no C can be written for or that does not fit the board,
            a missing compiler or emulator, a board that hangs or answers with garbage.
    """
    chosen = open_for_board(path, options.profile, options.numerics)
    cost = assumed_cost(chosen.profile.id) if options.cost is None else read_cost(options.cost)
    generated = generate(chosen.model, name=chosen.name, target=Target(chosen.numerics, kernel_set(chosen.profile)))
    batches = read_batches(batch, [value.name for value in generated.inputs])
    inputs, samples = batch_bytes(batches, generated.inputs), len(batches[0])
    toolchain = find_toolchain(chosen.profile.cpu, prefer=options.compiler)
    with tempfile.TemporaryDirectory(prefix="edgefleet-emulate-") as name:
        folder = Path(name)
        image = build_inference(
            generated,
            profile=chosen.profile,
            toolchain=toolchain,
            folder=folder / "build",
            updatable=options.updatable,
        )
        reset_each = options.reset_state == "each"
        done = run_inference(image, inputs, samples, folder=folder / "run", reset_each=reset_each)
    answers = first_output(done.outputs, samples, generated.outputs)
    content = io.BytesIO()
    np.save(content, answers, allow_pickle=False)
    write_whole(output, content.getvalue())
    return BoardRun(
        output=str(output),
        samples=samples,
        profile=chosen.profile.id,
        kernels=generated.target.kernel_set,
        numerics=chosen.numerics,
        updatable=options.updatable,
        arena_bytes=generated.arena_bytes,
        predicted=predicted(generated, chosen.profile, toolchain, updatable=options.updatable),
        **_image_figures(image),
        **_counts(done, cost),
        layers=tuple(map(_layer, generated.layers, done.most_by_layer)),
    )


def predicted(
    generated: Generated, profile: Profile, toolchain: Toolchain | None = None, *, updatable: bool = False
) -> Prediction | None:
    """Return what an image of generated code will take, or nothing where the compiler's sizes are not known."""
    return predict(
        [layer.variant for layer in generated.layers],
        blob_bytes=len(generated.blob),
        arena_bytes=generated.arena_bytes,
        cpu=profile.cpu,
        toolchain=toolchain,
        updatable=updatable,
    )


def _image_figures(image: InferenceImage) -> dict[str, Any]:
    return {
        "compiler": f"{image.image.key.compiler} {image.image.key.version}",
        "flash_bytes": image.image.flash_bytes,
        "ram_bytes": image.image.ram_bytes,
        "model_bytes": image.blob_bytes,
        "code_bytes": image.besides_bytes,
    }


def _counts(done: Inference, cost: CostModel) -> dict[str, Any]:
    most = done.most
    return {
        "instructions": most.instructions,
        "loads": most.loads,
        "stores": most.stores,
        "init_instructions": done.init.instructions if done.init else 0,
        "stack_bytes": done.stack_bytes,
        "cycles": cost.cycles(most),
        "cost_model": cost.describe(),
    }


def _layer(facts: LayerFacts, counts: Counts) -> LayerCost:
    return LayerCost(
        operator=f"{facts.operator} {facts.operator_name}",
        variant=facts.variant,
        instructions=counts.instructions,
        loads=counts.loads,
        stores=counts.stores,
    )


def open_for_board(path: Path, profile: str | None, numerics: Numerics | None = None) -> BoardModel:
    """Read a bundle or an int8 model, and settle its board and how it rounds: as asked, or as the bundle or board says.

    Raises:
        FileMissingError, BundleError: the file cannot be used.
        IncompatibleError: the board is no microcontroller that can be emulated, or none is named.
    """
    if path.suffix != _SUFFIX:
        if profile is None:
            raise IncompatibleError(f"'{path}' is a model and names no board", hint=_MAKE_ANOTHER)
        board = _emulated(load_profile(profile))
        return BoardModel(c_name(path.stem), read_quantized(path), board, numerics or board.runtime.numerics)
    bundle = open_bundle(path)
    manifest = bundle.manifest
    if manifest.runtime.accelerator is not None:
        raise IncompatibleError(
            f"'{path.name}' is compiled for the NPU '{manifest.runtime.accelerator.id}', which QEMU does not have",
            hint="convert the model for a board without an accelerator",
        )
    board = _emulated(load_profile(profile or manifest.profile.id))
    return BoardModel(c_name(manifest.name), bundle.read(manifest.model), board, numerics or manifest.runtime.numerics)


def _emulated(profile: Profile) -> Profile:
    if profile.runtime.kind != "tflm":
        raise IncompatibleError(f"the board '{profile.id}' is no microcontroller", hint=_MAKE_ANOTHER)
    if profile.emulator is None:
        raise IncompatibleError(
            f"QEMU has no machine for '{profile.id}': its code is compiled and not run",
            hint="run it on an emulated board with the same kernels: " + _relatives(profile),
        )
    return profile


def _relatives(profile: Profile) -> str:
    from firmware_profiles.loader import list_profiles

    alike = [
        other.id
        for other in list_profiles()
        if other.emulator is not None and other.runtime.kernels == profile.runtime.kernels and not other.accelerator
    ]
    return ", ".join(alike)
