# SPDX-License-Identifier: Apache-2.0
"""The releases of the story: what is converted, and how they are published and approved, all by the command line."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fleet_emulation.command import Outcome, edgefleet, require
from fleet_emulation.demo.stage import Stage
from fleet_emulation.testbed import APPROVERS, PRODUCT, PROFILE


class Source(NamedTuple):
    """One version: its float model in ``examples/digits``, who approves it, and its recipe if it has one of its own."""

    version: str
    model: str
    approvers: tuple[str, ...] = APPROVERS
    recipe: str = ""


#: v4 is a fine model; what is wrong with it is that only one of two approvers signed it.
SOURCES = (
    Source("1.0.0", "v1_float32.tflite"),
    Source("2.0.0", "v2_float32.tflite"),
    Source("3.0.0", "v3_float32.tflite", recipe="float32.toml"),
    Source("4.0.0", "v1_float32.tflite", approvers=APPROVERS[:1]),
    Source("5.0.0", "v5_float32.tflite"),
)


class Workshop:
    """Converts all versions ahead of their stories, and releases them: what people do before a rollout."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._samples = stage.folder / "samples"
        self._bench = ThreadPoolExecutor(1)
        self._desk = ThreadPoolExecutor(1)
        self._write_samples()
        self._bundles: dict[str, Future[Path]] = {}
        self._released: dict[str, Future[None]] = {}
        self.convert_ahead("1.0.0")

    def convert_ahead(self, *versions: str) -> None:
        """Convert versions in the background, one after the other."""
        for source in SOURCES:
            if source.version in versions and source.version not in self._bundles:
                self._bundles[source.version] = self._bench.submit(self._convert, source)

    def release_ahead(self, *versions: str) -> None:
        """Publish versions and let their approvers sign, one after the other, as soon as each is converted."""
        self.convert_ahead(*versions)
        for source in SOURCES:
            if source.version in versions:
                self._released[source.version] = self._desk.submit(self._release, source)

    def wait_for_release(self, version: str) -> None:
        """Return when a version has all the approvals that it will get.

        Raises:
            EdgeFleetError: its conversion, publication or approval failed.
        """
        self._released[version].result()

    def close(self) -> None:
        """Let go of what is not wanted any more."""
        self._bench.shutdown(wait=False, cancel_futures=True)
        self._desk.shutdown(wait=False, cancel_futures=True)

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

    def _release(self, source: Source) -> None:
        bundle, policy = self._bundles[source.version].result(), self._stage.examples / "policy.toml"
        require(edgefleet("releases", "publish", bundle, "--policy", policy, home=self._stage.admin))
        for person in source.approvers:
            home = self._stage.home(person)
            key = ("--key", person, "--passphrase-file", home / "passphrase", "--yes")
            require(edgefleet("releases", "approve", PRODUCT, source.version, *key, home=home))


def start_rollout(stage: Stage, version: str) -> Outcome:
    """Ask for a rollout of a version; the server may refuse."""
    return edgefleet("rollouts", "create", PRODUCT, version, home=stage.admin)
