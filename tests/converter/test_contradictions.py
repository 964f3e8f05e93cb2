# SPDX-License-Identifier: Apache-2.0
"""A bundle that nobody signed may say of itself what its maker likes; verify holds it against its model."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgefleet.contracts.bundle import open_bundle, pack
from edgefleet.contracts.manifest import Tolerances

Command = Callable[..., subprocess.CompletedProcess[str]]
HINT = "hint: do not install it; convert the model again\n"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"precision": "float32"}, "the precision float32, and a model that computes in int8"),
        ({"tolerances": Tolerances(unit="lsb", reference=255.0, production=255.0)},
         "a reference tolerance of 255, expected from 0 to 0"),
        ({"tolerances": Tolerances(unit="lsb", reference=0.0, production=1000.0)},
         "a production tolerance of 1000, expected from 0 to 128"),
        ({"tolerances": Tolerances(unit="lsb", reference=-1.0, production=2.0)},
         "a reference tolerance of -1, expected from 0 to 0"),
        ({"tolerances": Tolerances(unit="absolute", reference=0.0, production=2.0)},
         "tolerances in absolute for outputs of int8"),
    ],
)  # fmt: skip
def test_a_manifest_that_belies_its_model(
    front_door: Command, digits_bundle: Path, tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    bundle = open_bundle(digits_bundle)
    lying = msgspec.structs.replace(bundle.manifest, **changes)
    (tmp_path / "b.bundle").write_bytes(pack(lying, {path: bundle.read(path) for path in bundle.spans}))
    done = front_door("verify", tmp_path / "b.bundle")
    said = "".join(line for line in done.stderr.splitlines(keepends=True) if not line.startswith("INFO: "))
    assert (done.returncode, said) == (3, f"error: 'b.bundle' contradicts itself: its manifest has {what}\n{HINT}")
