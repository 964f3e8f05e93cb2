# SPDX-License-Identifier: Apache-2.0
"""The boards that come with EdgeFleet are valid, and a user's wrong file is told in one sentence."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from edgefleet.contracts.errors import FileMissingError, InputError, ProfileError
from edgefleet.contracts.profile import compat_hash
from firmware_profiles import list_profiles, load_profile, read_profile

KNOWN = [
    "alif-e7-devkit", "arduino-zero", "b-u585i-iot02a", "corstone-300-u55", "ek-ra8m1", "esp32-c3-devkitm",
    "esp32-c6-devkitc", "imx8mp-evk", "imxrt1060-evk", "jetson-orin-nano", "linux-x86_64", "longan-nano", "mps2-an385",
    "mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547", "nrf52840-dk", "nrf5340-dk", "nucleo-f103rb",
    "nucleo-h743zi2", "nucleo-l4r5zi", "raspberry-pi-3", "raspberry-pi-3-armv7", "raspberry-pi-4", "raspberry-pi-5",
    "raspberry-pi-pico", "raspberry-pi-pico-2", "rv32-virt", "stm32f746g-disco",
]  # fmt: skip
EDGEFLEET = Path(sys.executable).with_name("edgefleet")


def edgefleet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([EDGEFLEET, *arguments], capture_output=True, text=True, check=False, timeout=60)


def altered(profile_id: str, path: str, value: object) -> bytes:
    """Return the TOML of a known profile with one field set (dots and list indices in ``path``)."""
    document = msgspec.to_builtins(load_profile(profile_id))
    place = document
    *parents, last = path.split(".")
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    place[last] = value
    return tomli_w.dumps(_without_none(document)).encode()


def _without_none(value: object) -> object:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_none(v) for v in value]
    return value


def test_the_known_boards_are_listed_in_order() -> None:
    assert [profile.id for profile in list_profiles()] == KNOWN


@pytest.mark.parametrize("profile_id", KNOWN)
def test_each_board_is_named_like_its_file(profile_id: str) -> None:
    assert load_profile(profile_id).id == profile_id


def test_boards_differ_in_what_runs_on_them_unless_they_have_the_same_processor_features_and_runtime() -> None:
    kinds: dict[str, list[str]] = {}
    for profile in list_profiles():
        kinds.setdefault(compat_hash(profile), []).append(profile.id)
    assert [ids for ids in kinds.values() if len(ids) > 1] == [
        ["imx8mp-evk", "raspberry-pi-3", "raspberry-pi-4"],
        ["jetson-orin-nano", "raspberry-pi-5"],
    ]


def test_boards_come_in_at_least_ten_classes_of_processor_and_memory() -> None:
    cores = {profile.cpu.core for profile in list_profiles()}
    assert {"cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55", "cortex-m85"} < cores
    classes = {(p.cpu.core, (p.memory.ram_bytes).bit_length()) for p in list_profiles()}
    assert len(classes) >= 10


@pytest.mark.parametrize("profile_id", KNOWN)
def test_each_fact_of_a_board_has_a_source(profile_id: str) -> None:
    profile = load_profile(profile_id)
    facts = msgspec.to_builtins(profile)
    unnamed = [path for path in _stated(facts) if not any(_covers(source, path) for source in profile.sources)]
    assert unnamed == []


def _stated(facts: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in facts.items():
        path = prefix + name
        if path in ("format_version", "id", "title", "execution", "sources") or value in (None, (), []):
            continue
        if isinstance(value, dict):
            yield from _stated(value, f"{path}.")
        else:
            yield path


def _covers(source: str, path: str) -> bool:
    return path == source or path.startswith(f"{source}.")


@pytest.mark.parametrize("profile_id", KNOWN)
def test_each_board_says_how_its_code_is_tried(profile_id: str) -> None:
    profile = load_profile(profile_id)
    native = profile_id == "linux-x86_64"
    assert profile.execution == ("native" if native else "emulated" if profile.emulator else "compiled-only")


def test_another_npu_changes_the_compat_hash() -> None:
    board = load_profile("corstone-300-u55")
    larger = read_profile(altered("corstone-300-u55", "accelerator.id", "ethos-u55-256"), source="b.toml")
    assert compat_hash(larger) != compat_hash(board)


def test_a_budget_or_title_does_not_change_the_compat_hash() -> None:
    board = load_profile("mps2-an386")
    other = msgspec.structs.replace(
        board, title="another", budgets=msgspec.structs.replace(board.budgets, model_bytes=1)
    )
    assert compat_hash(other) == compat_hash(board)


def test_another_memory_map_changes_the_compat_hash() -> None:
    board = load_profile("mps2-an386")
    moved = read_profile(altered("mps2-an386", "memory.regions.1.origin", 0x2100_0000), source="b.toml")
    assert compat_hash(moved) != compat_hash(board)


def test_an_unknown_id_names_the_known_ones() -> None:
    with pytest.raises(InputError) as caught:
        load_profile("pi-4")
    assert caught.value.message == (f"there is no profile 'pi-4', only {', '.join(KNOWN)}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileMissingError) as caught:
        load_profile(str(tmp_path / "board.toml"))
    assert caught.value.message == f"cannot read the profile '{tmp_path}/board.toml': No such file or directory"


@pytest.mark.parametrize(
    ("profile_id", "path", "value", "message"),
    [
        ("mps2-an386", "runtime.kind", "litert",
         "b.toml: memory.regions are for microcontrollers; runtime.kind is 'litert'; "
         "runtime.kind is 'litert', but a board with cpu.architecture 'armv7e-m' runs 'tflm'; "
         "runtime.numerics is 'tflm/1', but runtime.kind 'litert' computes as 'litert/1'"),
        ("linux-x86_64", "runtime.numerics", "tflm/1",
         "b.toml: runtime.numerics is 'tflm/1', but runtime.kind 'litert' computes as 'litert/1'"),
        ("linux-x86_64", "runtime.version", "new",
         "b.toml: runtime.version is 'new', expected numbers with dots between them"),
        ("linux-x86_64", "runtime.version", "9" * 10,
         "b.toml: runtime.version is '9999999999', expected numbers with dots between them"),
        ("linux-x86_64", "budgets.latency_p99_us", 1 << 53,
         "b.toml: Expected `int` <= 9007199254740991 - at `$.budgets.latency_p99_us`"),
        ("linux-x86_64", "precisions", ["int8", "int8"], "b.toml: precisions names 'int8' twice"),
        ("mps2-an386", "memory.regions.1.origin", 4096, "b.toml: memory.regions 'code' and 'data' overlap"),
        ("mps2-an386", "memory.regions.1.name", "code", "b.toml: memory.regions names 'code' twice"),
        ("mps2-an386", "memory.regions.1.origin", 0xFFFF_FFFF,
         "b.toml: memory.regions 'data' ends behind the 32-bit address space"),
        ("mps2-an386", "memory.flash_bytes", None,
         "b.toml: memory.flash_bytes is missing; a microcontroller keeps its model there"),
        ("mps2-an386", "budgets.arena_bytes", 5_000_000,
         "b.toml: budgets.arena_bytes is 5000000, over memory.ram_bytes (4194304)"),
        ("mps2-an386", "budgets.model_bytes", 5_000_000,
         "b.toml: budgets.model_bytes is 5000000, over memory.flash_bytes (4194304)"),
        ("nucleo-l4r5zi", "execution", "emulated",
         "b.toml: execution is 'emulated', but there is no [emulator]"),
        ("nucleo-l4r5zi", "sources", {"cpu.colour": "the box"},
         "b.toml: sources names 'cpu.colour', and there is no such field"),
        ("mps2-an386", "operators", ["conv"],
         "b.toml: operators has 'conv', expected names as TFLite's schema writes them (CONV_2D)"),
        ("mps2-an386", "precisions", ["int8", "dynamic-int8"],
         "b.toml: precisions has 'dynamic-int8', which runtime.kind 'tflm' does not run"),
        ("corstone-300-u55", "precisions", ["int8", "int4"],
         "b.toml: precisions has 'int4', which the NPU 'ethos-u55-128' does not compute"),
        ("corstone-300-u55", "accelerator.id", "ethos-u55-100",
         "b.toml: accelerator.id is 'ethos-u55-100', expected one that vela compiles for: "
         "ethos-u55-32, ethos-u55-64, ethos-u55-128, ethos-u55-256, ethos-u65-256, ethos-u65-512, "
         "ethos-u85-128, ethos-u85-256, ethos-u85-512, ethos-u85-1024, ethos-u85-2048"),
        ("corstone-300-u55", "accelerator.memory_mode", None,
         "b.toml: accelerator.system_config is given without accelerator.memory_mode; vela takes both, or neither"),
        ("corstone-300-u55", "accelerator.system_config", None,
         "b.toml: accelerator.memory_mode is given without accelerator.system_config; vela takes both, or neither"),
        ("corstone-300-u55", "accelerator.minimum_npu_share", 1.5,
         "b.toml: Expected `float` <= 1.0 - at `$.accelerator.minimum_npu_share`"),
        ("linux-x86_64", "cpu.cores", 0, "b.toml: Expected `int` >= 1 - at `$.cpu.cores`"),
        ("linux-x86_64", "colour", "red", "b.toml: Object contains unknown field `colour`"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_one_sentence_with_its_path(profile_id: str, path: str, value: object, message: str) -> None:
    with pytest.raises(ProfileError) as caught:
        read_profile(altered(profile_id, path, value), source="b.toml")
    assert caught.value.message == message


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail_in_another_way(data: bytes) -> None:
    with pytest.raises(ProfileError):
        read_profile(data, source="b.toml")


def test_the_command_lists_boards_as_one_json_document() -> None:
    done = edgefleet("profiles", "list", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["id"] for row in json.loads(done.stdout)] == KNOWN


def test_the_command_shows_a_users_own_board(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(altered("raspberry-pi-4", "id", "mine"))
    done = edgefleet("profiles", "show", str(file), "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["profile"]["id"] == "mine"
    assert edgefleet("profiles", "validate", str(file)).stdout == (
        "mine.toml is a valid profile: mine (Raspberry Pi 4 Model B (64-bit))\n"
    )


def test_the_command_names_the_npu_of_a_board() -> None:
    assert (
        "npu: ethos-u55-128, for 50% of the operators or more\n"
        in edgefleet("profiles", "show", "corstone-300-u55").stdout
    )


def test_the_command_refuses_a_wrong_board_with_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(altered("raspberry-pi-4", "runtime.version", "latest"))
    done = edgefleet("profiles", "validate", str(file))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "error: mine.toml: runtime.version is 'latest', expected numbers with dots between them\n"
        "hint: correct the fields that are named, then: edgefleet profiles validate\n"
    )
