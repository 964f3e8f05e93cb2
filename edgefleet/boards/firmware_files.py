# SPDX-License-Identifier: Apache-2.0
"""Where the C of EdgeFleet lies: ``firmware/`` of the repository, or the copy that a wheel brings."""

from functools import cache
from pathlib import Path

import edgefleet
from edgefleet.contracts.errors import NotFoundError


@cache
def firmware_folder() -> Path:
    """Return the folder that holds ``kernels/`` and ``boards/``.

    Raises:
        NotFoundError: the installation is not whole.
    """
    package = Path(next(iter(edgefleet.__path__)))
    for folder in (package / "firmware", package.parent / "firmware"):
        if (folder / "kernels").is_dir():
            return folder
    raise NotFoundError(
        f"the C sources are missing: neither '{package / 'firmware'}' nor '{package.parent / 'firmware'}' is there",
        hint="install edgefleet again",
    )
