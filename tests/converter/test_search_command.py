# SPDX-License-Identifier: Apache-2.0
"""A search through the command line: what it finds can be made again, by its recipe and from the bundle."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from converter.core.recipe import read_recipe
from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.canonical import sha256_file

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
NAME = "digits-1.0.0-linux-x86_64"
START = 'format_version = 2\nprecision = "int8"\nconditioning = ["none"]\n'
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    with np.load(DIGITS / "digits.npz") as stored:
        np.savez(folder / "calibration.npz", x=stored["calibration_x"], y=stored["calibration_y"])
        np.savez(folder / "live.npz", x=stored["live_x"][:200], y=stored["live_y"][:200])
    (folder / "model.tflite").write_bytes((DIGITS / "v1_float32.tflite").read_bytes())
    (folder / "start.toml").write_text(START)
    return folder


def arguments(sources: Path, out: Path, *, evaluated: bool) -> Sequence[object]:
    evaluation = ("--evaluation", sources / "live.npz") if evaluated else ()
    return (
        "convert", sources / "model.tflite", "--profile", "linux-x86_64", "--name", "digits", "--version", "1.0.0",
        "--calibration", sources / "calibration.npz", *evaluation, "--out", out,
    )  # fmt: skip


@pytest.fixture(scope="module", params=[True, False], ids=["with evaluation samples", "without"])
def searched(
    request: pytest.FixtureRequest, converter_command: Command, sources: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, bool]:
    """A bundle that was searched for, and whether there were evaluation samples."""
    out, evaluated = tmp_path_factory.mktemp("dist"), bool(request.param)
    done = converter_command(
        *arguments(sources, out, evaluated=evaluated), "--recipe", sources / "start.toml",
        "--max-accuracy-drop", "10pt", "--search-limit", "50s", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "candidate" not in done.stderr  # no terminal: no progress
    assert sum(candidate["chosen"] for candidate in json.loads(done.stdout)["evidence"]["candidates"]) == 1
    return out / f"{NAME}.bundle", evaluated


def test_the_recipe_beside_the_bundle_is_the_one_inside_it(searched: tuple[Path, bool]) -> None:
    path, evaluated = searched
    saved = path.with_suffix(".recipe.json")
    bundle = open_bundle(path)
    assert saved.read_bytes() == bundle.read("recipe.json")
    assert sha256_file(saved) == bundle.manifest.lineage.recipe_sha256
    recipe = read_recipe(saved.read_bytes(), source=saved.name)
    assert recipe.calibrate_on == ("all" if evaluated else "first-third")
    evidence = json.loads(path.with_suffix(".evidence.json").read_text())
    [chosen] = [candidate for candidate in evidence["candidates"] if candidate["chosen"]]
    assert chosen["recipe_sha256"] == bundle.manifest.lineage.recipe_sha256


def test_the_recipe_makes_the_same_bytes_without_a_search(
    front_door: Command, searched: tuple[Path, bool], sources: Path, tmp_path: Path
) -> None:
    path, evaluated = searched
    done = front_door(*arguments(sources, tmp_path, evaluated=evaluated), "--recipe", path.with_suffix(".recipe.json"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_a_searched_bundle_is_made_again_to_the_byte(
    front_door: Command, searched: tuple[Path, bool], sources: Path
) -> None:
    path, evaluated = searched
    evaluation = ("--evaluation", sources / "live.npz") if evaluated else ()
    done = front_door(
        "convert", "--rebuild", path, "--source", sources / "model.tflite",
        "--calibration", sources / "calibration.npz", *evaluation,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{path.name}: made again, the same to the byte\nsha256 {sha256_file(path)}\n"


def changed(source: Path, folder: Path) -> Path:
    """Copy a file with one byte changed in its middle; an array's value in an .npz, so that it can still be read."""
    copy = folder / source.name
    if source.suffix == ".npz":
        with np.load(source) as stored:
            arrays = {name: stored[name] for name in stored.files}
        arrays["x"].view(np.uint8).reshape(-1)[arrays["x"].nbytes // 2] ^= 1
        np.savez(copy, **arrays)
    else:
        data = bytearray(source.read_bytes())
        data[len(data) // 2] ^= 1
        copy.write_bytes(data)
    return copy


def test_a_changed_byte_is_told_by_the_name_of_what_it_is_in(
    front_door: Command, searched: tuple[Path, bool], sources: Path, tmp_path: Path
) -> None:
    path, evaluated = searched
    named = {
        "--source": ("the source model", sources / "model.tflite"),
        "--calibration": ("the calibration set", sources / "calibration.npz"),
        "--recipe": ("the recipe", path.with_suffix(".recipe.json")),
        **({"--evaluation": ("the evaluation set", sources / "live.npz")} if evaluated else {}),
    }
    for option, (what, source) in named.items():
        files = {each: file for each, (_, file) in named.items()}
        files[option] = changed(source, tmp_path)
        words = [word for pair in files.items() for word in pair]
        done = front_door("convert", "--rebuild", path, *words, "--json")
        assert done.returncode == 3
        assert [found["what"] for found in json.loads(done.stdout)["findings"]] == [what]


def test_the_candidates_are_shown_as_picture_and_table(searched: tuple[Path, bool]) -> None:
    path, _ = searched
    candidates = json.loads(path.with_suffix(".evidence.json").read_text())["candidates"]
    ElementTree.fromstring(path.with_suffix(".pareto.svg").read_text())  # noqa: S314  # our own
    table = path.with_suffix(".pareto.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| #")]
    assert len(rows) == len(candidates)
    assert [("**chosen**" in row) for row in rows].count(True) == 1
    for candidate in candidates:
        assert any(f"| {candidate['model_bytes']:,} |" in row for row in rows)


def test_candidates_are_told_on_a_terminal_while_they_are_measured(sources: Path, tmp_path: Path) -> None:
    words = arguments(sources, tmp_path, evaluated=True)
    program = Path(sys.executable).with_name("edgefleet")
    command = [program, *words, "--recipe", sources / "start.toml", "--max-flash", "40kB"]
    script = subprocess.run(
        [sys.executable, "-c", IN_A_TERMINAL, *map(str, command)], capture_output=True, text=True, check=True,
        timeout=120,
    )  # fmt: skip
    assert "candidate 1: " in script.stdout
    assert (tmp_path / f"{NAME}.bundle").is_file()


#: Runs a command with a terminal as its standard error, and prints what came there.
IN_A_TERMINAL = """
import os, pty, subprocess, sys
ours, theirs = pty.openpty()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=theirs, env={**os.environ, "TERM": "dumb"})
os.close(theirs)
said = b""
while True:
    try:
        piece = os.read(ours, 4096)
    except OSError:  # so Linux says that nobody writes any more
        break
    said += piece
sys.stdout.write(said.decode())
sys.exit(child.wait())
"""


def test_options_that_mean_nothing_to_a_rebuild_are_refused(
    front_door: Command, searched: tuple[Path, bool], sources: Path
) -> None:
    path, _ = searched
    done = front_door("convert", "--rebuild", path, "--source", sources / "model.tflite", "--max-flash", "9kB")
    assert (done.returncode, done.stderr) == (
        2,
        "error: --max-flash has no meaning with --rebuild, which compares and writes nothing\n"
        "hint: leave it out: a bundle that was searched for carries the recipe that was found\n",
    )
