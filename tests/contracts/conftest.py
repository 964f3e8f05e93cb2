# SPDX-License-Identifier: Apache-2.0
"""A small bundle that keeps every rule, to be bent by the tests."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgefleet.contracts.bundle import describe_members, pack
from edgefleet.contracts.manifest import (
    Budgets,
    Interface,
    Lineage,
    Manifest,
    ParityVectors,
    Preprocessing,
    ProfileReference,
    RuntimeRequirement,
    TensorSpec,
    Tolerances,
)

MEMBERS = {
    "MODEL_CARD.md": b"# Card\n",
    "golden/input-0.bin": b"\x01\x02\x03\x04",
    "golden/output-0.bin": b"\x05\x06",
    "model/model.tflite": b"not looked into by the contract" * 40,
}


@dataclass(frozen=True)
class Parts:
    """What a bundle is packed from."""

    manifest: Manifest
    members: dict[str, bytes]


@pytest.fixture
def parts() -> Parts:
    manifest = Manifest(
        format_version=1,
        name="digits",
        version="1.0.0",
        task="classification",
        metric="accuracy",
        precision="int8",
        profile=ProfileReference(id="linux-x86_64", compat_hash="ab" * 32),
        runtime=RuntimeRequirement(kind="litert", minimum_version="2.0.0", numerics="litert/1"),
        interface=Interface(
            inputs=(TensorSpec(name="in", shape=(1, 4), dtype="int8", scale=0.5, zero_point=-1),),
            outputs=(TensorSpec(name="out", shape=(1, 2), dtype="int8", scale=0.25, zero_point=0),),
        ),
        preprocessing=Preprocessing(),
        tolerances=Tolerances(unit="lsb", reference=0.0, production=2.0),
        budgets=Budgets(),
        parity=ParityVectors(samples=1, inputs=("golden/input-0.bin",), outputs=("golden/output-0.bin",)),
        model="model/model.tflite",
        members=describe_members(MEMBERS),
        lineage=Lineage(source_sha256="cd" * 32, recipe_sha256="ef" * 32),
    )
    return Parts(manifest, dict(MEMBERS))


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "x.bundle"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def packed(parts: Parts) -> bytes:
    return pack(parts.manifest, parts.members)
