# SPDX-License-Identifier: Apache-2.0
"""A generated model on an emulated board: a batch of samples in, outputs and exact counts out.

Tensors travel as files by semihosting, in the bytes that the model takes and gives. The harness is
``firmware/boards/inference.c``: generated code, kernels and less than 1 kB of its own.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from edgefleet.boards.counting import CountLog, Counts
from edgefleet.boards.emulator import Board, boot
from edgefleet.boards.firmware_files import firmware_folder
from edgefleet.boards.images import Image, build
from edgefleet.boards.toolchains import Toolchain
from edgefleet.contracts.errors import BoardError, InputError, StorageError
from edgefleet.contracts.profile import Profile

_RESET_EACH = 1
_LAYER_OUTPUTS_SOURCE = "runtime/layer_outputs.c"
#: Much more than any generated model has been seen to use; :mod:`edgefleet.boards.stack` says how much one does.
_STACK_BYTES = 2048
#: What the harness ends with, plus an ef_status of firmware/kernels/include/edgefleet/model.h.
_STAGES = {10: "refused the model", 20: "could not bind the arena", 30: "stopped in an inference", 40: "lost its files"}
_REASONS = ("", "bad blob", "missing kernel", "arena too small", "stopped")


class GeneratedLayer(Protocol):
    """One layer of generated code."""

    @property
    def output_bytes(self) -> int:
        """Bytes of its first output."""


class GeneratedCode(Protocol):
    """What the generator makes of a model (``converter.c.generate.Generated``)."""

    @property
    def name(self) -> str:
        """The C name of the program."""

    @property
    def sources(self) -> Mapping[str, str]:
        """The generated files."""

    @property
    def kernel_sources(self) -> tuple[str, ...]:
        """The files of ``firmware/kernels`` that they call."""

    @property
    def blob(self) -> bytes:
        """The model blob."""

    @property
    def arena_bytes(self) -> int:
        """Tensors, scratch and state."""

    @property
    def layers(self) -> Sequence[GeneratedLayer]:
        """The layers of an inference, in order."""


@dataclass(frozen=True)
class InferenceImage:
    """An image that runs one model over a batch; ``layer_bytes`` is set where it writes its layers' outputs."""

    image: Image
    profile: Profile
    blob_bytes: int
    layer_bytes: tuple[int, ...] | None

    @property
    def besides_bytes(self) -> int:
        """Flash that is not the model: kernels, generated code, start-up and harness."""
        return self.image.flash_bytes - self.blob_bytes


@dataclass(frozen=True)
class Inference:
    """What a batch brought: ``outputs`` sample after sample, counts of each sample and of each of its layers.

    ``layers`` holds the output of each layer of each sample, where the image keeps them.
    """

    outputs: bytes
    init: Counts | None
    counts: tuple[Counts, ...]
    layer_counts: tuple[tuple[Counts, ...], ...]
    layers: tuple[tuple[bytes, ...], ...] = ()

    @property
    def most(self) -> Counts:
        """The largest of each figure in the batch."""
        return functools.reduce(Counts.most, self.counts)

    @property
    def most_by_layer(self) -> tuple[Counts, ...]:
        """The same for each layer."""
        return tuple(functools.reduce(Counts.most, layer) for layer in zip(*self.layer_counts, strict=True))

    @property
    def stack_bytes(self) -> int:
        """The deepest stack of all, the initialisation included, from the top of the image's stack."""
        return max(counts.stack_bytes for counts in (self.init, *self.counts) if counts is not None)


def build_inference(
    generated: GeneratedCode,
    *,
    profile: Profile,
    toolchain: Toolchain,
    folder: Path,
    updatable: bool = False,
    keep_layers: bool = False,
) -> InferenceImage:
    """Build the harness around a generated model; ``folder`` gets the sources and the image.

    Raises:
        BudgetError: it is too large for the board.
        BuildError: it does not compile or link.
        StorageError: ``folder`` cannot be written.
    """
    sources = sorted(
        [*write_generated(generated, folder), firmware_folder() / "boards" / "inference.c"], key=_is_kernel
    )
    if keep_layers:
        sources.append(firmware_folder() / "kernels" / _LAYER_OUTPUTS_SOURCE)
    image = build(
        sources,
        profile=profile,
        toolchain=toolchain,
        folder=folder,
        defines=_defines(generated, updatable=updatable, keep_layers=keep_layers),
        includes=(folder,),
        stack_bytes=_STACK_BYTES,
    )
    layer_bytes = tuple(layer.output_bytes for layer in generated.layers) if keep_layers else None
    return InferenceImage(image, profile, len(generated.blob), layer_bytes)


def _is_kernel(source: Path) -> bool:
    """Kernels are linked last: what lies before them calls each other over short distances, whatever the model."""
    return source.parent.parent == firmware_folder() / "kernels" and source.parent.name != "runtime"


def _defines(generated: GeneratedCode, *, updatable: bool, keep_layers: bool) -> dict[str, str]:
    defines = {
        "EF_MODEL": generated.name,
        "EF_MODEL_HEADER": f'"{generated.name}.h"',
        "EF_MODEL_ARENA_BYTES": str(generated.arena_bytes),
    }
    if updatable:
        blob = {"EF_MODEL_BLOB": f"{generated.name}_blob", "EF_MODEL_BLOB_BYTES": str(len(generated.blob))}
        defines |= {"EF_UPDATABLE": "1", **blob}
    return {**defines, "EF_KEEP_LAYERS": "1"} if keep_layers else defines


def write_generated(generated: GeneratedCode, folder: Path) -> list[Path]:
    """Write generated code into a folder; return all that must be compiled: that code and its kernels.

    Raises:
        StorageError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in generated.sources.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"cannot write into '{folder}': {error.strerror or error}", hint="name another folder"
        ) from error
    own = [folder / name for name in generated.sources if not name.endswith(".h")]
    return own + [firmware_folder() / "kernels" / name for name in generated.kernel_sources]


def run_inference(
    image: InferenceImage,
    inputs: bytes,
    samples: int,
    *,
    folder: Path,
    reset_each: bool = True,
    counting: bool = True,
    timeout_s: float = 120.0,
) -> Inference:
    """Run a batch: ``inputs`` is each sample's inputs one after the other; ``folder`` is private to this run.

    ``reset_each`` puts state variables back to their first values before each sample.

    Raises:
        InputError: there are no samples.
        MissingProgramError: QEMU is missing, or for counting a compiler for this machine.
        BoardError: the board hung, faulted, refused the model, or answered for another number of samples.
    """
    if samples < 1 or len(inputs) % samples:
        raise InputError(f"{len(inputs)} bytes are no {samples} samples", hint="give at least one whole sample")
    folder.mkdir(parents=True, exist_ok=True)
    flags = _RESET_EACH if reset_each else 0
    (folder / "inputs").write_bytes(flags.to_bytes(4, "little") + inputs)
    with boot(image.image, image.profile, folder=folder, counting=counting, timeout_s=timeout_s) as board:
        _check_exit(board.wait(), board)
        log = board.counts()
    outputs = _written(folder / "outputs")
    layers = _written(folder / "layers") if image.layer_bytes is not None else b""
    _check_answer(image, samples, outputs, layers, log if counting else None)
    return Inference(
        outputs=outputs,
        init=log.init,
        counts=tuple(run.total for run in log.runs),
        layer_counts=tuple(run.layers for run in log.runs),
        layers=cut_layers(layers, image.layer_bytes, samples) if image.layer_bytes else (),
    )


def _written(path: Path) -> bytes:
    """What a board wrote: nothing, where it never came that far."""
    return path.read_bytes() if path.exists() else b""


def cut_layers(data: bytes, sizes: Sequence[int], samples: int) -> tuple[tuple[bytes, ...], ...]:
    """Return each layer's output of each sample; they lie one behind the other."""
    ends = list(accumulate(sizes))
    whole = ends[-1] if ends else 0
    return tuple(
        tuple(data[base + end - size : base + end] for size, end in zip(sizes, ends, strict=True))
        for base in range(0, whole * samples, max(whole, 1))
    )


def _check_exit(code: int, board: Board) -> None:
    if code == 0:
        return
    stage, reason = _STAGES.get(code // 10 * 10), code % 10
    said = board.output.strip()[:120]
    if stage is None or reason >= len(_REASONS):
        what = f"ended with {code}, which means nothing" + (f"; it said {said!r}" if said else "")
    else:
        what = stage + "".join(f": {part}" for part in (_REASONS[reason], said) if part)
    raise BoardError(
        f"the board '{board.profile.id}' {what}", hint="build the image again, from code generated for this board"
    )


def _check_answer(image: InferenceImage, samples: int, outputs: bytes, layers: bytes, log: CountLog | None) -> None:
    expected_layers = sum(image.layer_bytes) * samples if image.layer_bytes else 0
    if not outputs or len(outputs) % samples or len(layers) != expected_layers:
        got = f"{len(outputs):,} bytes of outputs and {len(layers):,} of layers"
        raise BoardError(
            f"the board '{image.profile.id}' answered {samples} samples with {got}",
            hint="give whole samples of the model's input type, and room on the disk",
        )
    if log is not None and (len(log.runs) != samples or log.init is None):
        raise BoardError(
            f"the board '{image.profile.id}' counted {len(log.runs)} inferences of {samples}", hint="run it again"
        )
