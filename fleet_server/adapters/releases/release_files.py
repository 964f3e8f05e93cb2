# SPDX-License-Identifier: Apache-2.0
"""The files that releases are made of, told apart by what they say of themselves."""

from pathlib import Path

from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.wheel_set import is_wheel_set, open_wheel_set
from fleet_server.core.trust.delegation import ReleaseFile


def open_release_file(path: Path) -> ReleaseFile:
    """Read a bundle or a wheel set through.

    Raises:
        FileMissingError: there is no such file.
        BundleError: it breaks a rule of its format.
    """
    return open_wheel_set(path) if is_wheel_set(path) else open_bundle(path)
