# SPDX-License-Identifier: Apache-2.0
"""One preprocessing to try: what it is, how much it reads, what the reference answers, and its generated files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.c.core.preprocessing import Frame, generate_preprocessing
from edgefleet.boards.firmware_files import firmware_folder
from edgefleet.contracts.manifest import Preprocessing, TensorSpec
from edgefleet.runtimes.preprocessing import preprocess
from edgefleet.runtimes.tensors import to_model_inputs

Array = npt.NDArray[Any]
KERNELS = firmware_folder() / "kernels"


@dataclass(frozen=True)
class Case:
    """One preprocessing, and how many bytes of raw input it takes; ``live`` sound comes frame by frame."""

    how: Preprocessing
    spec: TensorSpec
    raw_bytes: int
    frame: Frame | None = None
    live: bool = False

    def expected(self, batch: Array) -> Array:
        """The reference's answer, shape (samples, values)."""
        return np.array([to_model_inputs([preprocess(raw, self.how)], [self.spec])[0].reshape(-1) for raw in batch])


def write_sources(cases: Sequence[Case], folder: Path) -> list[Path]:
    """Write each case's generated files, as m0, m1 and so on; return all C sources, the kernels' too."""
    kernels: set[str] = set()
    generated: list[Path] = []
    for number, case in enumerate(cases):
        made = generate_preprocessing(case.how, case.spec, name=f"m{number}", frame=case.frame)
        kernels.update(made.kernel_sources)
        for name, text in made.sources.items():
            (folder / name).write_text(text)
        generated.append(folder / f"m{number}_preprocess.c")
    return [*generated, *(KERNELS / name for name in sorted(kernels))]
