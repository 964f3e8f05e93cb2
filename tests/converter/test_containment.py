# SPDX-License-Identifier: Apache-2.0
"""What dies in the fork is told here; what comes back from it comes back whole."""

import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from converter.adapters.containment import contained
from edgefleet.contracts.errors import BudgetError, ModelFailedError
from edgefleet.contracts.evidence import Interval


def test_the_result_comes_back_from_another_process() -> None:
    made = Interval(low=0.0, high=1.0, level=0.95, method="paired")
    assert contained(lambda: (made, b"x" * (1 << 20), os.getppid())) == (made, b"x" * (1 << 20), os.getpid())


def test_an_error_comes_back_as_it_was_raised() -> None:
    def refuse() -> None:
        raise BudgetError("too large: 9 bytes", hint="take a smaller one")

    with pytest.raises(BudgetError) as refused:
        contained(refuse)
    assert (refused.value.message, refused.value.hint) == ("too large: 9 bytes", "take a smaller one")


@pytest.mark.parametrize("death", [signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE])
def test_a_death_becomes_a_sentence(death: signal.Signals) -> None:
    with pytest.raises(ModelFailedError) as refused:
        contained(lambda: (faulthandler.disable(), os.kill(os.getpid(), death)))
    assert refused.value.message == f"the model killed the converter ({death.name})"


def test_a_real_crash_becomes_a_sentence() -> None:
    with pytest.raises(ModelFailedError, match="SIGSEGV"):
        contained(lambda: (faulthandler.disable(), ctypes.string_at(0)))


def test_what_nobody_expected_is_told_with_its_place() -> None:
    with pytest.raises(ModelFailedError) as refused:
        contained(_divide)
    line = _divide.__code__.co_firstlineno + 1
    assert refused.value.message == (
        "the converter cannot make sense of the model: ZeroDivisionError: integer division or modulo by zero "
        f"(test_containment.py, line {line})"
    )


def _divide() -> int:
    return 1 // 0


def test_an_exit_without_an_answer_becomes_a_sentence() -> None:
    with pytest.raises(ModelFailedError) as refused:
        contained(lambda: os._exit(0))
    assert refused.value.message == "the model killed the converter (exit status 0)"


def test_the_fork_runs_nothing_of_this_process_behind_the_work(tmp_path: Path) -> None:
    marker = tmp_path / "left"
    try:
        contained(lambda: None)
    finally:
        with marker.open("a") as stream:
            stream.write("once")
    assert marker.read_text() == "once"


def test_a_fork_that_is_told_to_stop_tidies_up_and_stops(tmp_path: Path) -> None:
    """SIGTERM, in a process of its own, whose fork has made a folder that must not stay."""
    program = (
        "import os, pathlib, sys, tempfile, threading\n"
        "from converter.adapters.containment import contained\n"
        "def work():\n"
        "    with tempfile.TemporaryDirectory(dir=sys.argv[1]):\n"
        "        os.write(1, str(os.getpid()).encode())\n"
        "        os.close(1)\n"
        "        threading.Event().wait()\n"
        "contained(lambda: work())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        fork = int(os.read(running.stdout.fileno(), 16))
        running.terminate()
        _, said = running.communicate(timeout=60)
    assert (running.returncode, said) == (-signal.SIGTERM, b"")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(fork, 0)
