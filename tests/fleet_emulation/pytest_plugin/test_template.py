# SPDX-License-Identifier: Apache-2.0
"""``edgefleet emulate init``: the project that it makes is green as it is, in a shell and as CI would run it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgefleet.cli.main import run, verbs
from edgefleet.contracts.errors import ConflictError, FileMissingError, InputError, UnsupportedModelError
from fleet_emulation.emulate.init import begin

pytestmark = pytest.mark.boards

PROFILE = "mps2-an386"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("projects") / "digits-on-m4"
    begin(folder, profile=PROFILE, model=None)
    return folder


@pytest.fixture
def in_shell(project: Path) -> Callable[[str], "subprocess.CompletedProcess[str]"]:
    """Run a CI step in a shell, with this environment's programs first."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": programs, "PYTEST_ADDOPTS": "-p no:cacheprovider -p no:hypothesispytest"}
    return lambda step: subprocess.run(
        ["bash", "-euc", step], cwd=project, env=environment, capture_output=True, text=True, check=False
    )


def _steps(path: Path) -> list[str]:
    """Return the commands of a CI file that only need this machine: its tests."""
    commands = re.findall(r"^ +(?:- )?(?:run: )?(.+)$", path.read_text(), re.MULTILINE)
    return [command for command in commands if command.startswith("python -m pytest")]


def test_it_has_all_that_ci_needs(project: Path) -> None:
    files = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    assert files - {"figures.xml", "figures.html"} >= {
        ".github/workflows/boards.yml",
        ".gitignore",
        ".gitlab-ci.yml",
        "README.md",
        "edgefleet-baseline.json",
        "models/digits.tflite",
        "requirements.txt",
        "tests/make_vectors.py",
        "tests/test_model.py",
        "tests/vectors.npz",
    }
    assert (project / "models/digits.tflite").stat().st_size < 30_000
    assert not re.search(r"\$\w", "".join((project / name).read_text() for name in ("README.md", ".gitlab-ci.yml")))


@pytest.mark.parametrize("ci", [".github/workflows/boards.yml", ".gitlab-ci.yml"])
def test_the_tests_of_both_ci_files_are_green(
    project: Path, in_shell: Callable[[str], "subprocess.CompletedProcess[str]"], ci: str
) -> None:
    (step,) = _steps(project / ci)
    done = in_shell(step)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    assert "as stored" in done.stdout
    assert "</html>" in (project / "figures.html").read_text()
    assert "digits on mps2-an386: instructions" in (project / "figures.xml").read_text()


def test_another_models_cost_and_answers_are_seen(
    project: Path, in_shell: Callable[[str], "subprocess.CompletedProcess[str]"]
) -> None:
    baseline = project / "edgefleet-baseline.json"
    before = baseline.read_text()
    stored = json.loads(before)
    stored["baselines"]["digits"][0]["figures"]["instructions"] -= 1
    baseline.write_text(json.dumps(stored))
    vectors = project / "tests" / "vectors.npz"
    kept = vectors.read_bytes()
    with np.load(vectors) as old:
        outputs = old["outputs"].copy()
        outputs[3, 7] ^= 1
        np.savez(vectors, inputs=old["inputs"], outputs=outputs)
    try:
        done = in_shell("python -m pytest -q")
    finally:
        baseline.write_text(before)
        vectors.write_bytes(kept)
    assert done.returncode == 1
    assert (
        "AssertionError: the output of digits on mps2-an386 differs in 1 of 200 elements, first at [3, 7]: "
        in done.stdout
    )
    assert "AssertionError: digits on mps2-an386 costs more than the baseline 'digits': instructions " in done.stdout


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(ConflictError, match="is there already, and not empty"):
        begin(tmp_path, profile=PROFILE, model=None)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("profile", "reason"),
    [("nucleo-l4r5zi", "is not emulated (compiled-only)"), ("raspberry-pi-4", "is no microcontroller's")],
)
def test_a_board_that_cannot_be_emulated_here_is_refused(tmp_path: Path, profile: str, reason: str) -> None:
    with pytest.raises(InputError) as refused:
        begin(tmp_path / "new", profile=profile, model=None)
    assert refused.value.message == f"the board of the profile '{profile}' {reason}"
    assert not (tmp_path / "new").exists()


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a model")
    with pytest.raises(UnsupportedModelError) as refused:
        begin(tmp_path / "new", profile=PROFILE, model=tmp_path / "cat.jpg")
    assert refused.value.message == "'cat.jpg' is not a TFLite model: it lacks the mark 'TFL3'"
    assert not (tmp_path / "new").exists()


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileMissingError):
        begin(tmp_path / "new", profile=PROFILE, model=tmp_path / "gone.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_goes_into_the_project_and_its_requirements(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = tmp_path / "edgefleet-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    folder = tmp_path / "new"
    command = ["emulate", "init", str(folder), "--profile", "rv32-virt", "--wheel", str(wheel), "--json"]
    assert run(command, verbs()) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["profile"], document["samples"]) == ("rv32-virt", 20)
    assert (folder / "requirements.txt").read_text().startswith(f"./wheels/{wheel.name}[emulation]\n")
    assert (folder / "wheels" / wheel.name).read_bytes() == b"a wheel"
    assert "qemu-system-misc" in (folder / ".gitlab-ci.yml").read_text()
