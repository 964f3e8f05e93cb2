# SPDX-License-Identifier: Apache-2.0
"""Options that several of the server room's verbs share."""

from pathlib import Path
from typing import Annotated

import typer

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Your folder of keys and login [default: $EDGEFLEET_HOME or ~/.config/edgefleet]."),
]
DataOption = Annotated[Path, typer.Option("--data", help="The server's folder.")]
PassphraseOption = Annotated[
    Path | None, typer.Option("--passphrase-file", help="A file that holds the key's passphrase (its first line).")
]

_LONGEST_PASSPHRASE_BYTES = 1023


def read_passphrase(path: Path | None) -> bytes | None:
    """Return the first line of a passphrase file, or None where no file is named.

    Raises:
        FileMissingError: it cannot be read.
        SettingError: it is empty, or longer than OpenSSL takes.
    """
    from edgefleet.contracts.errors import SettingError
    from edgefleet.contracts.files import read_file

    if path is None:
        return None
    line = read_file(path, "the passphrase file").partition(b"\n")[0].rstrip(b"\r")
    if not line:
        raise SettingError(f"the passphrase file '{path}' is empty", hint="write the passphrase into its first line")
    if len(line) > _LONGEST_PASSPHRASE_BYTES:
        raise SettingError(
            f"the passphrase in '{path}' has {len(line)} bytes, over the limit of {_LONGEST_PASSPHRASE_BYTES}",
            hint="write a shorter one into its first line",
        )
    return line


def ask_passphrase(path: Path | None, key: str) -> str:
    """Return the passphrase from a file, or ask for it on the terminal."""
    found = read_passphrase(path)
    if found is not None:
        return found.decode("utf-8", "replace")
    answer: str = typer.prompt(f"Passphrase of the key '{key}'", hide_input=True, err=True)
    return answer
