# SPDX-License-Identifier: Apache-2.0
"""The commands of README and tutorial, run as they stand: in order, in one shell, in a folder of their own."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PATHS = ("/usr/sbin", "/usr/local/sbin", "/sbin")
DEADLINE_S = 1200


def _script(page: str) -> str:
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks, f"{page} has no commands"
    return "set -eu\n" + "\n".join(blocks)


def _run(script: str, folder: Path) -> str:
    """Run a script with the programs of this environment, and end whatever it leaves behind."""
    programs = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": os.pathsep.join([programs, os.environ["PATH"], *SYSTEM_PATHS])}
    environment.pop("EDGEFLEET_HOME", None)
    with subprocess.Popen(
        ["bash"], cwd=folder, env=environment, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as shell:  # fmt: skip
        try:
            out, _ = shell.communicate(script, timeout=DEADLINE_S)
        finally:
            _end_group(shell.pid)
    assert shell.returncode == 0, out
    return out


def _end_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return  # nothing was left


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [made.getsockname()[1] for made in sockets]
    for made in sockets:
        made.close()
    return ports


def _require(*programs: str) -> None:
    """Skip where something is missing; "a or b" asks for one of them, and zig may come from PyPI."""
    missing = [choice for choice in programs if not any(_is_installed(program) for program in choice.split(" or "))]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def _is_installed(program: str) -> bool:
    path = os.pathsep.join([os.environ["PATH"], *SYSTEM_PATHS])
    return shutil.which(program, path=path) is not None or (program == "zig" and find_spec("ziglang") is not None)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the checkout to a reader's commands."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def test_the_readmes_taste_runs(checkout: Path) -> None:
    with np.load(ROOT / "examples" / "digits" / "digits.npz") as digits:
        np.savez(checkout / "calibration.npz", x=digits["calibration_x"])
    out = _run(_script("README.md"), checkout)
    assert (checkout / "dist" / "digits-1.0.0-linux-x86_64.bundle").is_file()
    assert "digits-1.0.0-linux-x86_64.bundle is sound" in out


@pytest.mark.slow
def test_the_first_rollout_runs_as_it_is_told(checkout: Path) -> None:
    _require("mosquitto")
    script = _script("docs/tutorials/first-rollout.md")
    for told, free in zip((1883, 8080, 8443), _free_ports(3), strict=True):
        script = re.sub(rf"(?<=[: ]){told}\b", str(free), script)
    out = _run(script, checkout)
    assert "completed" in out
    assert "rollback-verified (non-finite)" in out
    assert "exit status 5" in out
    streamed = (checkout / "tutorial" / "stream-blank.log").read_text(encoding="utf-8").splitlines()
    assert streamed
    assert {line.rpartition(" ")[0] for line in streamed if line} <= {"ok digits 1.0.0", "ok digits 1.1.0"}


@pytest.mark.slow
def test_a_model_on_an_emulated_board_runs_as_it_is_told(tmp_path: Path) -> None:
    _require("qemu-system-arm", "zig", "arm-none-eabi-objdump", "cc")
    out = _run(_script("docs/tutorials/a-model-on-an-emulated-board.md"), tmp_path)
    assert "digits on mps2-an386 costs more than the baseline 'digits': instructions " in out
    assert "exit status 1" in out
    assert out.count("3 passed") == 3
    assert (tmp_path / "digits-on-m4" / "figures.html").is_file()


@pytest.mark.slow
def test_running_and_comparing_on_an_emulated_board_go_as_the_guides_say(checkout: Path) -> None:
    _require("qemu-system-arm", "arm-none-eabi-gcc or zig", "cc")
    out = _run(_script("docs/how-to/run-on-an-emulated-board.md"), checkout)
    assert "answers.npy: 20 samples on mps2-an386" in out
    assert '"profile": "mps2-an385"' in out
    assert np.load(checkout / "answers.npy").shape == (20, 10)
    out = _run(_script("docs/how-to/compare-layer-by-layer.md"), checkout)
    assert re.search(r"^same +this machine, generated C: \d+ layers, bit for bit$", out, re.MULTILINE)
    assert re.search(r"^same +mps2-an386, generated C: \d+ layers, bit for bit$", out, re.MULTILINE)
