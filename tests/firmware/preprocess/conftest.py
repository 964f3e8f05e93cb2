# SPDX-License-Identifier: Apache-2.0
"""Generated preprocessing, compiled for this machine under the address and undefined-behaviour sanitizers."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from converter.c.core.preprocessing import Frame, generate_preprocessing
from edgefleet.contracts.manifest import Preprocessing, TensorSpec
from edgefleet.runtimes.preprocessing import preprocess
from edgefleet.runtimes.tensors import to_model_inputs

Array = npt.NDArray[Any]
KERNELS = Path(__file__).resolve().parents[3] / "firmware" / "kernels"
FLAGS = ("-std=c99", "-O1", "-g", "-Wall", "-Wextra", "-Wconversion", "-Werror",
         "-fsanitize=address,undefined", "-fno-sanitize-recover=all")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One preprocessing, and how many bytes of raw input it takes."""

    how: Preprocessing
    spec: TensorSpec
    raw_bytes: int
    frame: Frame | None = None

    def expected(self, batch: Array) -> Array:
        """The reference's answer, shape (samples, values)."""
        return np.array([to_model_inputs([preprocess(raw, self.how)], [self.spec])[0].reshape(-1) for raw in batch])


Run = Callable[[int, Array], Array]


def _call(case: Case, name: str) -> str:
    """C that calls one generated function with raw bytes, scratch and the place of the input."""
    if case.how.features is not None:
        return f"if (!{name}_preprocess(raw, out)) exit(7)"
    if case.how.audio is None:
        return f"{name}_preprocess(raw, scratch, out)"
    scratch = "" if case.how.audio.kind == "waveform" else "scratch, "
    return f"{name}_preprocess(raw, {case.raw_bytes // 2}u, {scratch}out)"


def _main(cases: Sequence[Case]) -> str:
    """A program that runs the case of its argument on standard input; each buffer has exactly the size it needs."""
    values = [int(np.prod(case.spec.shape)) for case in cases]
    includes = "".join(f'#include "m{number}_preprocess.h"\n' for number in range(len(cases)))
    runs = "".join(
        f"    case {n}: raw_bytes = {case.raw_bytes}u; values = {values[n]}u; "
        f"scratch_bytes = M{n}_PREPROCESS_SCRATCH_BYTES; break;\n"
        for n, case in enumerate(cases)
    )
    calls = "".join(f"        case {n}: {_call(case, f'm{n}')}; break;\n" for n, case in enumerate(cases))
    return (
        f"#include <stdio.h>\n#include <stdlib.h>\n{includes}\nint main(int count, char **words)\n{{\n"
        f"    int chosen = atoi(words[count - 1]);\n    size_t raw_bytes = 0, values = 0, scratch_bytes = 0;\n"
        f"    switch (chosen) {{\n{runs}    }}\n"
        f"    void *raw = malloc(raw_bytes), *out = malloc(values), *scratch = malloc(scratch_bytes);\n"
        f"    while (fread(raw, 1, raw_bytes, stdin) == raw_bytes) {{\n        switch (chosen) {{\n{calls}        }}\n"
        f"        fwrite(out, 1, values, stdout);\n    }}\n"
        f"    free(raw), free(out), free(scratch);\n    return 0;\n}}\n"
    )


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[Case]], Run]:
    """Generate and compile cases into one program; the result runs the case of a number on a batch."""

    def compile_all(cases: Sequence[Case]) -> Run:
        folder = tmp_path_factory.mktemp("preprocess")
        kernels: set[str] = set()
        for number, case in enumerate(cases):
            generated = generate_preprocessing(case.how, case.spec, name=f"m{number}", frame=case.frame)
            kernels.update(generated.kernel_sources)
            for name, text in generated.sources.items():
                (folder / name).write_text(text)
        (folder / "main.c").write_text(_main(cases))
        sources = [*sorted(map(str, folder.glob("*.c"))), *(str(KERNELS / name) for name in sorted(kernels))]
        program = str(folder / "program")
        includes = ("-I", str(KERNELS / "include"), "-I", str(folder))
        subprocess.run(["cc", *FLAGS, *includes, *sources, "-o", program], check=True)

        def run(number: int, batch: Array) -> Array:
            done = subprocess.run([program, str(number)], input=batch.tobytes(), stdout=subprocess.PIPE, check=True)
            return np.frombuffer(done.stdout, np.int8).reshape(len(batch), -1)

        return run

    return compile_all


@pytest.fixture(scope="session")
def case() -> type[Case]:
    """The class of cases, for test modules that cannot import a conftest."""
    return Case
