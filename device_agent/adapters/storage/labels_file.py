# SPDX-License-Identifier: Apache-2.0
"""What is remembered of labels on disk: one file behind its hash; what is damaged is learnt again."""

import logging
from pathlib import Path

import msgspec

from device_agent.adapters.storage.durable import write_durably
from device_agent.core.evidence.labels import LabelMemory
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.errors import StorageError
from edgefleet.contracts.files import read_regular

_LOG = logging.getLogger("edgefleet.agent")
_LIMIT_BYTES = 8 << 20


class LabelsFile:
    """``labels.json`` in a device's data folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> LabelMemory:
        """Return what is remembered; nothing where there is no whole file."""
        try:
            return _decode(read_regular(self._path))
        except FileNotFoundError:
            return LabelMemory()
        except (OSError, ValueError) as error:
            _LOG.warning("what was remembered of labels is damaged, and begins anew: %s", error)
            return LabelMemory()

    def save(self, memory: LabelMemory) -> None:
        """Store it durably.

        Raises:
            StorageError: it cannot be written.
        """
        body = msgspec.json.encode(memory)
        try:
            write_durably(self._path, sha256_hex(body).encode() + b"\n" + body)
        except OSError as error:
            raise StorageError(
                f"'{self._path}' cannot be written: {error.strerror or error}", hint="free some space"
            ) from error


def _decode(data: bytes) -> LabelMemory:
    digest, _, body = data[:_LIMIT_BYTES].partition(b"\n")
    if digest.decode("ascii") != sha256_hex(body):
        raise ValueError("it has another hash")
    return msgspec.json.decode(body, type=LabelMemory)
