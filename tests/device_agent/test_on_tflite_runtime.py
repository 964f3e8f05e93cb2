# SPDX-License-Identifier: Apache-2.0
"""The agent's processes in an environment that has tflite-runtime and no LiteRT, as on a board with 32-bit Arm."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import rfc8785

from edgefleet.contracts.errors import MissingExtraError
from edgefleet.runtimes.tflite_runtime import find_python

PROGRAM = Path(__file__).with_name("on_tflite_runtime.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def there(tmp_path, digits_live):
    """Run the program there for a bundle, and return what came."""
    try:
        python = find_python()
    except MissingExtraError as error:
        pytest.skip(error.message)
    asked = subprocess.run(
        [python, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=True
    )
    if tuple(map(int, asked.stdout.split())) != sys.version_info[:2]:
        pytest.skip(
            f"msgspec is here for Python {sys.version_info[:2]}, and tflite-runtime's is {asked.stdout.strip()}"
        )
    packages = tmp_path / "packages"
    packages.mkdir()
    for package in (msgspec, rfc8785):  # what the processes need beside numpy and the runtime
        (packages / package.__name__).symlink_to(Path(package.__file__).parent)
    pictures = tmp_path / "pictures.npy"
    np.save(pictures, digits_live[0][:20])

    def run(made):
        bundle = tmp_path / "slots" / f"{made.sha256}.bundle"
        bundle.parent.mkdir()
        bundle.write_bytes(made.data)
        ran = subprocess.run(
            [python, PROGRAM, tmp_path, bundle, pictures],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, packages)))},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    return run


def test_a_board_with_tflite_runtime_admits_serves_and_proves_a_model_in_its_own_processes(
    there, agent_bundles, digits_live
):
    came = there(agent_bundles.old_runtime)
    assert came["admission"] == ["passed", "all-checks", ""]
    assert came["served"] == ["Serving", ""]
    right = sum(answer == label for answer, label in zip(came["answers"], digits_live[1], strict=False))
    assert (len(came["answers"]), right >= 18) == (20, True)
    assert came["verified"] is True
    assert (came["software"], came["facts"]) == ("tflite-runtime 2.14.0", "tflite-runtime 2.14.0")


def test_a_board_with_tflite_runtime_refuses_a_model_for_litert_in_one_sentence(there, agent_bundles):
    came = there(agent_bundles.v1)
    said = "the bundle is for the runtime 'litert', this one is 'tflite-runtime'"
    assert came["admission"][0] == "refused"
    assert came["served"] == ["LoadFailed", said]
    assert came["verified"] is False
