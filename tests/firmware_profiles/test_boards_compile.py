# SPDX-License-Identifier: Apache-2.0
"""Code for each microcontroller is compiled, linked to its memory map and measured; what does not fit says why."""

import os
import shutil
from pathlib import Path

import pytest

from converter.c.core.program import Target
from converter.c.generate import Generated, generate
from edgefleet.boards.images import region
from edgefleet.boards.inference import InferenceImage, build_inference
from edgefleet.boards.toolchains import find_toolchain
from edgefleet.contracts.errors import BudgetError
from edgefleet.contracts.profile import Profile, kernel_set
from firmware_profiles import list_profiles

MICROCONTROLLERS = [profile for profile in list_profiles() if profile.memory.regions]
#: Boards on which a visual-wake-words model of 72 kB of weights and 55 kB of activations has no place, and what lacks.
TOO_SMALL = {"arduino-zero": "data", "longan-nano": "data", "nucleo-f103rb": "data"}
_EXAMPLE = Path(__file__).parents[2] / "fleet_emulation" / "emulate" / "template" / "digits_int8.tflite"


@pytest.fixture(autouse=True)
def _compilers() -> None:
    wanted = {"arm-none-eabi-gcc": "gcc-arm-none-eabi", "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf"}
    missing = [package for program, package in wanted.items() if shutil.which(program) is None]
    if missing:
        pytest.skip(f"missing: apt-get install {' '.join(missing)}")


def _generated(model: bytes, profile: Profile) -> Generated:
    return generate(model, name="example", target=Target("tflm/1", kernel_set(profile)))


def _built(generated: Generated, profile: Profile, folder: Path) -> InferenceImage:
    return build_inference(generated, profile=profile, toolchain=find_toolchain(profile.cpu), folder=folder)


@pytest.mark.parametrize("profile", MICROCONTROLLERS, ids=lambda profile: profile.id)
def test_a_small_model_compiles_and_fits(profile: Profile, tmp_path: Path) -> None:
    generated = _generated(_EXAMPLE.read_bytes(), profile)
    image = _built(generated, profile, tmp_path)
    assert image.blob_bytes < image.image.flash_bytes < region(profile, "code").size_bytes
    assert generated.arena_bytes <= image.image.ram_bytes < region(profile, "data").size_bytes
    sections = {section.name: section.address for section in image.image.contents.sections if section.size_bytes}
    origins = {region(profile, name).origin for name in ("code", "data")}
    assert {min(sections.values()), *origins} == origins
    assert image.image.key.profile == profile.id


@pytest.mark.parametrize("profile", MICROCONTROLLERS, ids=lambda profile: profile.id)
def test_a_larger_model_fits_or_is_refused_for_what_lacks(profile: Profile, tmp_path: Path) -> None:
    model = Path(os.environ.get("EDGEFLEET_SHARED", "../shared")) / "models" / "vww_int8.tflite"
    if not model.is_file():
        pytest.skip(f"no {model} (set EDGEFLEET_SHARED)")
    generated = _generated(model.read_bytes(), profile)
    lacking = TOO_SMALL.get(profile.id)
    if lacking is None:
        assert _built(generated, profile, tmp_path).image.flash_bytes <= region(profile, "code").size_bytes
        return
    with pytest.raises(BudgetError) as refused:
        _built(generated, profile, tmp_path)
    size_bytes = region(profile, lacking).size_bytes
    start, end = refused.value.message.split(" bytes of ")
    assert (start.rpartition(" ")[0], end) == (
        f"the image does not fit {profile.id}: it needs",
        f"'{lacking}', which has {size_bytes:,}",
    )
