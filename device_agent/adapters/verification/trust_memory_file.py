# SPDX-License-Identifier: Apache-2.0
"""The trust memory on disk: twice, each with its hash, because nothing else could bring a floor back."""

import logging
from contextlib import suppress
from pathlib import Path

import msgspec

from device_agent.adapters.storage.durable import write_durably
from device_agent.core.orders.trust_memory import TrustMemory
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.files import read_regular

_LOG = logging.getLogger("edgefleet.agent")
_LIMIT_BYTES = 8 << 20


class TrustMemoryFile:
    """``trust/memory.json`` and its copy; the first that has its hash is believed."""

    def __init__(self, folder: Path) -> None:
        self._paths = (folder / "memory.json", folder / "memory.json.copy")

    def load(self) -> TrustMemory:
        """Return what is remembered; nothing where neither file is there or whole."""
        for path in self._paths:
            with suppress(OSError, ValueError):
                return _decode(read_regular(path))
        if any(path.exists() for path in self._paths):
            _LOG.warning("what was remembered of verified metadata is damaged; it is learned again")
        return TrustMemory()

    def save(self, memory: TrustMemory) -> None:
        """Store both copies durably, one after the other.

        Raises:
            OSError: one cannot be written.
        """
        body = msgspec.json.encode(memory)
        for path in self._paths:
            write_durably(path, sha256_hex(body).encode() + b"\n" + body)


def known_time(folder: Path) -> float:
    """Return a time that has passed for certain, as far as the trust memory in a folder knows one (Unix seconds)."""
    return TrustMemoryFile(folder).load().bound


def _decode(data: bytes) -> TrustMemory:
    digest, _, body = data[:_LIMIT_BYTES].partition(b"\n")
    if digest.decode("ascii") != sha256_hex(body):
        raise ValueError("it has another hash")
    return msgspec.json.decode(body, type=TrustMemory)
