# SPDX-License-Identifier: Apache-2.0
"""A model's outputs as an emulated Linux device computes them, with LiteRT's production or reference kernels."""

import tempfile
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from edgefleet.contracts.errors import ModelFailedError
from edgefleet.runtimes.interpreter import Array
from edgefleet.runtimes.litert import Kernels
from fleet_emulation.linux_devices.device import LinuxDevice
from fleet_emulation.linux_devices.result import Result
from fleet_emulation.linux_devices.user_mode import ArmPython

_SCRIPT = files("fleet_emulation.linux_devices.inside") / "infer.py"
_ON_DEVICE = "/tmp/edgefleet-infer"  # noqa: S108  # a device has one user
_LIMIT_S = 120.0


def infer_in_user_mode(
    python: ArmPython, model: bytes, inputs: Sequence[Array], *, kernels: Kernels, limit_s: float = _LIMIT_S
) -> list[Array]:
    """Return the outputs for samples; each array's first axis counts them.

    Raises:
        ModelFailedError: the model does not load or run.
        UnreachableError: it takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="edgefleet-infer-") as name, as_file(_SCRIPT) as script:
        folder = Path(name)
        (folder / "model").write_bytes(model)
        _write(folder / "inputs.npz", inputs)
        words = [script, folder / "model", folder / "inputs.npz", folder / "outputs.npz", kernels]
        _check(python.run(words, limit_s=limit_s))
        return _read(folder / "outputs.npz")


def infer_on(
    device: LinuxDevice, model: bytes, inputs: Sequence[Array], *, kernels: Kernels, limit_s: float = _LIMIT_S
) -> list[Array]:
    """Return the outputs for samples as a whole device computes them; see :func:`infer_in_user_mode`."""
    with tempfile.TemporaryDirectory(prefix="edgefleet-infer-") as name:
        archive = Path(name) / "values.npz"
        _write(archive, inputs)
        device.put(_SCRIPT.read_bytes(), f"{_ON_DEVICE}/infer.py")
        device.put(model, f"{_ON_DEVICE}/model")
        device.put(archive, f"{_ON_DEVICE}/inputs.npz")
        words = [f"{_ON_DEVICE}/{file}" for file in ("infer.py", "model", "inputs.npz", "outputs.npz")]
        _check(device.run(["python3", *words, kernels], limit_s=limit_s))
        archive.write_bytes(device.get(f"{_ON_DEVICE}/outputs.npz"))
        return _read(archive)


def _write(path: Path, inputs: Sequence[Array]) -> None:
    named: dict[str, Any] = {f"x{number}": values for number, values in enumerate(inputs)}
    np.savez(path, **named)


def _read(path: Path) -> list[Array]:
    with np.load(path, allow_pickle=False) as stored:
        return [stored[f"y{number}"] for number in range(len(stored.files))]


def _check(done: Result) -> None:
    if done.status == 0:
        return
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    raise ModelFailedError(
        f"the model does not run on the emulated device: {lines[-1][:500] if lines else f'status {done.status}'}",
        hint="try it on this machine first: edgefleet run",
    )
