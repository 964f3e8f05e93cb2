# SPDX-License-Identifier: Apache-2.0
"""A board's answers over a serial port: a simulated one, with a known model behind it, and all that can go wrong."""

import json
import os
import random
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet.boards.calibration import CASES, cases_header, cycle_counter, fit, gather
from edgefleet.boards.cost import Measured
from edgefleet.boards.serial_port import open_port
from edgefleet.contracts.errors import EdgeFleetError, ExitStatus, InputError, UnreachableError
from edgefleet.contracts.profile import Cpu

TRUE = (1.12, 0.85, 0.4)
QUIET_S = 0.3
BEGIN, DONE = b'{"calibration":1,"cases":12}', b'{"done":12}'


def case_lines(noise: float = 0.0) -> list[bytes]:
    """The lines that a board of known weights sends for its cases."""
    rng, made = random.Random(7), []
    for case in CASES:
        one = case.measured(1)
        cycles = sum(w * n for w, n in zip(TRUE, (one.instructions, one.loads, one.stores), strict=True))
        answer = {"case": case.name, "cycles": round(cycles * (1 + rng.uniform(-noise, noise)))}
        made.append(json.dumps(answer).encode())
    return made


def a_round(noise: float = 0.0) -> list[bytes]:
    return [BEGIN, *case_lines(noise), DONE]


def text(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\r\n" for line in lines)


class Board:
    """The far end of a pseudo-terminal. What it sends waits in the terminal, as a round is shorter than its buffer."""

    def __init__(self) -> None:
        self._end, self._listener = os.openpty()
        tty.setraw(self._end)
        self.path = Path(os.ttyname(self._listener))

    def sends(self, data: bytes) -> None:
        os.write(self._end, data)

    def unplug(self) -> None:
        os.close(self._end)
        self._end = -1

    def close(self) -> None:
        for descriptor in (self._end, self._listener):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def board() -> Iterator[Board]:
    simulated = Board()
    yield simulated
    simulated.close()


def read(board: Board, data: bytes) -> tuple[Measured, ...]:
    with open_port(board.path, baud=115200) as port:
        board.sends(data)
        return gather(port, timeout_s=QUIET_S)


def test_a_round_is_read_and_its_model_found(board: Board) -> None:
    model = fit(read(board, text(a_round())), profile="nucleo", counter="dwt")
    per = model.cycles_per
    assert (per.instructions, per.loads, per.stores) == pytest.approx(TRUE, abs=1e-3)
    assert model.source == "its dwt cycle counter, by edgefleet emulate calibrate"


def test_noise_is_stated_as_the_model_s_error(board: Board) -> None:
    model = fit(read(board, text(a_round(noise=0.03))), profile="nucleo", counter="dwt")
    per = model.cycles_per
    assert (per.instructions, per.loads, per.stores) == pytest.approx(TRUE, abs=0.12)
    assert model.fit is not None
    assert 0.005 < model.fit.worst_error < 0.05


@pytest.mark.parametrize(
    "before",
    [
        b"ready.\r\n",
        text(a_round()[7:]),  # the port was opened in the middle of a round
        b"\xff\xfe\x00boot\n",
        text(a_round()[:5]),  # the board was reset after four cases
        b'"calibration":1}\n',
    ],
)
def test_what_comes_before_a_round_is_not_looked_at(before: bytes, board: Board) -> None:
    assert len(read(board, before + text(a_round()))) == len(CASES)


def sentence(board: Board, data: bytes) -> str:
    with pytest.raises(EdgeFleetError) as failed:
        read(board, data)
    assert failed.value.exit_status == ExitStatus.FAILED
    return failed.value.message.replace(str(board.path), "PORT")


def test_silence_is_a_sentence(board: Board) -> None:
    assert sentence(board, b"") == "the board at 'PORT' sends nothing for 0.3 s"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"Hello, world!\r\n", "Hello, world!"),
        (b"\xff\x80\x1c" * 700, "\\xff\\x80\x1c" * 13 + "\\xff…"),  # another speed: no end of line at all
        (b"half", "half"),
        (b"[" * 900 + b"\n", "[" * 40 + "…"),
    ],
)
def test_garbage_is_a_sentence(data: bytes, shown: str, board: Board) -> None:
    assert sentence(board, data) == (
        f"the board at 'PORT' sends '{shown}', and no answer of the calibration image in 0.3 s"
    )


def test_an_image_of_another_release_is_a_sentence(board: Board) -> None:
    assert sentence(board, b'{"calibration":1,"cases":9}\n') == (
        "the board at 'PORT' has an image of 9 cases, this release has 12"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        b'{"case":"loads","cyc',
        b'{"case":"loads","cycles":-3}',
        b'{"case":"loads","cycles":4294967296}',
        b'{"case":"loads","cycles":1e400}',
        b'{"case":"somersaults","cycles":3}',
        b'{"case":"additions","cycles":3}',  # a second time
        b'{"calibration":1,"cases":3}',
        b'{"done":12}',  # too early
        b"\xc3\x28",
    ],
)
def test_a_line_that_is_no_answer_is_a_sentence(wrong: bytes, board: Board) -> None:
    shown = wrong.decode("ascii", "backslashreplace")
    assert sentence(board, text([*a_round()[:3], wrong, *a_round()[3:]])) == (
        f"the board at 'PORT' answers '{shown}' after 2 of 12 cases, which is none of its lines"
    )


def test_half_a_line_is_a_sentence(board: Board) -> None:
    assert sentence(board, text(a_round()[:5]) + b'{"case":"st') == (
        "the board at 'PORT' stops after 4 of 12 cases in the middle of the line '{\"case\":\"st': nothing for 0.3 s"
    )


def test_half_a_round_is_a_sentence(board: Board) -> None:
    assert sentence(board, text(a_round()[:5])) == "the board at 'PORT' stops after 4 of 12 cases: nothing for 0.3 s"


def test_a_counter_that_stands_still_is_a_sentence(board: Board) -> None:
    still = [json.dumps({"case": case.name, "cycles": 0}).encode() for case in CASES]
    assert sentence(board, text([BEGIN, *still, DONE])) == (
        "the board at 'PORT' says that 'additions' takes 0 cycles: its cycle counter stands still"
    )


def test_a_counter_that_jumped_is_a_sentence(board: Board) -> None:
    jumped = [b'{"case":"copy","cycles":4294960000}' if b'"copy"' in line else line for line in a_round()]
    assert sentence(board, text(jumped)) == (
        "the board at 'PORT' says that 17408 instructions of 'copy' take 4294960000 cycles"
    )


def test_an_unplugged_port_is_a_sentence(board: Board) -> None:
    seen = []

    def unplug(case: str) -> None:
        seen.append(case)
        board.unplug()

    with open_port(board.path, baud=115200) as port:
        board.sends(text(a_round()[:2]))
        with pytest.raises(UnreachableError) as failed:
            gather(port, timeout_s=5.0, progress=unplug)
    assert seen == ["additions"]
    assert failed.value.message == (f"the serial port '{board.path}' went away after 1 of 12 cases")


def test_what_is_no_serial_port_is_a_sentence(tmp_path: Path, board: Board) -> None:
    file = tmp_path / "file"
    file.write_bytes(text(a_round()))
    with pytest.raises(UnreachableError) as no_port, open_port(file, baud=115200):
        pass
    assert no_port.value.message == f"'{file}' is no serial port: Inappropriate ioctl for device"
    with pytest.raises(UnreachableError) as missing, open_port(tmp_path / "ttyACM9", baud=115200):
        pass
    assert missing.value.message == f"cannot open the serial port '{tmp_path}/ttyACM9': No such file or directory"
    with pytest.raises(InputError) as speed, open_port(board.path, baud=31337):
        pass
    assert speed.value.message == "no serial port runs at 31337 baud"


@pytest.mark.parametrize(
    ("architecture", "core", "counter"),
    [
        ("armv6-m", "cortex-m0plus", "systick"),
        ("armv7-m", "cortex-m3", "dwt"),
        ("armv8.1-m.main", "cortex-m85", "dwt"),
        ("rv32imac", "rv32", "mcycle"),
        ("rv32imc", "esp32-c3", "mpccr"),
    ],
)
def test_each_processor_reads_the_counter_that_it_has(architecture: str, core: str, counter: str) -> None:
    cpu = Cpu(architecture=architecture, core=core)  # type: ignore[arg-type]
    assert cycle_counter(cpu) == counter
    header = cases_header(cpu)
    assert f"#define EF_COUNTER_{counter.upper()} 1" in header
    assert header.count("    X(") == len(CASES)


def test_counts_follow_from_the_instructions_of_a_case() -> None:
    one = next(case for case in CASES if case.name == "pairs of loads").measured(9)
    assert (one.instructions, one.loads, one.stores) == (512 * (24 + 2), 512 * 24, 0)
