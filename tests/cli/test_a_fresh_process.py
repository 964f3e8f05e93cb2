# SPDX-License-Identifier: Apache-2.0
"""The installed programs in a process of their own: what is missing, closed or full never ends in a stack trace."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from edgefleet.cli.main import _EXTRAS, verbs

PROGRAM = str(Path(sys.executable).with_name("edgefleet"))
#: Stands in the way of packages as if they were not installed.
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
sys.meta_path.insert(0, Blocker())
sys.argv[0] = 'edgefleet'
from edgefleet.cli.main import main
main()
"""
#: What a bare 'pip install edgefleet' does not bring.
EXTRA_PACKAGES = {
    "typer", "rich", "numpy", "ai_edge_litert", "ai_edge_quantizer", "PIL", "flatbuffers", "cryptography", "tuf",
    "securesystemslib", "paho", "urllib3", "fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "httpx",
    "jinja2", "multipart", "amqtt", "pytest",
}  # fmt: skip


def _bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run edgefleet as if it were installed without any extra."""
    program = BLOCKER.format(blocked=EXTRA_PACKAGES)
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_works_without_any_extra_and_names_the_extra_of_each_verb() -> None:
    done = _bare("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name, point in verbs().items():
        extra = _EXTRAS[point.module.partition(".")[0]]
        assert re.search(rf"^  {name} +\(pip install 'edgefleet\[{extra}\]'\)$", done.stdout, re.MULTILINE), name


@pytest.mark.parametrize("verb", verbs())
def test_a_verb_without_its_extra_is_one_sentence(verb: str) -> None:
    extra = _EXTRAS[verbs()[verb].module.partition(".")[0]]
    done = _bare(verb)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: 'edgefleet {verb}' needs the Python package 'typer', which is not installed\n"
        f"hint: run: pip install 'edgefleet[{extra}]'\n"
    )


def test_a_missing_extra_is_one_json_document_too() -> None:
    done = _bare("convert", "model.tflite", "--json")
    assert json.loads(done.stdout)["error"]["code"] == "extra-missing"
    assert (done.returncode, done.stderr) == (1, "")


def test_the_version_is_the_packages() -> None:
    done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"edgefleet {version('edgefleet')}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["doctor"], ["doctor", "--json"]])
def test_a_reader_that_goes_away_is_no_stack_trace(arguments: list[str]) -> None:
    with subprocess.Popen([PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("arguments", [["--help"], ["doctor"], ["doctor", "--json"]])
def test_a_full_disk_behind_standard_output_is_one_sentence(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    if "--json" not in arguments:
        assert done.stderr == (
            "error: cannot write to standard output: No space left on device\nhint: free space where the output goes\n"
        )


def test_a_letter_that_the_terminal_does_not_have_is_written_as_an_escape() -> None:
    program = Path(sys.executable).with_name("edgefleet")
    command = [program, "profiles", "show", "raspberry-pi-4"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "cpu: aarch64, 4 \\xd7 cortex-a72 neon\n" in done.stdout


def test_a_closed_output_is_one_sentence_and_a_closed_error_output_still_an_exit_status() -> None:
    def shell(command: str) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name("edgefleet")
        words = ["sh", "-c", f'"$0" {command}', program]
        return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)

    closed = shell("profiles list >&-")
    assert (closed.returncode, closed.stderr) == (
        1,
        "error: cannot write to standard output: it is closed\nhint: leave it open, or send it to a file\n",
    )
    silent = shell("profiles show nothing 2>&-")
    assert (silent.returncode, silent.stdout, silent.stderr) == (2, "", "")
