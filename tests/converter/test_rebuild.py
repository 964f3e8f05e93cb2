# SPDX-License-Identifier: Apache-2.0
"""A bundle is made again to the byte, or the source that differs is named."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest

from converter.adapters.user_code.metrics import load_metric
from converter.core.recipe import Recipe
from converter.core.request import ConversionRequest
from converter.pipeline import convert
from converter.rebuilding import Difference, RebuildSources, describe_difference, rebuild
from edgefleet.contracts.bundle import open_bundle, pack
from edgefleet.contracts.canonical import sha256_file, sha256_hex
from edgefleet.contracts.manifest import Budgets, FeaturePreprocessing, Manifest, Preprocessing, Tool
from firmware_profiles import load_profile

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
NOW = datetime(2026, 11, 22, 19, tzinfo=UTC)
RECIPE = Recipe(precision="int8", conditioning=("none",))
COLUMNS = FeaturePreprocessing(mean=(0.0,), deviation=(1.0,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of a bundle, and the bundle."""
    made = tmp_path_factory.mktemp("rebuild")
    with np.load(DIGITS / "digits.npz") as stored:
        np.savez(made / "calibration.npz", x=stored["calibration_x"][:24])
        np.savez(made / "other.npz", x=stored["calibration_x"][:23])
        np.savez(made / "live.npz", x=stored["live_x"][:30], y=stored["live_y"][:30])
    model = (DIGITS / "v1_float32.tflite").read_bytes()
    (made / "model.tflite").write_bytes(model)
    (made / "changed.tflite").write_bytes(model[:-1] + bytes([model[-1] ^ 1]))
    named = sources(made)
    request = ConversionRequest(
        model=named.model, profile=named.profile, name="digits", version="1.0.0", task="classification",
        metric=named.metric, recipe=RECIPE, calibration=named.calibration, evaluation=named.evaluation,
        acceptance=named.acceptance,
    )  # fmt: skip
    (made / "digits.bundle").write_bytes(convert(request, now=NOW).bundle)
    return made


def sources(folder: Path) -> RebuildSources:
    return RebuildSources(
        model=folder / "model.tflite", profile=load_profile("linux-x86_64"),
        metric=load_metric(None, "classification"), calibration=folder / "calibration.npz",
        evaluation=folder / "live.npz", acceptance=DIGITS / "acceptance.npz", recipe=RECIPE,
    )  # fmt: skip


def again(folder: Path, **changes: object) -> Difference:
    return rebuild(folder / "digits.bundle", replace(sources(folder), **changes), now=NOW)  # type: ignore[arg-type]


def test_the_same_sources_make_the_same_bytes(folder: Path) -> None:
    found = again(folder)
    assert found.same
    assert found.sha256 == found.rebuilt_sha256 == sha256_file(folder / "digits.bundle")
    assert describe_difference(found) == f"digits.bundle: made again, the same to the byte\nsha256 {found.sha256}"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (lambda folder: {"model": folder / "changed.tflite"}, "the source model"),
        (lambda folder: {"recipe": Recipe(precision="int8", conditioning=("none",), ranges="mse")}, "the recipe"),
        (lambda folder: {"calibration": folder / "other.npz"}, "the calibration set"),
        (lambda folder: {"calibration": None}, "the calibration set"),
        (lambda folder: {"evaluation": folder / "other.npz"}, "the evaluation set"),
        (lambda folder: {"labels": ("a", "b")}, "the list of class names"),
        (lambda folder: {"preprocessing": Preprocessing(features=COLUMNS)}, "the preprocessing"),
        (lambda folder: {"acceptance": folder / "live.npz"}, "the set of acceptance examples"),
        (lambda folder: {"profile": load_profile("raspberry-pi-4")}, "the profile"),
        (lambda folder: {"metric": load_metric("macro-f1", "classification")}, "the metric"),
        (
            lambda folder: {
                "profile": msgspec.structs.replace(load_profile("linux-x86_64"), budgets=Budgets(model_bytes=9))
            },
            "the profile's budgets",
        ),
    ],
)
def test_the_source_that_differs_is_named(
    folder: Path, changes: Callable[[Path], dict[str, object]], what: str
) -> None:
    found = again(folder, **changes(folder))
    assert (found.same, found.rebuilt_sha256) == (False, None)
    assert what in [finding.what for finding in found.findings]


def test_both_hashes_are_told(folder: Path) -> None:
    found = again(folder, model=folder / "changed.tflite", calibration=None)
    recorded = open_bundle(folder / "digits.bundle").manifest.lineage
    assert describe_difference(found) == (
        "digits.bundle: not made again, as it would be another bundle\n"
        f"  the source model differs: recorded {recorded.source_sha256}, "
        f"found {sha256_file(folder / 'changed.tflite')}\n"
        f"  the calibration set differs: recorded {recorded.calibration_sha256}, found none"
    )


def test_a_damaged_source_is_one_that_differs(folder: Path, tmp_path: Path) -> None:
    recorded = open_bundle(folder / "digits.bundle").manifest.lineage
    samples = bytearray((folder / "calibration.npz").read_bytes())
    samples[len(samples) // 2] ^= 1
    (tmp_path / "calibration.npz").write_bytes(samples)
    (tmp_path / "recipe.toml").write_text('format_version = 2\nprecision = "int9"\n')
    found = again(folder, calibration=tmp_path / "calibration.npz", recipe=tmp_path / "recipe.toml")
    assert describe_difference(found) == (
        "digits.bundle: not made again, as it would be another bundle\n"
        f"  the recipe differs: recorded {recorded.recipe_sha256}, found nothing that can be read: recipe.toml: "
        "Invalid enum value 'int9' - at `$.precision`\n"
        f"  the calibration set differs: recorded {recorded.calibration_sha256}, found nothing that can be read: "
        "calibration.npz is not a readable .npz: Bad CRC-32 for file 'x.npy'"
    )


def test_what_is_in_the_bundle_need_not_be_named_and_what_was_not_checked_is_told(folder: Path) -> None:
    found = again(folder, recipe=None, acceptance=None, evaluation=None)
    assert (found.same, found.unchecked) == (True, ("the evaluation set",))
    assert describe_difference(found) == (
        f"digits.bundle: made again, the same to the byte\nsha256 {found.sha256}\n"
        "  not checked, as it was not named: the evaluation set"
    )


def rewritten(folder: Path, tmp_path: Path, change: Callable[[Manifest, dict[str, bytes]], Manifest]) -> Path:
    """Write the bundle with another manifest or members."""
    bundle = open_bundle(folder / "digits.bundle")
    members = {path: bundle.read(path) for path in bundle.spans}
    path = tmp_path / "digits.bundle"
    path.write_bytes(pack(change(bundle.manifest, members), members))
    return path


def test_a_tool_of_another_version_is_named_beside_what_came_out_otherwise(folder: Path, tmp_path: Path) -> None:
    def older(manifest: Manifest, _: dict[str, bytes]) -> Manifest:
        tools = tuple(Tool(name=t.name, version="0.0.1") if t.name == "numpy" else t for t in manifest.lineage.tools)
        return msgspec.structs.replace(manifest, lineage=msgspec.structs.replace(manifest.lineage, tools=tools))

    found = rebuild(rewritten(folder, tmp_path, older), sources(folder), now=NOW)
    assert [(f.what, f.recorded) for f in found.findings] == [("the tool numpy", "0.0.1")]
    assert found.parts == ("manifest.lineage",)
    assert found.rebuilt_sha256 == sha256_file(folder / "digits.bundle")


def test_a_bundle_that_nobody_could_make_so_is_told_by_its_parts(folder: Path, tmp_path: Path) -> None:
    def forged(manifest: Manifest, members: dict[str, bytes]) -> Manifest:
        members["MODEL_CARD.md"] += b"\nApproved by everybody.\n"
        changed = tuple(
            msgspec.structs.replace(m, sha256=sha256_hex(members[m.path]), size_bytes=len(members[m.path]))
            for m in manifest.members
        )
        return msgspec.structs.replace(manifest, members=changed)

    found = rebuild(rewritten(folder, tmp_path, forged), sources(folder), now=NOW)
    assert (found.same, found.findings, found.parts) == (False, (), ("MODEL_CARD.md",))
