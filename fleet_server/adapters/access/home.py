# SPDX-License-Identifier: Apache-2.0
"""A person's folder: keys, the server logged in to, and what this person has verified so far.

::

    HOME/keys/NAME.pem, NAME.pub.json     signing keys
    HOME/login.json                       server address and token (0600)
    HOME/trusted/                         image metadata, as last verified on this machine
"""

import os
import re
from pathlib import Path
from typing import Annotated

import msgspec

from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.errors import InputError, NotAllowedError
from edgefleet.contracts.files import read_file
from edgefleet.contracts.manifest import Fact
from fleet_server.adapters.storage.private_files import write_secret

#: What every API token is made of.
_ONE_WORD = r"^[A-Za-z0-9_-]{1,200}\Z"


class Login(Fact, frozen=True, kw_only=True):
    """Where to go, and with which token."""

    server: str
    token: Annotated[str, msgspec.Meta(pattern=_ONE_WORD)]


class Home:
    """The paths of one person."""

    def __init__(self, path: Path | None) -> None:
        self.path = path or default_home()
        self.keys = self.path / "keys"
        self.trusted = self.path / "trusted"
        self.login_path = self.path / "login.json"

    def save_login(self, login: Login) -> None:
        """Keep a login, readable for its owner only."""
        write_secret(self.login_path, msgspec.json.encode(login), replace=True)

    def login(self) -> Login:
        """Return the saved login.

        Raises:
            NotAllowedError: there is none.
        """
        if not self.login_path.exists():
            raise NotAllowedError(
                f"nobody is logged in with the home folder '{self.path}'",
                hint="run: edgefleet login --server URL --token-file FILE --home HOME",
            )
        return decode_json(read_file(self.login_path, "the login"), Login, source=str(self.login_path))


def default_home() -> Path:
    """Return ``$EDGEFLEET_HOME``, or ``~/.config/edgefleet``."""
    chosen = os.environ.get("EDGEFLEET_HOME")
    return Path(chosen) if chosen else Path.home() / ".config" / "edgefleet"


def read_token(path: Path) -> str:
    """Return the API token that a file holds; what it holds instead is never shown.

    Raises:
        FileMissingError: it cannot be read.
        InputError: it holds no token.
    """
    text = read_file(path, "the token file").decode("ascii", "replace").strip()
    if not re.fullmatch(_ONE_WORD, text):
        raise InputError(
            f"'{path}' holds no token: expected one word of at most 200 letters, digits, '-' and '_'",
            hint="use a file written by 'edgefleet server init' or 'edgefleet server token'",
        )
    return text
