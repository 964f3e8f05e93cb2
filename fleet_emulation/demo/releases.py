# SPDX-License-Identifier: Apache-2.0
"""The releases of the story: what is converted, and how they are published and approved, all by the command line."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fleet_emulation.command import Outcome, edgefleet, require
from fleet_emulation.demo.stage import APPROVERS, PRODUCT, PROFILE, Stage


class Source(NamedTuple):
    """One version: its float model in ``examples/digits``, and its recipe if it has one of its own."""

    version: str
    model: str
    recipe: str = ""


#: v4 is a fine model; what is wrong with it is that only one of two approvers signed it.
SOURCES = (
    Source("1.0.0", "v1_float32.tflite"),
    Source("2.0.0", "v2_float32.tflite"),
    Source("3.0.0", "v3_float32.tflite", "float32.toml"),
    Source("4.0.0", "v1_float32.tflite"),
    Source("5.0.0", "v5_float32.tflite"),
)


class Workshop:
    """Converts all versions in the background, one after the other, while the stage is set up."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._samples = stage.folder / "samples"
        self._pool = ThreadPoolExecutor(1)
        self._bundles: dict[str, Future[Path]] = {}
        self._write_samples()
        for source in SOURCES:
            self._bundles[source.version] = self._pool.submit(self._convert, source)

    def bundle(self, version: str) -> Path:
        """Return the bundle of a version, when it is converted.

        Raises:
            EdgeFleetError: the conversion failed.
        """
        return self._bundles[version].result()

    def close(self) -> None:
        """Let go of what is not wanted any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _write_samples(self) -> None:
        self._samples.mkdir(parents=True)
        with np.load(self._stage.examples / "digits.npz", allow_pickle=False) as digits:
            for name in ("calibration", "live"):
                np.savez(self._samples / f"{name}.npz", x=digits[f"{name}_x"], y=digits[f"{name}_y"])

    def _convert(self, source: Source) -> Path:
        examples, out = self._stage.examples, self._stage.folder / "bundles"
        recipe = ("--recipe", examples / source.recipe) if source.recipe else ()
        made = edgefleet(
            "convert", examples / source.model, "--profile", PROFILE, "--name", PRODUCT, "--version", source.version,
            "--calibration", self._samples / "calibration.npz", "--evaluation", self._samples / "live.npz",
            "--acceptance", examples / "acceptance.npz", *recipe, "--out", out,
        )  # fmt: skip
        require(made)
        return out / f"{PRODUCT}-{source.version}-{PROFILE}.bundle"


def publish(stage: Stage, workshop: Workshop, version: str) -> None:
    """Upload a version with the production policy; nobody has signed it yet."""
    policy = stage.examples / "policy.toml"
    require(edgefleet("releases", "publish", workshop.bundle(version), "--policy", policy, home=stage.admin))


def approve(stage: Stage, version: str, person: str) -> Any:
    """Let one person verify and sign a release on a machine of their own."""
    home = stage.home(person)
    secret = ("--passphrase-file", home / "passphrase")
    return require(edgefleet("releases", "approve", PRODUCT, version, "--key", person, *secret, "--yes", home=home))


def release(stage: Stage, workshop: Workshop, version: str) -> None:
    """Publish a version and let both people approve it."""
    publish(stage, workshop, version)
    for person in APPROVERS:
        approve(stage, version, person)


def start_rollout(stage: Stage, version: str) -> Outcome:
    """Ask for a rollout of a version; the server may refuse."""
    return edgefleet("rollouts", "create", PRODUCT, version, home=stage.admin)
