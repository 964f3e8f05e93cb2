# SPDX-License-Identifier: Apache-2.0
"""Models as folders of C that other builds take in: a library, a CMake project, a Zephyr module."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from converter.adapters.imports.model_files import read_quantized
from converter.adapters.output_files import write_together
from converter.c.core import export_texts as texts
from converter.c.core.blob_format import Vector
from converter.c.core.names_in_c import c_name, first_clash
from converter.c.core.preprocessing import GeneratedPreprocessing, generate_preprocessing
from converter.c.core.program import KernelSet, Target, Value
from converter.c.core.variants import OPTIONAL_SOURCES
from converter.c.generate import Generated, generate
from edgefleet.boards.firmware_files import firmware_folder
from edgefleet.boards.toolchains import Toolchain, family_of
from edgefleet.contracts.bundle import Bundle, open_bundle
from edgefleet.contracts.errors import BudgetError, IncompatibleError, UnsupportedModelError
from edgefleet.contracts.manifest import Fact, Manifest, Numerics
from edgefleet.contracts.profile import Profile, kernel_set
from edgefleet.runtimes.parity import read_vectors
from firmware_profiles.loader import load_profile

Format = Literal["c", "cmake", "zephyr"]
_HEADERS = ("kernels.h", "model.h", "blob.h")
_PREPROCESS_HEADER = "preprocess.h"
_INCLUDED = re.compile(r'^\s*#include "([^"]+)"', re.MULTILINE)
_COMPILERS = {"arm": "arm-none-eabi-gcc", "riscv": "riscv64-unknown-elf-gcc"}
_BARE_METAL = "tflm"


class ExportedTensor(Fact, frozen=True, kw_only=True):
    """An input or output of the C: ``bytes`` is its place in the arena."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None
    zero_point: int | None


class ExportedFacts(Fact, frozen=True, kw_only=True):
    """What a model's C takes; ``arena_bytes`` counts tensors, scratch and state. ``preprocessing`` says what became of
    the bundle's: ``c``, ``none``, or why there is no C for it. ``blob_bytes`` counts ``parity_vectors``."""

    name: str
    numerics: Numerics
    blob_bytes: int
    arena_bytes: int
    scratch_bytes: int
    state_bytes: int
    parity_vectors: int
    layers: int
    macs: int
    kernels: tuple[str, ...]
    inputs: tuple[ExportedTensor, ...]
    outputs: tuple[ExportedTensor, ...]
    preprocessing: str


class Export(Fact, frozen=True, kw_only=True):
    """A folder that was written."""

    out: str
    format: Format
    profile: str
    kernel_set: KernelSet
    files: tuple[str, ...]
    models: tuple[ExportedFacts, ...]


@dataclass(frozen=True)
class _Model:
    """A model on its way into the folder."""

    generated: Generated
    vectors: int = 0
    preprocessing: GeneratedPreprocessing = field(default_factory=GeneratedPreprocessing)
    said: str = "none"

    @property
    def text(self) -> texts.ExportedModel:
        made = self.generated
        return texts.ExportedModel(made.name, len(made.blob), made.arena_bytes, bool(self.preprocessing.sources))

    @property
    def files(self) -> Iterator[tuple[str, bytes]]:
        name = self.generated.name
        yield f"{name}/{name}.blob", self.generated.blob
        for file, text in {**self.generated.sources, **self.preprocessing.sources}.items():
            yield f"{name}/{file}", text.encode()

    @property
    def kernel_sources(self) -> tuple[str, ...]:
        return (*self.generated.kernel_sources, *self.preprocessing.kernel_sources)


def export(
    paths: Sequence[Path],
    *,
    profile: str | None,
    numerics: Numerics | None,
    form: Format,
    out: Path,
    parity_vectors: int = 0,
) -> Export:
    """Write models as C into one folder, with the kernels that they need.

    Without ``profile`` the first bundle's is taken; without ``numerics`` each bundle's, or the profile's. Blobs carry
    at most so many of their bundles' ``parity_vectors``.

    Raises:
        FileMissingError, BundleError: a file cannot be used.
        UnsupportedModelError: a model has something that no C can be written for.
        IncompatibleError: no board is named, two models have one name, or one has no parity vectors for this code.
        BudgetError: a model's blob or arena is larger than the board's memory.
        StorageError: the folder cannot be written.
    """
    board = load_profile(profile or _profile_of(paths))
    models = [_model(path, board, numerics, parity_vectors) for path in paths]
    _check_names([model.generated.name for model in models])
    for model in models:
        check_memory(model.generated, board)
    files = _files(models, board, form)
    write_together({out / name: data for name, data in sorted(files.items())})
    return Export(
        out=str(out),
        format=form,
        profile=board.id,
        kernel_set=kernel_set(board),
        files=tuple(sorted(files)),
        models=tuple(map(_facts, models)),
    )


def check_memory(generated: Generated, profile: Profile) -> None:
    """Check that blob and arena alone fit a microcontroller's memory.

    Raises:
        BudgetError: one does not.
    """
    if profile.runtime.kind != _BARE_METAL:
        return
    regions = {region.name: region.size_bytes for region in profile.memory.regions}
    flash_bytes = regions.get("code", profile.memory.flash_bytes)
    ram_bytes = regions.get("data", profile.memory.ram_bytes)
    for what, size_bytes, limit_bytes, memory in (
        ("blob", len(generated.blob), flash_bytes, "flash"),
        ("arena", generated.arena_bytes, ram_bytes, "RAM"),
    ):
        if limit_bytes is not None and size_bytes > limit_bytes:
            raise BudgetError(
                f"the {what} of '{generated.name}' has {size_bytes:,} bytes, and '{profile.id}' has "
                f"{limit_bytes:,} bytes of {memory}",
                hint="choose a smaller model, or a larger board",
            )


def _profile_of(paths: Sequence[Path]) -> str:
    for path in paths:
        if path.suffix == ".bundle":
            return open_bundle(path).manifest.profile.id
    raise IncompatibleError(
        f"'{paths[0]}' is a model and names no board",
        hint="name a profile with --profile; 'edgefleet profiles list' shows them",
    )


def _check_names(names: Sequence[str]) -> None:
    clash = first_clash(names)
    if clash is None:
        return
    first, second = clash
    said = f"two models are called '{first}' in C" if first == second else (
        f"two models are called '{first}' and '{second}' in C, and one of these is a name that the other brings with it"
    )  # fmt: skip
    raise IncompatibleError(said, hint="rename one of the files, or export them apart")


def _model(path: Path, board: Profile, numerics: Numerics | None, parity_vectors: int) -> _Model:
    if path.suffix != ".bundle":
        if parity_vectors:
            raise _without_vectors(path, "is a model, and bundles carry parity vectors")
        target = Target(numerics or board.runtime.numerics, kernel_set(board))
        return _Model(generate(read_quantized(path), name=c_name(path.stem), target=target))
    bundle = open_bundle(path)
    manifest = bundle.manifest
    target = Target(numerics or manifest.runtime.numerics, kernel_set(board))
    vectors = _vectors(path, bundle, target, parity_vectors)
    generated = generate(bundle.read(manifest.model), name=c_name(manifest.name), target=target, vectors=vectors)
    return _Model(generated, len(vectors), *_preprocessing(manifest, generated.name))


def _vectors(path: Path, bundle: Bundle, target: Target, most: int) -> list[Vector]:
    """Return the first of a bundle's parity vectors, which are those of its reference kernels."""
    if not most:
        return []
    manifest = bundle.manifest
    if target.numerics != manifest.runtime.numerics:
        raise _without_vectors(path, f"has parity vectors of {manifest.runtime.numerics}, not of {target.numerics}")
    if manifest.tolerances.reference:
        raise _without_vectors(path, "has parity vectors that allow a difference, and C compares bytes")
    inputs, outputs = read_vectors(bundle)
    return [
        Vector(b"".join(part[n].tobytes() for part in inputs), b"".join(part[n].tobytes() for part in outputs))
        for n in range(min(most, manifest.parity.samples))
    ]


def _without_vectors(path: Path, why: str) -> IncompatibleError:
    return IncompatibleError(
        f"'{path.name}' {why}", hint="leave --parity-vectors out, or export a bundle for this board"
    )


def _preprocessing(manifest: Manifest, name: str) -> tuple[GeneratedPreprocessing, str]:
    try:
        made = generate_preprocessing(manifest.preprocessing, manifest.interface.inputs[0], name=name)
    except UnsupportedModelError as refusal:
        return GeneratedPreprocessing(), refusal.message
    return made, "c" if made.sources else "none"


def _files(models: Sequence[_Model], board: Profile, form: Format) -> dict[str, bytes]:
    files = {name: data for model in models for name, data in model.files}
    kernels = _with_includes([*OPTIONAL_SOURCES, *(source for model in models for source in model.kernel_sources)])
    files |= {f"kernels/{name}": _kernel(name) for name in kernels}
    headers = [*_HEADERS, *([_PREPROCESS_HEADER] if any(m.preprocessing.sources for m in models) else [])]
    files |= {f"include/edgefleet/{name}": _kernel(f"include/edgefleet/{name}") for name in headers}
    sources = sorted(name for name in files if name.endswith((".c", ".S")))
    return files | {name: text.encode() for name, text in _frame(models, sources, board, form).items()}


def _frame(models: Sequence[_Model], sources: Sequence[str], board: Profile, form: Format) -> Mapping[str, str]:
    """Return the files of a format around models and kernels."""
    described = [model.text for model in models]
    kernels = kernel_set(board)
    compiler = _compiler(board)
    made = {"README.md": texts.readme(described, kernels, compiler.flags(board.cpu) if compiler else ())}
    if form == "cmake":
        made["CMakeLists.txt"] = texts.cmake_lists(described, sources, kernels)
        made |= {f"example/{model.name}.c": texts.example(model) for model in described}
        if compiler:
            flags = compiler.flags(board.cpu)
            made["toolchain.cmake"] = texts.cmake_toolchain(compiler.command[0], flags, board.cpu.core)
    if form == "zephyr":
        made["zephyr/module.yml"] = texts.zephyr_module()
        made["zephyr/Kconfig"] = texts.zephyr_kconfig(described, kernels)
        made["zephyr/CMakeLists.txt"] = texts.zephyr_cmake_lists(described, sources)
    return made


def _compiler(board: Profile) -> Toolchain | None:
    """Return GCC for a microcontroller, installed or not: its flags are of interest."""
    if board.runtime.kind != _BARE_METAL:
        return None
    family = family_of(board.cpu)
    return Toolchain("gcc", (_COMPILERS[family],), "", family)


def _with_includes(sources: Iterable[str]) -> list[str]:
    """Return files of firmware/kernels, and those that they include from there by name."""
    found: set[str] = set()
    waiting = sorted(set(sources))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            folder = PurePosixPath(name).parent
            included = _INCLUDED.findall(_kernel(name).decode())
            waiting += [_joined(folder, each) for each in included]
    return sorted(found)


def _joined(folder: PurePosixPath, name: str) -> str:
    parts: list[str] = []
    for part in (folder / name).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def _kernel(name: str) -> bytes:
    return (firmware_folder() / "kernels" / name).read_bytes()


def _facts(model: _Model) -> ExportedFacts:
    made = model.generated
    return ExportedFacts(
        name=made.name,
        numerics=made.target.numerics,
        blob_bytes=len(made.blob),
        arena_bytes=made.arena_bytes,
        scratch_bytes=made.scratch_bytes,
        state_bytes=made.state_bytes,
        parity_vectors=model.vectors,
        layers=len(made.layers),
        macs=sum(layer.macs for layer in made.layers),
        kernels=made.variants,
        inputs=tuple(map(_tensor, made.inputs)),
        outputs=tuple(map(_tensor, made.outputs)),
        preprocessing=model.said,
    )


def _tensor(value: Value) -> ExportedTensor:
    quantized = len(value.scales) == 1
    return ExportedTensor(
        name=value.name,
        dtype=value.dtype,
        shape=value.shape,
        scale=value.scales[0] if quantized else None,
        zero_point=value.zero_point if quantized else None,
    )
