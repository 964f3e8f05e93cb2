# SPDX-License-Identifier: Apache-2.0
"""Begin a project that tests a model on an emulated board: tests, vectors, baseline, and what CI needs to run them."""

import io
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from converter.adapters.imports.model_files import read_quantized
from edgefleet.contracts.errors import ConflictError, InputError, ModelFailedError, StorageError
from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.profile import Profile
from edgefleet.runtimes.oracle import open_oracle
from firmware_profiles.loader import load_profile
from fleet_emulation.emulate.requirement import requirement
from fleet_emulation.testing.baseline import FILE_NAME, BaselineFile, merge, write_baselines
from fleet_emulation.testing.boards import ModelBoard
from fleet_emulation.testing.reference import answers
from fleet_emulation.testing.result import Array, Result
from fleet_emulation.testing.workshop import BoardOptions, Compiler, Model, Workshop

DEFAULT_PROFILE = "mps2-an386"
COMPILER: Compiler = "zig"
_TEMPLATE = files("fleet_emulation.emulate") / "template"
_DIGITS = "digits_int8.tflite"
#: Where each file of the template goes.
_PLACES: Mapping[str, str] = {
    "README.md.in": "README.md",
    "boards.yml.in": ".github/workflows/boards.yml",
    "gitignore.in": ".gitignore",
    "gitlab-ci.yml.in": ".gitlab-ci.yml",
    "make_vectors.py.in": "tests/make_vectors.py",
    "requirements.txt.in": "requirements.txt",
    "test_model.py.in": "tests/test_model.py",
}
#: The Debian packages that bring each emulator, and what reads its machine code for the stack's bound.
_PACKAGES: Mapping[str, str] = {
    "qemu-system-arm": "qemu-system-arm binutils-arm-none-eabi",
    "qemu-system-riscv32": "qemu-system-misc binutils-riscv64-unknown-elf",
}
_SEED = 1
_SAMPLES = 20
#: Room that budgets leave above what was measured.
_ROOM = 1.25
_BUDGETED = ("instructions", "stack_bytes", "flash_bytes", "ram_bytes")


class Begun(Fact, frozen=True, kw_only=True):
    """A project that was made: where, for what, and what its model costs there."""

    folder: str
    profile: str
    model: str
    samples: int
    figures: Mapping[str, int]
    compiler: str


def begin(folder: Path, *, profile: str, model: Path | None, wheel: Path | None = None) -> Begun:
    """Make a project in a new or empty folder: nothing is left there if a step fails.

    The model runs on the board once: its outputs must be the reference's, and its costs become the baseline. ``wheel``
    is EdgeFleet's own, for machines that cannot fetch it.

    Raises:
        ConflictError: the folder has something in it.
        InputError: the profile's board is not emulated, or the model has several inputs or outputs.
        EdgeFleetError: the model cannot be read, built or run.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"'{folder}' is there already, and not empty", hint="name a new folder")
    board = _emulated(profile)
    name, data = _model(model)
    inputs, outputs = _vectors(data, board, given=model is not None)
    result = _measured(board, data, inputs, name)
    _check_answers(result, outputs)
    facts = _facts(board, name, f"{name}.tflite", result, wheel)
    try:
        with tempfile.TemporaryDirectory(dir=_made(folder.parent), prefix=f".{folder.name}.") as made:
            project = Path(made) / "project"
            _write(project, facts, data, inputs, outputs, result, wheel)
            if folder.exists():
                folder.rmdir()
            project.rename(folder)
    except OSError as error:
        raise StorageError(f"cannot write '{folder}': {error.strerror}", hint="choose another folder") from error
    return Begun(
        folder=str(folder),
        profile=board.id,
        model=f"models/{facts['model_file']}",
        samples=len(inputs),
        figures=result.measured.figures,
        compiler=f"{result.measured.key.compiler} {result.measured.key.version}",
    )


def _emulated(profile: str) -> Profile:
    board = load_profile(profile)
    is_microcontroller = board.runtime.kind == "tflm"
    if board.execution != "emulated" or board.emulator is None or not is_microcontroller:
        what = f"is not emulated ({board.execution})" if is_microcontroller else "is no microcontroller's"
        raise InputError(
            f"the board of the profile '{board.id}' {what}",
            hint=f"name one that is, such as {DEFAULT_PROFILE}; see 'edgefleet profiles list'",
        )
    return board


def _model(model: Path | None) -> tuple[str, bytes]:
    if model is None:
        return "digits", (_TEMPLATE / _DIGITS).read_bytes()
    stem = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in model.stem)
    return stem, read_quantized(model)


def _vectors(data: bytes, board: Profile, *, given: bool) -> tuple[Array, Array]:
    """Return inputs and the reference's outputs: those that come with the digits, or random ones for another model."""
    if not given:
        with np.load(io.BytesIO((_TEMPLATE / "vectors.npz").read_bytes()), allow_pickle=False) as vectors:
            return vectors["inputs"], vectors["outputs"]
    spec = open_oracle(data, kind="tflm", kernels="reference").inputs[0]
    dice = np.random.default_rng(_SEED)
    shape = (_SAMPLES, *spec.shape[1:])
    if spec.dtype == "int8":
        inputs: Array = dice.integers(-128, 128, shape, dtype=np.int8)
    else:
        inputs = dice.random(shape, dtype=np.float32).astype(spec.dtype)
    return inputs, answers(data, inputs, board.runtime.numerics)


def _measured(board: Profile, data: bytes, inputs: Array, name: str) -> Result:
    with tempfile.TemporaryDirectory(prefix="edgefleet-init-") as folder:
        workshop = Workshop(Path(folder))
        return ModelBoard(board, Model(name, data), workshop, BoardOptions(compiler=COMPILER)).run(inputs)


def _check_answers(result: Result, outputs: Array) -> None:
    try:
        result.assert_equal(outputs)
    except AssertionError as error:
        raise ModelFailedError(str(error), hint="report it: a board must answer as the reference does") from error


def _facts(board: Profile, name: str, model_file: str, result: Result, wheel: Path | None) -> dict[str, str]:
    assert board.emulator is not None  # noqa: S101  # _emulated() looked
    emulator = board.emulator.program
    packages = _PACKAGES.get(emulator, emulator)
    return {
        "name": name,
        "title": board.title,
        "profile": board.id,
        "model_file": model_file,
        "numerics": board.runtime.numerics,
        "packages": packages,
        "apt": f"    sudo apt-get install --no-install-recommends {packages}",
        "requirement": requirement(wheel),
        "zig": _zig(result),
        "budgets": ", ".join(f"{figure}={_budget(result.measured.figures[figure]):_}" for figure in _BUDGETED),
        "from": "" if wheel is None else "\nEdgeFleet itself comes from `wheels/`.\n",
    }


def _zig(result: Result) -> str:
    try:
        return version("ziglang")
    except PackageNotFoundError:
        return result.measured.key.version


def _budget(measured: int) -> int:
    """Return a round number with some room above what was measured."""
    step: int = 10 ** max(0, len(str(measured)) - 2)
    return -(-int(measured * _ROOM) // step) * step


def _write(
    project: Path,
    facts: Mapping[str, str],
    data: bytes,
    inputs: Array,
    outputs: Array,
    result: Result,
    wheel: Path | None,
) -> None:
    for source, place in _PLACES.items():
        text = Template((_TEMPLATE / source).read_text(encoding="utf-8")).substitute(facts)
        _made((project / place).parent)
        (project / place).write_text(text, encoding="utf-8")
    _made(project / "models")
    (project / "models" / facts["model_file"]).write_bytes(data)
    np.savez(project / "tests" / "vectors.npz", inputs=inputs, outputs=outputs)
    write_baselines(project / FILE_NAME, merge(BaselineFile(), [(facts["name"], result.measured)]))
    if wheel is not None:
        _made(project / "wheels")
        shutil.copyfile(wheel, project / "wheels" / wheel.name)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
