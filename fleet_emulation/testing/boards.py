# SPDX-License-Identifier: Apache-2.0
"""Emulated boards for tests: a model or C sources in, outputs and exact costs out."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from converter.c.core.program import Value
from edgefleet.boards.counting import CountLog, Counts
from edgefleet.boards.emulator import boot
from edgefleet.boards.images import Image
from edgefleet.boards.inference import Inference, InferenceImage, run_inference
from edgefleet.boards.stack import stack_bound
from edgefleet.contracts.errors import BoardError, BuildError, InputError, MissingProgramError
from edgefleet.contracts.profile import Profile
from edgefleet.version import __version__
from fleet_emulation.testing.answering import AnsweringBoard
from fleet_emulation.testing.live_board import LiveBoard
from fleet_emulation.testing.measured import Measured, Origin
from fleet_emulation.testing.reference import check_batch
from fleet_emulation.testing.result import Array, Layer, Result
from fleet_emulation.testing.serial_line import SerialLine
from fleet_emulation.testing.workshop import BoardOptions, Model, Workshop, key_of, toolchain_for

#: What a program of C sources writes for :attr:`Result.outputs`.
OUTPUTS = "outputs"
#: What a program that marks no run is linked without.
_MARKERS = "ef_marker"


class Board(ABC):
    """One emulated board; see :meth:`EdgeFleet.board`. ``run`` measures; ``start`` keeps it on."""

    def __init__(self, profile: Profile, name: str, workshop: Workshop, options: BoardOptions) -> None:
        self.profile = profile
        self.label = f"{name} on {profile.id}"
        self._workshop = workshop
        self._options = options
        self._followers: list[Callable[[Result], None]] = []

    def follow(self, tell: Callable[[Result], None]) -> None:
        """Tell somebody of every run."""
        self._followers.append(tell)

    @property
    def on(self) -> bool:
        """Tell whether it is on: started, and not ended."""
        return self._is_made and self._live.on

    @property
    def pid(self) -> int:
        """The process id of its QEMU."""
        return self._live.pid

    @property
    def uart(self) -> SerialLine:
        """Its first serial port, while it is on."""
        return self._live.uart

    @property
    def text(self) -> str:
        """What it printed by semihosting since it was started."""
        return self._live.text if self._is_made else ""

    def start(self) -> None:
        """Switch it on, with nothing in its memory.

        Raises:
            MissingProgramError: QEMU or a compiler is not installed.
            EdgeFleetError: the program cannot be built or started.
        """
        self._live.start()

    def reset(self) -> None:
        """Begin anew, as after a press on the reset button: here memory is lost too."""
        self.cut_power()
        self.start()

    def cut_power(self) -> None:
        """End it at once; one that is off stays off."""
        if self._is_made:
            self._live.cut_power()

    def close(self) -> None:
        """End it."""
        self.cut_power()

    @property
    def _is_made(self) -> bool:
        return "_live" in self.__dict__

    @cached_property
    @abstractmethod
    def _live(self) -> LiveBoard:
        """The board that stays on."""

    def _sizes(self, image: Image) -> tuple[dict[str, int], dict[str, str]]:
        """Return the figures of an image, and why one is missing."""
        sizes = {"flash_bytes": image.flash_bytes, "ram_bytes": image.ram_bytes}
        try:
            bound = stack_bound(image, toolchain_for(self.profile, self._options))
        except MissingProgramError as error:
            return sizes, {"stack_bound_bytes": error.message}
        except BuildError:  # recursion, or calls through pointers that nobody knows: there is no bound
            return sizes, {}
        return {"stack_bound_bytes": bound.bytes, **sizes}, {}

    def _told(self, result: Result) -> Result:
        for tell in self._followers:
            tell(result)
        return result


class SourcesBoard(Board):
    """A board with a program of C sources."""

    def __init__(
        self, profile: Profile, sources: Sequence[Path], name: str, workshop: Workshop, options: BoardOptions
    ) -> None:
        super().__init__(profile, name, workshop, options)
        self._sources = tuple(sources)

    @cached_property
    def image(self) -> Image:
        """The built program."""
        return self._workshop.sources(self.profile, self._sources, self._options)

    @cached_property
    def _live(self) -> LiveBoard:
        return LiveBoard(self.profile, self.image)

    def run(self, files: Mapping[str, bytes] | None = None, *, exit_code: int | None = 0) -> Result:
        """Run the program to its end, and count what lies between BOARD_RUN_BEGIN and BOARD_RUN_END of board.h.

        ``files`` are there for it by semihosting. What it writes into the file "outputs" becomes the outputs, as bytes.
        ``exit_code`` is what it must end with; None lets it end with any.

        Raises:
            MissingProgramError: QEMU or a compiler is not installed.
            BudgetError: the program does not fit the board.
            BoardError: it does not end in time, faults, or ends with another exit code.
            EdgeFleetError: it does not compile or link.
        """
        folder = self._workshop.own_folder()
        for name, data in (files or {}).items():
            (folder / name).write_bytes(data)
        with boot(
            self.image,
            self.profile,
            folder=folder,
            counting=_MARKERS in self.image.symbols,
            timeout_s=self._options.timeout_s,
        ) as board:
            ended_with = board.wait()
            log, text = board.counts(), board.output
        if exit_code not in (None, ended_with):
            raise BoardError(
                f"{self.label} ended with exit code {ended_with}, not {exit_code}",
                hint=f"it printed {text.strip().splitlines()[-1]!r}" if text.strip() else "it printed nothing",
            )
        written = folder / OUTPUTS
        outputs = np.frombuffer(written.read_bytes() if written.exists() else b"", np.uint8)
        inputs = hashlib.sha256(repr(sorted((files or {}).items())).encode()).hexdigest()
        sizes, missing = self._sizes(self.image)
        measured = Measured(
            key=key_of(self.image.key),
            origin=Origin(build="sources", inputs_sha256=inputs, edgefleet=__version__),
            figures={**_counted(log), **sizes},
            missing=missing,
        )
        return self._told(
            Result(
                label=self.label,
                outputs=outputs,
                measured=measured,
                text=text,
                exit_code=ended_with,
            )
        )


def _counted(log: CountLog) -> dict[str, int]:
    """Return the figures of the most expensive run; none where nothing was marked."""
    found: dict[str, int] = {}
    if log.runs:
        most = log.runs[0].total
        for run in log.runs[1:]:
            most = most.most(run.total)
        found = {"instructions": most.instructions, "loads": most.loads, "stores": most.stores}
    if log.init is not None:
        found["init_instructions"] = log.init.instructions
    deepest = [counts.stack_bytes for counts in (log.init, *(run.total for run in log.runs)) if counts is not None]
    return {**found, **({"stack_bytes": max(deepest)} if deepest else {})}


def _layers(most: Sequence[Counts], names: Sequence[str]) -> tuple[Layer, ...]:
    return tuple(
        Layer(name=name, instructions=counts.instructions, loads=counts.loads, stores=counts.stores)
        for counts, name in zip(most, names, strict=True)
    )


class ModelBoard(Board):
    """A board with an int8 model, as generated C."""

    def __init__(self, profile: Profile, model: Model, workshop: Workshop, options: BoardOptions) -> None:
        super().__init__(profile, model.name, workshop, options)
        self._model = model

    @cached_property
    def _live(self) -> AnsweringBoard:
        return AnsweringBoard(self.profile, self._workshop.answering(self.profile, self._model, self._options))

    @cached_property
    def image(self) -> InferenceImage:
        """The built program that runs a batch."""
        return self._workshop.inference(self.profile, self._model, self._options)

    def run(self, inputs: Array | Sequence[Array]) -> Result:
        """Run a batch, each sample with fresh state variables, and count.

        ``inputs`` has the samples along its first axis and the model's own type; several inputs are one array each.

        Raises:
            InputError: the inputs are not of the model's.
            UnsupportedModelError: the model cannot be written as C.
            BudgetError: the program does not fit the board.
            MissingProgramError: QEMU or a compiler is not installed.
            BoardError: the board hangs, faults, or answers what cannot be read.
        """
        generated = self._workshop.generate(self.profile, self._model, self._options)
        arrays = [np.asarray(inputs)] if len(generated.inputs) == 1 else [np.asarray(array) for array in inputs]
        samples, data = packed(arrays, generated.inputs)
        done = run_inference(
            self.image, data, samples, folder=self._workshop.own_folder(), timeout_s=self._options.timeout_s
        )
        outputs = unpacked(done.outputs, samples, generated.outputs)
        return self._told(
            Result(
                label=self.label,
                outputs=outputs[0] if len(outputs) == 1 else outputs,
                measured=self._measured(done, data),
                layers=_layers(done.most_by_layer, [layer.note for layer in generated.layers]),
            )
        )

    def _measured(self, done: Inference, data: bytes) -> Measured:
        most, built = done.most, self.image.image
        generated = self._workshop.generate(self.profile, self._model, self._options)
        figures = {
            "instructions": most.instructions,
            "loads": most.loads,
            "stores": most.stores,
            "init_instructions": done.init.instructions if done.init is not None else 0,
            "stack_bytes": done.stack_bytes,
        }
        origin = Origin(
            build="updatable" if self._options.updatable else "static",
            model_sha256=self._model.sha256,
            inputs_sha256=hashlib.sha256(data).hexdigest(),
            numerics=generated.target.numerics,
            edgefleet=__version__,
        )
        sizes, missing = self._sizes(built)
        return Measured(key=key_of(built.key), origin=origin, figures={**figures, **sizes}, missing=missing)

    def start(self) -> None:
        """Switch it on, and wait until it answers inferences over its serial port: see :meth:`infer`."""
        super().start()
        self._live.wait_until_up()

    def infer(self, sample: Array) -> Array:
        """Return the model's raw output to one sample from a board that stays on; neither has the first axis.

        Raises:
            InputError: the sample is not of the model's input.
            UnreachableError: the board is off, or does not answer in time.
        """
        return self._live.infer(sample)


def packed(arrays: Sequence[Array], specs: Sequence[Value]) -> tuple[int, bytes]:
    """Return the number of samples, and their bytes: each sample's inputs one after the other.

    Raises:
        InputError: the arrays are not of the model's inputs.
    """
    if len(arrays) != len(specs):
        raise InputError(
            f"{len(arrays)} inputs were given, and the model takes {len(specs)}", hint="give one array each"
        )
    for array, spec in zip(arrays, specs, strict=True):
        check_batch(array, spec.dtype, spec.shape)
    samples = len(arrays[0])
    if any(len(array) != samples for array in arrays):
        raise InputError("the inputs have different numbers of samples", hint="give as many samples of each input")
    raw = [np.ascontiguousarray(array).reshape(samples, -1).view(np.uint8) for array in arrays]
    return samples, np.concatenate(raw, axis=1).tobytes()


def unpacked(data: bytes, samples: int, specs: Sequence[Value]) -> tuple[Array, ...]:
    """Return each output of a batch, samples along the first axis.

    Raises:
        BoardError: there are more or fewer bytes.
    """
    sizes = [int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize for spec in specs]
    if len(data) != samples * sum(sizes):
        raise BoardError(
            f"the board answered {samples} samples with {len(data):,} bytes, not {samples * sum(sizes):,}",
            hint="build the image again",
        )
    raw = np.frombuffer(data, np.uint8).reshape(samples, -1)
    ends = np.cumsum(sizes)
    parts = [raw[:, end - size : end] for end, size in zip(ends, sizes, strict=True)]
    return tuple(
        np.ascontiguousarray(part).view(spec.dtype).reshape(samples, *spec.shape[1:])
        for part, spec in zip(parts, specs, strict=True)
    )
