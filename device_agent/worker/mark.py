# SPDX-License-Identifier: Apache-2.0
"""A mark in memory that outlives this process: which bundle it loads or runs, and whether it does so just now."""

from typing import TypeAlias

Mark: TypeAlias = memoryview
#: Behind the bundle's hash: 1 while a model is loaded or run.
AT_WORK = 64


def new_mark() -> Mark:
    """Return a mark that nobody else reads."""
    return memoryview(bytearray(AT_WORK + 1))


def write_mark(mark: Mark, bundle_sha256: str) -> None:
    """Write a bundle's hash into the mark."""
    mark[:AT_WORK] = bundle_sha256.encode().ljust(AT_WORK, b"\0")[:AT_WORK]
