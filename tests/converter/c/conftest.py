# SPDX-License-Identifier: Apache-2.0
"""Generated programs, compiled for this machine and run: with sanitizers too, and with a blob that is exchanged."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
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


@pytest.fixture(scope="session")
def host_program(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compile a generated program: ``host_program(generated, sanitized=False, updatable=False)``."""
    if shutil.which("cc") is None:
        pytest.skip("a C compiler is missing: install gcc")

    def build(generated: Generated, *, sanitized: bool = False, updatable: bool = False) -> HostProgram:
        folder = tmp_path_factory.mktemp(generated.name)
        for name, text in generated.sources.items():
            (folder / name).write_text(text)
        written = [str(folder / name) for name in generated.sources if name.endswith(".c")]
        program = folder / "program"
        subprocess.run(
            [
                "cc", *_WARNINGS, *(_SANITIZERS if sanitized else ("-O2",)),
                f"-DMODEL={generated.name}", f'-DMODEL_HEADER="{generated.name}.h"',
                *(["-DEF_UPDATABLE"] if updatable else []), "-D_ISOC11_SOURCE",
                f"-I{folder}", f"-I{_KERNELS / 'include'}",
                str(_DRIVER), *written, *(str(_KERNELS / name) for name in generated.kernel_sources),
                "-o", str(program),
            ],
            check=True,
        )  # fmt: skip
        blob = folder / "blob" if updatable else None
        if blob:
            blob.write_bytes(generated.blob)
        return HostProgram(program, blob)

    return build
