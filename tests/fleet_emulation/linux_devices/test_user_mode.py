# SPDX-License-Identifier: Apache-2.0
"""A device's Python as processes of this machine: the same packages, the same bits, and it starts itself again."""

from pathlib import Path

import numpy as np
import pytest

from edgefleet.contracts.errors import ModelFailedError, UnreachableError
from edgefleet.runtimes.litert import LiteRtInterpreter
from fleet_emulation.linux_devices.inference import infer_in_user_mode
from fleet_emulation.linux_devices.root_file_system import RootFileSystem
from fleet_emulation.linux_devices.user_mode import ArmPython

START_ANOTHER = """
import platform, subprocess, sys
other = [sys.executable, "-c", "import platform; print(platform.machine())"]
print(platform.machine(), subprocess.run(other, capture_output=True, text=True).stdout)
"""
VERSIONS = """
import importlib.metadata, sys
for name in ("ai-edge-litert", "numpy", "tuf"):
    print(name, importlib.metadata.version(name))
import device_agent.admission.checks, edgefleet.version
print(device_agent.__file__)
"""


def test_it_is_arm_and_so_is_what_it_starts(arm: ArmPython) -> None:
    assert arm.run(["-c", START_ANOTHER]) == (0, b"aarch64 aarch64\n\n", b"")


def test_it_has_the_agents_packages_and_edgefleets_own_code(arm: ArmPython) -> None:
    done = arm.run(["-c", VERSIONS])
    said = done.stdout.decode().splitlines()
    assert said[0] == "ai-edge-litert 2.3.0", done.stderr.decode()
    assert said[-1] == str(arm.software / "device_agent" / "__init__.py")


@pytest.mark.parametrize("name", ["kws_int8", "ad_int8", "ic_resnet8_int8", "vww_int8"])
def test_the_reference_kernels_give_the_same_bits_as_on_this_machine(
    arm: ArmPython, shared_models: Path, name: str
) -> None:
    model = (shared_models / f"{name}.tflite").read_bytes()
    here = LiteRtInterpreter(model, kernels="reference")
    samples = np.random.default_rng(5).integers(-128, 128, (4, *here.inputs[0].shape)).astype(np.int8)
    (there,) = infer_in_user_mode(arm, model, [samples], kernels="reference")
    expected = np.stack([here.invoke([sample])[0] for sample in samples])
    assert (there.dtype, there.tobytes()) == (expected.dtype, expected.tobytes())


def test_a_model_that_does_not_load_there_is_one_sentence(arm: ArmPython) -> None:
    with pytest.raises(ModelFailedError, match=r"^the model does not run on the emulated device: .*LiteRT cannot load"):
        infer_in_user_mode(arm, b"no model", [np.zeros((1, 1), np.int8)], kernels="reference")


def test_what_takes_too_long_is_ended(arm: ArmPython) -> None:
    with pytest.raises(UnreachableError) as raised:
        arm.run(["-c", "import signal; signal.pause()"], limit_s=0.3)
    assert (
        raised.value.message == "'-c import signal; signal.pause()' takes longer than 0.3 s on an emulated cortex-a72"
    )


def test_the_root_file_system_says_what_is_in_it(root: RootFileSystem) -> None:
    made = root.made
    assert "ai_edge_litert-2.3.0" in made.wheels
    assert any(package.startswith("libc6_") and package.endswith("_arm64") for package in made.packages)
    assert made.recipe.key == root.key
