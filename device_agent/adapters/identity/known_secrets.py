# SPDX-License-Identifier: Apache-2.0
"""All secrets that can be found on a device, so that none leaves it in a file for support."""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from device_agent.adapters.network.proxy import CREDENTIALS_VARIABLE
from device_agent.core.secret_names import SECRET_NAME

_LIMIT_BYTES = 64 << 10
#: The password in an address, with or without a scheme, whatever it holds.
_IN_ADDRESS = re.compile(r"(?:[A-Za-z][\w+.-]*://)?[^\s:@/]*:(.+)@[^@]+")
_PEM = re.compile(rb"-----BEGIN ([A-Z ]*)-----\s*(.*?)\s*-----END", re.DOTALL)


def known_secrets(root: Path, config: Path | None) -> Iterator[bytes]:
    """Yield keys, tokens, passwords and credentials below the data folder, in the settings and in the environment."""
    for path in _files(root):
        yield from _of_file(path)
    if config is not None and config.is_file():
        with suppress(OSError, ValueError):
            yield from _named(tomllib.loads(config.read_text()))
    for name, value in os.environ.items():
        yield from _value(value) if SECRET_NAME.search(name) else _in_address(value)
    yield from _value(os.environ.get(CREDENTIALS_VARIABLE, ""))
    if folder := os.environ.get("CREDENTIALS_DIRECTORY"):
        for path in _files(Path(folder)):
            yield from _of_file(path)
            yield from _value(str(path))


def _files(root: Path) -> Iterator[Path]:
    with suppress(OSError):
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.stat().st_size <= _LIMIT_BYTES:
                yield path


def _of_file(path: Path) -> Iterator[bytes]:
    """Yield private keys, and the values with a secret's name in JSON."""
    with suppress(OSError):
        data = path.read_bytes()
        for kind, body in _PEM.findall(data):
            if b"PRIVATE KEY" in kind:
                yield from _of_key(body)
        if path.suffix in (".json", ".copy"):
            with suppress(msgspec.DecodeError):
                yield from _named(msgspec.json.decode(data))


def _of_key(body: bytes) -> Iterator[bytes]:
    """Yield each line of a key's PEM, all of it, what it stands for, and the private number in it."""
    import binascii

    lines = body.split()
    yield from lines
    yield b"".join(lines)
    with suppress(binascii.Error):
        der = binascii.a2b_base64(b"".join(lines))
        yield der
        yield from (found[1] for found in re.finditer(rb"\x04\x20(.{32})", der, re.DOTALL))  # EC and Ed25519 keys


def _named(value: Any, name: str = "") -> Iterator[bytes]:
    """Yield the values below a secret's name."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _named(inner, key if not SECRET_NAME.search(name) else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner, name)
    elif isinstance(value, str):
        yield from _value(value) if SECRET_NAME.search(name) or name == "instance" else _in_address(value)


def _in_address(value: str) -> Iterator[bytes]:
    """Yield the password of an address that holds one."""
    if found := _IN_ADDRESS.fullmatch(value):
        yield found[1].encode()


def _value(value: str) -> Iterator[bytes]:
    """Yield a value, or where it names a file, what is in that; of ``name:password`` the password, too."""
    data = value.encode()
    with suppress(OSError, ValueError):
        if value.startswith("/") and Path(value).is_file():
            data = Path(value).read_bytes()[:_LIMIT_BYTES].strip()
    yield data
    yield data.partition(b":")[2]
