# SPDX-License-Identifier: Apache-2.0
"""A bundle around the repository's own model, built by hand, so that these tests need no converter."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefleet.contracts.bundle import Bundle, describe_members, open_bundle, pack
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.manifest import (
    ACCEPTANCE_PATH,
    AcceptanceExamples,
    Budgets,
    Interface,
    Lineage,
    Manifest,
    ParityVectors,
    Preprocessing,
    ProfileReference,
    RuntimeRequirement,
    Tolerances,
)
from edgefleet.runtimes.litert import LiteRtInterpreter

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
BundleMaker = Callable[..., Bundle]


@pytest.fixture(scope="session")
def digits_model() -> bytes:
    return (DIGITS / "v1_float32.tflite").read_bytes()


@pytest.fixture(scope="session")
def nan_model() -> bytes:
    """A model whose contrast normalisation divides zero by zero on a blank frame."""
    return (DIGITS / "v3_float32.tflite").read_bytes()


@pytest.fixture(scope="session")
def digits_samples() -> np.ndarray:
    """Eight live frames as the model takes them, float32 [8, 1, 8, 8, 1]."""
    with np.load(DIGITS / "digits.npz") as stored:
        return np.asarray(stored["live_x"][:8].astype(np.float32).reshape(8, 1, 8, 8, 1))


@pytest.fixture(scope="session")
def shared_model() -> Callable[[str], bytes]:
    folder = Path(os.environ.get("EDGEFLEET_SHARED", ROOT.parent / "shared")) / "models"

    def read(name: str) -> bytes:
        if not (folder / name).is_file():
            pytest.skip(f"EDGEFLEET_SHARED holds no models/{name}")
        return (folder / name).read_bytes()

    return read


@pytest.fixture
def digits_bundle(tmp_path: Path, digits_model: bytes, digits_samples: np.ndarray) -> BundleMaker:
    """Make a bundle of the digits model; arguments replace the true parity outputs, the tolerance or the examples."""

    def make(
        *, outputs: np.ndarray | None = None, production: float = 1e-4, acceptance: bytes | None = None, **changes: Any
    ) -> Bundle:
        interpreter = LiteRtInterpreter(digits_model, kernels="reference")
        if outputs is None:
            outputs = np.stack([interpreter.invoke([sample])[0] for sample in digits_samples])
        members = {
            "MODEL_CARD.md": b"# Digits\n",
            "golden/input-0.bin": digits_samples.astype("<f4").tobytes(),
            "golden/output-0.bin": outputs.astype("<f4").tobytes(),
            "model/model.tflite": digits_model,
        }
        if acceptance is not None:
            members[ACCEPTANCE_PATH] = acceptance
            changes["acceptance"] = AcceptanceExamples(
                path=ACCEPTANCE_PATH, sha256=sha256_hex(acceptance), samples=1, metric="accuracy", value=1.0
            )
        facts: dict[str, Any] = {
            "format_version": 1,
            "name": "digits",
            "version": "1.0.0",
            "task": "classification",
            "metric": "accuracy",
            "precision": "float32",
            "profile": ProfileReference(id="linux-x86_64", compat_hash="ab" * 32),
            "runtime": RuntimeRequirement(kind="litert", minimum_version="2.0.0", numerics="litert/1"),
            "interface": Interface(inputs=interpreter.inputs, outputs=interpreter.outputs),
            "preprocessing": Preprocessing(),
            "tolerances": Tolerances(unit="absolute", reference=0.0, production=production),
            "budgets": Budgets(),
            "parity": ParityVectors(samples=8, inputs=("golden/input-0.bin",), outputs=("golden/output-0.bin",)),
            "model": "model/model.tflite",
            "members": describe_members(members),
            "lineage": Lineage(source_sha256="cd" * 32, recipe_sha256="ef" * 32),
        }
        path = tmp_path / "digits.bundle"
        path.write_bytes(pack(Manifest(**{**facts, **changes}), members))
        return open_bundle(path)

    return make


@pytest.fixture
def npz() -> Callable[..., bytes]:
    def write(**arrays: Any) -> bytes:
        out = io.BytesIO()
        np.savez(out, **arrays)
        return out.getvalue()

    return write
