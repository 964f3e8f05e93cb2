# SPDX-License-Identifier: Apache-2.0
"""The plugin in other people's test runs: light until it is used, and clear in what it says. Boards are real ones."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import fleet_emulation.testing.fixture  # noqa: F401  # runs in this process would each load it anew
from edgefleet.contracts.errors import BoardError, InputError

if TYPE_CHECKING:
    from fleet_emulation.testing.fixture import EdgeFleet

pytestmark = pytest.mark.boards

pytest_plugins = ["pytester"]

Run = Callable[..., pytest.RunResult]

LOOP = """
#include "board.h"

static volatile uint32_t sink, rounds = ROUNDS;

int main(void) {
    const uint32_t end = rounds;
    BOARD_RUN_BEGIN();
    for (uint32_t i = 0; i < end; i++) sink = i;
    BOARD_RUN_END();
    return 0;
}
"""
COMPARED = """
import pytest

@pytest.mark.parametrize("profile", %s)
def test_loop(edgefleet, profile):
    board = edgefleet.board(profile, sources=["loop.c"], defines={"ROUNDS": "%d"}, compiler="gcc")
    edgefleet.baseline("loop", %s).check(board.run())
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with a program whose cost its tests choose."""
    pytester.path.joinpath("loop.c").write_text(LOOP)
    pytester.makeini("[pytest]\n")
    return pytester


def _compare(
    project: pytest.Pytester, rounds: int, more: str = "", profiles: tuple[str, ...] = ("mps2-an386",)
) -> None:
    project.makepyfile(test_loop=COMPARED % (list(profiles), rounds, more))


@pytest.fixture
def run(project: pytest.Pytester) -> Run:
    """Run the project's tests without plugins that would only take time."""
    plugins = ("-p", "no:hypothesispytest", "-p", "no:anyio", "-p", "no:cacheprovider")
    return lambda *options: project.runpytest_inprocess(*plugins, *options)


def _said(result: pytest.RunResult) -> str:
    return "\n".join(result.outlines)


def test_it_loads_pytest_and_the_standard_library_only_until_the_fixture_is_used(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text("def test_other():\n    pass\n")
    script = (
        "import sys, pytest\n"
        "status = pytest.main(['-q', '-p', 'no:cacheprovider', '--edgefleet-html=page.html', 'test_other.py'])\n"
        "packages = {name.partition('.')[0] for name in sys.modules}\n"
        "ours = sorted(name for name in sys.modules if name.startswith(('fleet_emulation', 'edgefleet')))\n"
        "heavy = sorted(packages & {'numpy', 'msgspec', 'converter', 'typer', 'firmware_profiles', 'device_agent'})\n"
        "print(int(status), ours, heavy)\n"
    )
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "check": True}
    environment = {
        **os.environ,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "fleet_emulation.pytest_plugin",
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, **options)  # type: ignore[call-overload]
    assert done.stdout.splitlines()[-1] == "0 ['fleet_emulation', 'fleet_emulation.pytest_plugin'] []"
    assert not (tmp_path / "page.html").exists()


def test_pytest_finds_it_by_its_entry_point() -> None:
    (found,) = [point for point in entry_points(group="pytest11") if point.dist and point.dist.name == "edgefleet"]
    assert (found.name, found.value) == ("edgefleet", "fleet_emulation.pytest_plugin")


def test_figures_are_stored_compared_and_a_planted_slowdown_of_one_percent_fails(
    run: Run, project: pytest.Pytester
) -> None:
    stored = project.path / "edgefleet-baseline.json"
    _compare(project, 1000)

    missing = run()
    missing.assert_outcomes(failed=1)
    assert f"SettingError: there is no baseline 'loop' for mps2-an386 yet in {stored}" in _said(missing)
    assert not stored.exists()

    updated = run("--edgefleet-update-baseline")
    updated.assert_outcomes(passed=1)
    assert f"stored: 1 baseline in {stored}" in updated.outlines
    first = stored.read_bytes()
    (entry,) = json.loads(first)["baselines"]["loop"]
    assert (entry["key"]["profile"], entry["key"]["compiler"]) == ("mps2-an386", "gcc")

    again = run()
    again.assert_outcomes(passed=1)
    assert "as stored" in _said(again)

    _compare(project, 1010)
    slower = run()
    slower.assert_outcomes(failed=1)
    count = entry["figures"]["instructions"]
    assert f"AssertionError: loop on mps2-an386 costs more than the baseline 'loop': instructions {count:,} → " in (
        _said(slower)
    )
    assert "run 'pytest --edgefleet-update-baseline' and commit the file, if this is meant" in _said(slower)

    _compare(project, 1010, "tolerance_percent=1.1")
    run().assert_outcomes(passed=1)

    _compare(project, 990)
    faster = run()
    faster.assert_outcomes(passed=1)
    assert "keep what was won: pytest --edgefleet-update-baseline" in faster.outlines
    assert stored.read_bytes() == first


def test_another_compiler_is_a_warning_and_no_failure(run: Run, project: pytest.Pytester) -> None:
    _compare(project, 1000)
    run("--edgefleet-update-baseline").assert_outcomes(passed=1)
    stored = project.path / "edgefleet-baseline.json"
    stored.write_text(stored.read_text().replace('"version": "', '"version": "0.'))
    _compare(project, 5000)
    for options in ((), ("-W", "error")):
        other = run(*options)
        other.assert_outcomes(passed=1, warnings=0 if options else 1)
        assert "loop on mps2-an386 is not compared with the baseline 'loop', which is of gcc 0." in _said(other)


def test_with_workers_every_figure_arrives_and_the_file_is_the_same(run: Run, project: pytest.Pytester) -> None:
    _compare(project, 1000, profiles=("mps2-an385", "mps2-an386"))
    stored = project.path / "edgefleet-baseline.json"
    run("--edgefleet-update-baseline").assert_outcomes(passed=2)
    alone = stored.read_bytes()
    stored.unlink()
    both = run(
        "--edgefleet-update-baseline", "--numprocesses=2", "--junitxml=figures.xml", "--edgefleet-html=page.html"
    )
    both.assert_outcomes(passed=2)
    assert stored.read_bytes() == alone
    assert "loop on mps2-an385" in _said(both)
    assert "loop on mps2-an386" in _said(both)
    assert (project.path / "page.html").read_text().count("<section ") == 2
    assert len(_properties(project.path / "figures.xml")) == 2


def _properties(path: Path) -> list[dict[str, str]]:
    cases = ElementTree.parse(path).getroot().iter("testcase")  # noqa: S314  # pytest wrote it just now
    return [{p.attrib["name"]: p.attrib["value"] for p in case.iter("property")} for case in cases]


def test_junit_has_the_figures_of_each_test(run: Run, project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_loop(edgefleet):
            result = edgefleet.board("mps2-an386", sources=["loop.c"], defines={"ROUNDS": "10"}).run()
            with open("figures.txt", "w") as file:
                print(*result.measured.figures.values(), file=file)
        """
    )
    run("--junitxml=figures.xml").assert_outcomes(passed=1)
    (properties,) = _properties(project.path / "figures.xml")
    assert list(properties) == [
        f"loop on mps2-an386: {figure}"
        for figure in (
            "instructions",
            "loads",
            "stores",
            "stack_bytes",
            "stack_bound_bytes",
            "flash_bytes",
            "ram_bytes",
        )
    ]
    assert list(properties.values()) == (project.path / "figures.txt").read_text().split()


def test_figures_of_a_test_that_fails_are_not_stored(run: Run, project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_loop(edgefleet):
            result = edgefleet.board("mps2-an386", sources=["loop.c"], defines={"ROUNDS": "10"}).run()
            edgefleet.baseline("loop").check(result)
            assert result.exit_code == 1
        """
    )
    failed = run("--edgefleet-update-baseline")
    failed.assert_outcomes(failed=1)
    assert "not stored, because the test failed: the figures of " in _said(failed)
    assert not (project.path / "edgefleet-baseline.json").exists()


def test_two_tests_with_different_figures_under_one_name_fail_the_run(run: Run, project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("rounds", ["10", "20"])
        def test_loop(edgefleet, rounds):
            board = edgefleet.board("mps2-an386", sources=["loop.c"], defines={"ROUNDS": rounds})
            edgefleet.baseline("loop").check(board.run())
        """
    )
    conflict = run("--edgefleet-update-baseline")
    assert conflict.ret == pytest.ExitCode.TESTS_FAILED
    assert "ERROR two tests measured different figures under the baseline 'loop' for mps2-an386" in _said(conflict)
    assert not (project.path / "edgefleet-baseline.json").exists()


def test_a_broken_baseline_file_fails(run: Run, project: pytest.Pytester) -> None:
    _compare(project, 10)
    (project.path / "edgefleet-baseline.json").write_text("{}[]")
    broken = run()
    broken.assert_outcomes(failed=1)
    assert "SettingError: 'edgefleet-baseline.json' is not a baseline file: " in _said(broken)


@pytest.mark.parametrize(("option", "outcome"), [("fail", "failed"), ("skip", "skipped")])
def test_a_missing_emulator_fails_or_skips_with_a_sentence(
    run: Run, project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, option: str, outcome: str
) -> None:
    project.makepyfile(
        """
        def test_loop(edgefleet):
            edgefleet.board("mps2-an386", sources=["loop.c"], defines={"ROUNDS": "10"}).run()
        """
    )
    monkeypatch.setenv("EDGEFLEET_QEMU_DIR", str(project.path))
    done = run(f"--edgefleet-missing={option}", "-rs")
    done.assert_outcomes(**{outcome: 1})
    assert f"the emulator 'qemu-system-arm' is not installed in {project.path} (EDGEFLEET_QEMU_DIR)" in _said(done)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("for (;;) {}", "BoardError: the board 'mps2-an386' did not end in 2 s and was stopped"),
        ("*(volatile int *)0xFFFFFFF0 = 1; return 0;", "BoardError: the processor of the board 'mps2-an386' faulted"),
        ("return nothing;", "BuildError: wrong.c does not compile with gcc "),
        ("extern int gone(void); return gone();", "BuildError: the image does not link with gcc "),
        ("static volatile char big[5000000]; return big[7];", "BudgetError: the image does not fit mps2-an386: "),
    ],
)
def test_what_goes_wrong_on_a_board_is_one_sentence_at_the_tests_own_line(
    run: Run, project: pytest.Pytester, body: str, message: str
) -> None:
    project.path.joinpath("wrong.c").write_text(f"int main(void);\nint main(void) {{ {body} }}\n")
    project.makepyfile(
        """
        def test_wrong(edgefleet):
            board = edgefleet.board("mps2-an386", sources=["wrong.c"], compiler="gcc", timeout_s=LIMIT_S)
            board.run()
        """.replace("LIMIT_S", "2" if "did not end" in message else "120")
    )
    wrong = run()
    wrong.assert_outcomes(failed=1)
    told = [line for line in wrong.outlines if line.startswith("E ")]
    assert told[0].startswith(f"E       edgefleet.contracts.errors.{message}")
    assert told[1].startswith("E       hint: ")
    assert not any("fleet_emulation/testing" in line for line in wrong.outlines)


def test_what_a_test_starts_ends_with_it_and_what_a_fixture_starts_ends_with_the_fixture(
    run: Run, project: pytest.Pytester
) -> None:
    project.path.joinpath("forever.c").write_text(
        '#include "uart.h"\nint main(void);\n'
        "int main(void) { uart_init(); uart_write('u'); for (;;) uart_write(uart_wait()); }\n"
    )
    project.makepyfile(
        """
        import os
        import pytest

        PIDS = {}

        def up(pid):
            return os.path.exists(f"/proc/{pid}")

        def started(edgefleet):
            board = edgefleet.board("mps2-an386", sources=["forever.c"])
            board.start()
            assert board.uart.read_until(b"u") == b"u"
            return board

        @pytest.fixture(scope="module")
        def shared(edgefleet):
            board = started(edgefleet)
            yield board
            assert board.on

        def test_one(edgefleet, shared):
            shared.uart.write(b"x")
            assert shared.uart.read(1) == b"x"
            PIDS["shared"], PIDS["own"] = shared.pid, started(edgefleet).pid
            assert up(PIDS["shared"]) and up(PIDS["own"])

        def test_two(shared):
            assert up(PIDS["shared"]) and not up(PIDS["own"])
            shared.reset()
            assert not up(PIDS["shared"])
            assert shared.uart.read_until(b"u") == b"u"
            PIDS["shared"] = shared.pid
            shared.cut_power()
            assert not shared.on and not up(PIDS["shared"])
            shared.start()
            PIDS["shared"] = shared.pid
            with open("pid", "w") as file:
                print(shared.pid, file=file)
        """
    )
    run().assert_outcomes(passed=2)
    pid = (project.path / "pid").read_text().strip()
    assert not Path(f"/proc/{pid}").exists()


def test_power_is_cut_when_the_board_says_something(run: Run, project: pytest.Pytester) -> None:
    project.path.joinpath("writing.c").write_text(
        '#include "uart.h"\nint main(void);\nint main(void) {\n'
        "    uart_init();\n"
        '    for (const char *text = "erasing writing "; *text; text++) uart_write((uint8_t)*text);\n'
        "    for (;;) uart_wait();\n}\n"
    )
    project.makepyfile(
        """
        import pytest
        from edgefleet.contracts.errors import UnreachableError

        def test_cut(edgefleet):
            board = edgefleet.board("mps2-an386", sources=["writing.c"])
            board.start()
            edgefleet.power.cut_when(board, lambda: b"writing" in board.uart.heard).wait()
            assert not board.on
            edgefleet.power.restore(board)
            assert board.on
            edgefleet.power.cut_after(board, 0.05).wait()
            assert not board.on
            never = edgefleet.power.cut_when(board, lambda: False)
            with pytest.raises(UnreachableError, match="the power was not cut within 0.1 s: the event did not come"):
                never.wait(0.1)
        """
    )
    run().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("option", "message", "hint"),
    [
        ({"compiler": "clang"}, "'clang' is not a compiler", "known: gcc, zig"),
        ({"numerics": "tflm/9"}, "'tflm/9' is not numerics", "known: litert/1, tflm/1"),
    ],
)
def test_a_compiler_or_numerics_that_nobody_knows_is_refused(
    edgefleet: "EdgeFleet", option: dict[str, str], message: str, hint: str
) -> None:
    with pytest.raises(InputError, match=f"^{message}$") as raised:
        edgefleet.board("mps2-an386", sources=["loop.c"], **option)  # type: ignore[arg-type]
    assert raised.value.hint == hint


def test_a_program_that_ends_with_another_exit_code_than_was_expected_fails(
    edgefleet: "EdgeFleet", tmp_path: Path
) -> None:
    source = tmp_path / "ends.c"
    source.write_text('#include "board.h"\nint main(void) { board_print("three left\\n"); return 3; }\n')
    board = edgefleet.board("mps2-an386", sources=[source])
    with pytest.raises(BoardError, match=r"^ends on mps2-an386 ended with exit code 3, not 0$") as raised:
        board.run()
    assert raised.value.hint == "it printed 'three left'"
    assert board.run(exit_code=3).exit_code == board.run(exit_code=None).exit_code == 3
