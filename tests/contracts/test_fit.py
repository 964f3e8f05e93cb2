# SPDX-License-Identifier: Apache-2.0
"""Whether a bundle can run on a board at all: each need against each fact, by name."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet.contracts import manifest as m
from edgefleet.contracts.enrolment import HardwareFacts
from edgefleet.contracts.errors import TrustError
from edgefleet.contracts.fit import NEEDS_KEY, Needs, misfits, needs_custom, needs_of, read_needs
from edgefleet.contracts.profile import compat_hash
from firmware_profiles.loader import list_profiles

PI = HardwareFacts(
    architecture="aarch64",
    kernel="6.1",
    cpu_count=4,
    memory_bytes=3_900_000_000,
    python="3.11.2",
    runtime="ai-edge-litert 2.3.0",
    cpu_features=("fp", "asimd", "crc32"),
    accelerators=("node:apex_0", "pci:1ac1:089a"),
    runtimes=("ai-edge-litert 2.3.0",),
)
#: What agents report that are older than the other facts.
OLD = PI.first()


def fact(**changed: object) -> HardwareFacts:
    return msgspec.structs.replace(PI, **changed)


@pytest.mark.parametrize(
    ("needs", "facts", "expected"),
    [
        (Needs(), PI, ()),
        (Needs(architecture="aarch64", cpu_features=("neon",), memory_bytes=3_000_000_000), PI, ()),
        (Needs(architecture="x86_64"), PI, ("architecture is aarch64, needed x86_64",)),
        (Needs(cpu_features=("neon", "dotprod", "fp16")), PI, ("cpu_features lack dotprod, fp16",)),
        (Needs(cpu_features=("dotprod",)), fact(cpu_features=("asimddp",)), ()),
        (Needs(cpu_features=("avx2",)), OLD, ()),
        (Needs(memory_bytes=4 << 30), PI, ("memory_bytes is 3900000000, needed 4294967296",)),
        (Needs(accelerator="edgetpu"), PI, ()),
        (Needs(accelerator="edgetpu"), fact(accelerators=("usb:18d1:9302",)), ()),
        (Needs(accelerator="edgetpu"), fact(accelerators=()), ("accelerators are none, needed edgetpu",)),
        (
            Needs(accelerator="hailo-8"),
            PI,
            ("accelerators are node:apex_0, pci:1ac1:089a, needed hailo-8",),
        ),
        (Needs(accelerator="a-make-of-its-own"), fact(accelerators=()), ()),
        (Needs(runtime="ai-edge-litert", runtime_minimum="2.3.0"), PI, ()),
        (Needs(runtime="ai-edge-litert", runtime_minimum="2.3.0"), OLD, ()),
        (
            Needs(runtime="ai-edge-litert", runtime_minimum="2.10.0"),
            PI,
            ("runtimes have ai-edge-litert 2.3.0, needed ai-edge-litert 2.10.0 or later",),
        ),
        (
            Needs(runtime="tflite-runtime", runtime_minimum="2.14.0"),
            PI,
            ("runtimes are ai-edge-litert 2.3.0, needed tflite-runtime 2.14.0",),
        ),
        (
            Needs(runtime="ai-edge-litert", runtime_minimum="2.3.0"),
            fact(runtimes=(), runtime="none"),
            ("runtimes are none, needed ai-edge-litert 2.3.0",),
        ),
        (Needs(runtime="ai-edge-litert", runtime_minimum="2.3.0"), fact(runtimes=(), runtime="odd"), ()),
        (
            Needs(architecture="x86_64", memory_bytes=8 << 30),
            PI,
            ("architecture is aarch64, needed x86_64", "memory_bytes is 3900000000, needed 8589934592"),
        ),
    ],
)
def test_each_fact_that_stands_against_a_need_is_named(
    needs: Needs, facts: HardwareFacts, expected: tuple[str, ...]
) -> None:
    assert misfits(needs, facts) == expected


@given(st.builds(Needs))
def test_needs_come_back_as_they_were_signed(needs: Needs) -> None:
    custom = msgspec.json.decode(msgspec.json.encode(needs_custom(needs)))
    assert read_needs(custom) == needs


def test_an_older_release_needs_nothing_and_a_later_need_is_passed_over() -> None:
    for custom in (None, {}, {"edgefleet": {}}):
        assert read_needs(custom) == Needs()
    assert read_needs({NEEDS_KEY: {"architecture": "aarch64", "qubits": 4}}) == Needs(architecture="aarch64")
    with pytest.raises(TrustError, match="the target's needs are malformed: Expected `int`, got `str`"):
        read_needs({NEEDS_KEY: {"memory_bytes": "much"}})


def test_the_features_of_every_linux_profile_have_names_that_a_kernel_knows() -> None:
    """A profile's feature that no kernel reports would refuse every board of its kind."""
    known = {"neon", "dotprod", "fp16", "avx2", "fma", "sse4_2", "avx512f", "vfpv4"}
    for profile in list_profiles():
        if profile.runtime.kind != "tflm":
            assert set(profile.cpu.features) <= known, profile.id


def test_needs_are_in_memory_what_they_are_when_the_metadata_was_read_again():
    custom = needs_custom(Needs(architecture="aarch64", cpu_features=("neon", "dotprod"), memory_bytes=1))
    assert json.loads(json.dumps(custom)) == custom
    assert read_needs(custom) == Needs(architecture="aarch64", cpu_features=("neon", "dotprod"), memory_bytes=1)


@pytest.mark.parametrize(("swap", "expected"), [("resident", (128 << 20) + 8 * 1000), ("cold", (128 << 20) + 4 * 1000)])
def test_memory_is_what_agent_and_model_take_and_not_what_the_profiles_board_has(swap: str, expected: int) -> None:
    profile = msgspec.structs.replace(next(p for p in list_profiles() if p.id == "raspberry-pi-4"), swap=swap)
    members = (m.Member(path="model/model.tflite", sha256="0" * 64, size_bytes=1000),)
    tensor = {"name": "x", "shape": [1, 1], "dtype": "float32"}
    manifest = msgspec.convert(
        {
            "format_version": 1, "name": "digits", "version": "1.0.0", "task": "classification", "metric": "accuracy",
            "precision": "int8", "profile": {"id": profile.id, "compat_hash": compat_hash(profile)},
            "runtime": {"kind": "litert", "minimum_version": "2.0.0", "numerics": "litert/1"},
            "interface": {"inputs": [tensor], "outputs": [tensor]}, "preprocessing": {},
            "tolerances": {"unit": "lsb", "reference": 0, "production": 1}, "budgets": {},
            "parity": {"samples": 1, "inputs": ["golden/i.bin"], "outputs": ["golden/o.bin"]},
            "model": "model/model.tflite", "members": msgspec.to_builtins(members),
            "lineage": {"source_sha256": "0" * 64, "recipe_sha256": "0" * 64},
        },
        m.Manifest,
    )  # fmt: skip
    needs = needs_of(manifest, profile)
    assert (needs.architecture, needs.memory_bytes, needs.cpu_features) == ("aarch64", expected, profile.cpu.features)
    other = msgspec.structs.replace(profile, cpu=msgspec.structs.replace(profile.cpu, features=("sve",)))
    assert needs_of(manifest, other) == Needs(runtime="ai-edge-litert", runtime_minimum="2.0.0")
