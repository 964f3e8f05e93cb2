# SPDX-License-Identifier: Apache-2.0
"""A hundred emulated boards up at once, each answering over its serial port, and counts of twenty runs of each board.

    python -m benchmarks.boards_at_once [--boards 100] [--runs 20]

Prints the seconds until all are started, have answered and are gone, and what is left of them (nothing). The baseline,
in the same call, is one board.
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.record import write
from edgefleet.boards.counting import CountLog
from edgefleet.boards.emulator import boot, start, wait_all
from edgefleet.boards.images import Image, build
from edgefleet.boards.toolchains import find_toolchain
from edgefleet.contracts.profile import Profile
from firmware_profiles.loader import load_profile

_PROFILES = ("mps2-an385", "mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547", "rv32-virt")
_ECHO = """
#include "uart.h"
int main(void) {
    uart_init();
    for (;;) {
        const uint8_t byte = uart_wait();
        if (byte == 'q') return 3;
        uart_write((uint8_t)(byte + 1));
    }
}
"""
_WORK = """
#include "board.h"
static uint8_t table[256];
int main(void) {
    uint32_t sum = 1;
    BOARD_RUN_BEGIN();
    for (uint32_t i = 0; i < 200000; i++) {
        sum = sum * 1664525u + table[sum >> 24];
        if (sum & 1) table[i & 255] = (uint8_t)sum;
    }
    BOARD_RUN_END();
    return sum == 0;
}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=100)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    profiles = [load_profile(name) for name in _PROFILES]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        many = _at_once(profiles, options.boards, folder)
        result = {
            "boards": {**many, "one": _at_once(profiles, 1, folder / "one")},
            "counts": {
                profile.id: _repeated(profile, options.runs, folder / f"work-{profile.id}") for profile in profiles
            },
        }
    write("boards_at_once", result)
    fine = many["left"] == 0 and all(counts["different"] == 1 for counts in result["counts"].values())
    return 0 if fine else 1


def _image(text: str, profile: Profile, folder: Path) -> Image:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "program.c").write_text(text, encoding="utf-8")
    toolchain = find_toolchain(profile.cpu)
    return build([folder / "program.c"], profile=profile, toolchain=toolchain, folder=folder)


def _at_once(profiles: list[Profile], count: int, folder: Path) -> dict[str, Any]:
    images = [_image(_ECHO, profile, folder / profile.id) for profile in profiles]
    began = time.monotonic()
    with ExitStack() as everything:
        boards = []
        for number in range(count):
            which = number % len(profiles)
            board = start(images[which], profiles[which], folder=folder / str(number), uarts=(0,), timeout_s=300)
            everything.callback(board.stop)
            boards.append(board)
        started_s = time.monotonic() - began
        links = [everything.enter_context(board.connect(0, limit_s=300)) for board in boards]
        for link in links:
            link.sendall(b"a")
        assert [link.recv(1) for link in links] == [b"b"] * count
        answered_s = time.monotonic() - began
        for link in links:
            link.sendall(b"q")
        wait_all(boards)
    gone_s = time.monotonic() - began
    left = sum(Path(f"/proc/{board.pid}").exists() for board in boards)
    return {
        "count": count,
        "started_s": round(started_s, 2),
        "answered_s": round(answered_s, 2),
        "gone_s": round(gone_s, 2),
        "left": left,
    }


def _repeated(profile: Profile, runs: int, folder: Path) -> dict[str, int]:
    image = _image(_WORK, profile, folder)
    logs: set[CountLog] = set()
    for number in range(runs):
        with boot(image, profile, folder=folder / str(number), counting=True) as board:
            assert board.wait() == 0
            logs.add(board.counts())
    total = next(iter(logs)).runs[0].total
    return {
        "runs": runs,
        "different": len(logs),
        "instructions": total.instructions,
        "loads": total.loads,
        "stores": total.stores,
    }


if __name__ == "__main__":
    raise SystemExit(main())
