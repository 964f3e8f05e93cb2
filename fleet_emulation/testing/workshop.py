# SPDX-License-Identifier: Apache-2.0
"""Where images for tests are made: once for each program, profile and compiler."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from converter.c.core.program import Target
from converter.c.generate import Generated, generate
from edgefleet.boards.firmware_files import firmware_folder
from edgefleet.boards.images import BuildKey, Image, build
from edgefleet.boards.inference import InferenceImage, build_inference, write_generated
from edgefleet.boards.toolchains import Toolchain, find_toolchain
from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.errors import InputError
from edgefleet.contracts.files import read_file
from edgefleet.contracts.manifest import Numerics
from edgefleet.contracts.profile import Profile, kernel_set
from fleet_emulation.testing.answering import Firmware
from fleet_emulation.testing.measured import Key

Compiler = Literal["gcc", "zig"]
_C_NAME = "tested_model"


@dataclass(frozen=True, kw_only=True)
class BoardOptions:
    """How a program is built and run; ``compiler`` None takes the one that is installed.

    Raises:
        InputError: numerics or a compiler that there is not.
    """

    numerics: Numerics | None = None
    updatable: bool = False
    compiler: Compiler | None = None
    timeout_s: float = 60.0
    includes: tuple[Path, ...] = ()
    defines: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, given, known in (
            ("numerics", self.numerics, get_args(Numerics)),
            ("a compiler", self.compiler, get_args(Compiler)),
        ):
            if given is not None and given not in known:
                raise InputError(f"{given!r} is not {what}", hint=f"known: {', '.join(known)}")


@dataclass(frozen=True)
class Model:
    """A model's bytes, what it is called, and the numerics that it was proved in, where it says so."""

    name: str
    data: bytes
    numerics: Numerics | None = None

    @property
    def sha256(self) -> str:
        """The hash of its file."""
        return hashlib.sha256(self.data).hexdigest()


def load(model: Path | str | bytes | None, bundle: Path | str | None, name: str | None = None) -> Model:
    """Read a model, or the one in a bundle.

    Raises:
        InputError: not exactly one of them is given.
        FileMissingError, BundleError: it cannot be read, or is no bundle.
    """
    if (model is None) == (bundle is None):
        raise InputError("a board runs a model or a bundle's: give exactly one", hint="model=… or bundle=…")
    if bundle is not None:
        opened = open_bundle(Path(bundle))
        manifest = opened.manifest
        own = f"{manifest.name} {manifest.version}"
        return Model(name or own, opened.read(manifest.model), manifest.runtime.numerics)
    if isinstance(model, bytes):
        return Model(name or "model", model)
    assert model is not None  # noqa: S101  # one of the two is given
    return Model(name or Path(model).stem, read_file(Path(model), "the model"))


class Workshop:
    """Makes images in a folder of its own; the same one is made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._generated: dict[tuple[str, Target], Generated] = {}
        self._answering: dict[tuple[str, str, Target, str], Firmware] = {}

    def own_folder(self) -> Path:
        """Return a new folder: boards that share one would read each other's files."""
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        return folder

    def sources(self, profile: Profile, sources: Sequence[Path], options: BoardOptions) -> Image:
        """Build a program of C sources; they may include EdgeFleet's board.h, uart.h and kernels.

        Raises:
            MissingProgramError: no compiler is installed.
            EdgeFleetError: it does not compile, link or fit.
        """
        return build(
            sources,
            profile=profile,
            toolchain=toolchain_for(profile, options),
            folder=self.own_folder(),
            defines=options.defines,
            includes=options.includes,
        )

    def generate(self, profile: Profile, model: Model, options: BoardOptions) -> Generated:
        """Return a model as C for a board.

        Raises:
            UnsupportedModelError: it cannot be written as C.
        """
        numerics = options.numerics or model.numerics or profile.runtime.numerics
        place = (model.sha256, Target(numerics, kernel_set(profile)))
        if place not in self._generated:
            self._generated[place] = generate(model.data, name=_C_NAME, target=place[1])
        return self._generated[place]

    def inference(self, profile: Profile, model: Model, options: BoardOptions) -> InferenceImage:
        """Build the firmware that runs a batch and counts.

        Raises:
            EdgeFleetError: as :meth:`sources` and :meth:`generate`.
        """
        return build_inference(
            self.generate(profile, model, options),
            profile=profile,
            toolchain=toolchain_for(profile, options),
            folder=self.own_folder(),
            updatable=options.updatable,
        )

    def answering(self, profile: Profile, model: Model, options: BoardOptions) -> Firmware:
        """Build the firmware that stays on and answers over the serial port.

        Raises:
            InputError: the model has several inputs or outputs.
            EdgeFleetError: as :meth:`sources` and :meth:`generate`.
        """
        generated = self.generate(profile, model, options)
        toolchain = toolchain_for(profile, options)
        place = (profile.id, model.sha256, generated.target, toolchain.kind)
        if place not in self._answering:
            self._answering[place] = self._build_answering(profile, generated, toolchain)
        return self._answering[place]

    def _build_answering(self, profile: Profile, generated: Generated, toolchain: Toolchain) -> Firmware:
        (given, *more_inputs), (answered, *more_outputs) = generated.inputs, generated.outputs
        if more_inputs or more_outputs:
            raise InputError(
                f"the model has {len(generated.inputs)} inputs and {len(generated.outputs)} outputs",
                hint="boards that answer over a serial port take models with one of each",
            )
        folder = self.own_folder()
        image = build(
            [firmware_folder() / "boards" / "answering.c", *write_generated(generated, folder)],
            profile=profile,
            toolchain=toolchain,
            folder=folder,
            defines={
                "EF_MODEL": generated.name,
                "EF_MODEL_HEADER": f'"{generated.name}.h"',
                "EF_MODEL_ARENA_BYTES": str(generated.arena_bytes),
            },
            includes=[folder],
        )
        return Firmware(image, given, answered)


def key_of(built: BuildKey) -> Key:
    """Return the key of a build as baselines have it: defines are part of the program, not of how it is compiled."""
    flags = " ".join(flag for flag in built.flags if not flag.startswith("-D"))
    return Key(profile=built.profile, compiler=built.compiler, version=built.version, flags=flags)


def toolchain_for(profile: Profile, options: BoardOptions) -> Toolchain:
    """Return the compiler for a board.

    Raises:
        MissingProgramError: it is not installed.
    """
    return find_toolchain(profile.cpu, prefer=options.compiler)
