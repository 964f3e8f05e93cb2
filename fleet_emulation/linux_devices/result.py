# SPDX-License-Identifier: Apache-2.0
"""How a command on an emulated device ended."""

from typing import NamedTuple


class Result(NamedTuple):
    """Exit status and all that the command said; a negative status is a signal's number."""

    status: int
    stdout: bytes
    stderr: bytes
