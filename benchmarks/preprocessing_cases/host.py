# SPDX-License-Identifier: Apache-2.0
"""Generated preprocessing compiled for this machine under the address and undefined-behaviour sanitizers."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.preprocessing_cases.case import KERNELS, Case, write_sources

Array = npt.NDArray[Any]
#: Runs the case of a number on a batch.
Run = Callable[[int, Array], Array]
FLAGS = ("-std=c99", "-O1", "-g", "-Wall", "-Wextra", "-Wconversion", "-Werror",
         "-fsanitize=address,undefined", "-fno-sanitize-recover=all")  # fmt: skip


def compile_here(cases: Sequence[Case], folder: Path, *, flags: Sequence[str] = FLAGS) -> Run:
    """Generate and compile cases into one program, each case's buffers of exactly the size that it needs."""
    sources = write_sources(cases, folder)
    (folder / "main.c").write_text(_main(cases))
    program, includes = str(folder / "program"), ("-I", str(KERNELS / "include"), "-I", str(folder))
    command = ["cc", *flags, *includes, str(folder / "main.c"), *map(str, sources), "-o", program]
    subprocess.run(command, check=True)

    def run(number: int, batch: Array) -> Array:
        done = subprocess.run([program, str(number)], input=batch.tobytes(), stdout=subprocess.PIPE, check=True)
        return np.frombuffer(done.stdout, np.int8).reshape(len(batch), -1)

    return run


def _call(case: Case, name: str) -> str:
    """C that calls one generated function with raw bytes, scratch and the place of the input."""
    if case.how.features is not None:
        return f"if (!{name}_preprocess(raw, out)) exit(7)"
    if case.how.audio is None:
        return f"{name}_preprocess(raw, scratch, out)"
    if case.live:
        upper = name.upper()
        return (
            f"for (int f = 0; f < {upper}_FRAMES; f++) {name}_preprocess_frame((const int16_t *)raw + "
            f"f * {upper}_STRIDE_SAMPLES, scratch, (int8_t *)out + f * {upper}_FEATURES)"
        )
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
