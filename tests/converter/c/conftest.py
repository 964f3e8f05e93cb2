# SPDX-License-Identifier: Apache-2.0
"""Generated programs, compiled for this machine and run: with sanitizers too, and with a blob that is exchanged."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from converter.c.generate import Generated

REPOSITORY = Path(__file__).resolve().parents[3]
_KERNELS = REPOSITORY / "firmware" / "kernels"
_DRIVER = Path(__file__).with_name("driver.c")
_WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter")
_SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_LIMIT_S = 120


@dataclass(frozen=True)
class Finished:
    """How a program ended: its exit status, what it wrote, and what it said."""

    status: int
    output: bytes
    words: str


@dataclass(frozen=True)
class HostProgram:
    """A compiled program."""

    path: Path
    blob: Path | None

    def run(self, inputs: bytes, *, mode: str = "keep", blob: bytes | None = None) -> Finished:
        """Run samples; ``blob`` takes the place of the program's own."""
        if blob is not None:
            assert self.blob is not None, "only an updatable program takes a blob"
            self.blob.write_bytes(blob)
        done = subprocess.run(
            [str(self.path), mode, *([str(self.blob)] if self.blob else [])],
            input=inputs,
            capture_output=True,
            timeout=_LIMIT_S,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr.decode().strip())

    def outputs(self, inputs: bytes, *, mode: str = "keep") -> bytes:
        """Run samples and return their outputs; any complaint fails the test."""
        done = self.run(inputs, mode=mode)
        assert (done.status, done.words) == (0, "")
        return done.output


Build = Callable[..., HostProgram]


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Where shared models and pictures lie."""
    return Path(os.environ.get("EDGEFLEET_SHARED", REPOSITORY.parent / "shared"))


@dataclass(frozen=True)
class Workshop:
    """Compiles with and without sanitizers; kernels and runtime only once."""

    folder: Path
    archives: dict[bool, Path] = field(default_factory=dict)

    def archive(self, sanitized: bool) -> Path:
        """Return the library of all portable kernels and the runtime."""
        if sanitized not in self.archives:
            folder = self.folder / ("sanitized" if sanitized else "plain")
            folder.mkdir()
            sources = sorted(str(path) for part in ("portable", "runtime") for path in (_KERNELS / part).glob("*.c"))
            objects = [str(folder / f"{number}.o") for number in range(len(sources))]
            for source, made in zip(sources, objects, strict=True):
                compile_c("-c", source, "-o", made, sanitized=sanitized)
            subprocess.run(["ar", "rcs", str(folder / "kernels.a"), *objects], check=True)
            self.archives[sanitized] = folder / "kernels.a"
        return self.archives[sanitized]

    def opening(self, generated: Generated, folder: Path) -> Path:
        """Return a program under sanitizers that opens blobs with a program's kernels, and runs nothing."""
        return self.linked("opening.c", generated, folder)

    def linked(self, main: str, generated: Generated, folder: Path) -> Path:
        """Return a program under sanitizers: a file beside this one, with an updatable program's kernels."""
        for file, text in generated.sources.items():
            (folder / file).write_text(text)
        name, program = generated.name, folder / "program"
        compile_c(
            *("-D_ISOC11_SOURCE", "-DEF_UPDATABLE", f"-DMODEL={name}", f'-DMODEL_HEADER="{name}.h"', f"-I{folder}"),
            *(str(_DRIVER.with_name(main)), str(folder / f"{name}.c"), str(self.archive(True))),
            *("-o", str(program)),
            sanitized=True,
        )
        return program


def compile_c(*arguments: str, sanitized: bool = False) -> None:
    """Run the host's compiler; warnings are errors."""
    how = _SANITIZERS if sanitized else ("-O2",)
    subprocess.run(["cc", *_WARNINGS, *how, f"-I{_KERNELS / 'include'}", *arguments], check=True)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The host's compiler, and what it has made already."""
    if shutil.which("cc") is None:
        pytest.skip("a C compiler is missing: install gcc")
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="session")
def host_program(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compile a generated program: ``host_program(generated, sanitized=False, updatable=False)``."""

    def build(generated: Generated, *, sanitized: bool = False, updatable: bool = False) -> HostProgram:
        folder, name = tmp_path_factory.mktemp(generated.name), generated.name
        for file, text in generated.sources.items():
            (folder / file).write_text(text)
        parts = [str(_DRIVER), str(folder / f"{name}.c")]
        if not updatable:  # only data: no need of sanitizers
            compile_c("-c", f"-I{folder}", str(folder / f"{name}_blob.c"), "-o", str(folder / "blob.o"))
            parts.append(str(folder / "blob.o"))
        defines = ["-D_ISOC11_SOURCE", f"-DMODEL={name}", f'-DMODEL_HEADER="{name}.h"']
        if updatable:
            defines.append("-DEF_UPDATABLE")
        archive = str(workshop.archive(sanitized))
        program = folder / "program"
        compile_c(*defines, f"-I{folder}", *parts, archive, "-o", str(program), sanitized=sanitized)
        blob = folder / "blob" if updatable else None
        if blob:
            blob.write_bytes(generated.blob)
        return HostProgram(program, blob)

    return build
