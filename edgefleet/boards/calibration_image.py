# SPDX-License-Identifier: Apache-2.0
"""The calibration benchmark as an image for one board."""

from pathlib import Path

from edgefleet.boards.calibration import cases_header
from edgefleet.boards.firmware_files import firmware_folder
from edgefleet.boards.images import Image, build
from edgefleet.boards.machines import uart_defines
from edgefleet.boards.toolchains import find_toolchain
from edgefleet.contracts.errors import InputError, StorageError
from edgefleet.contracts.profile import Profile


def build_calibration(profile: Profile, folder: Path, *, uart: Path | None = None) -> Image:
    """Build the benchmark into ``folder``; ``uart`` is a C file with the board's ``uart_init`` and ``uart_write``.

    Raises:
        InputError: the board's serial port is not known here, and no file says how to write to it.
        EdgeFleetError: no compiler, a source that does not compile, a board that is too small.
    """
    if uart is None and not uart_defines(profile):
        raise InputError(
            f"nothing here knows the serial port of '{profile.id}'",
            hint="name a C file with its uart_init(void) and uart_write(uint8_t): --uart FILE.c",
        )
    toolchain = find_toolchain(profile.cpu)
    _write_header(folder, cases_header(profile.cpu))
    sources = [firmware_folder() / "boards" / "calibration.c", *([uart] if uart else [])]
    return build(sources, profile=profile, toolchain=toolchain, folder=folder, includes=(folder,))


def _write_header(folder: Path, text: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "calibration_cases.h").write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"cannot write into '{folder}': {error.strerror}", hint="name a folder that can be written to: --out DIR"
        ) from error
