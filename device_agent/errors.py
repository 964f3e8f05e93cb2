# SPDX-License-Identifier: Apache-2.0
"""The agent's own errors, in EdgeFleet's tree.

EdgeFleetError
├── NotAllowedError
│   └── RenewalRefusedError    with the server's code as its cause
├── RefusedError
│   └── SoftwareRefusedError   with the cause that the event carries
├── TrustError
│   ├── TrustRefusedError      with the cause that the event carries
│   └── CorruptDownloadError
└── StorageError
    ├── DiskFullError
    └── DamagedStateError
"""

import errno

from device_agent.core.recall import Recall
from edgefleet.contracts.errors import NotAllowedError, RefusedError, StorageError, TrustError


class TrustRefusedError(TrustError):
    """Metadata or an order is refused; ``cause`` is the event's kebab-case word.

    ``recall`` is what threshold-signed metadata forbid nevertheless, None where nothing is known of that.
    """

    def __init__(self, cause: str, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.cause = cause
        self.recall: Recall | None = None


class SoftwareRefusedError(RefusedError):
    """Software that was ordered cannot run here; ``cause`` is the event's kebab-case word."""

    def __init__(self, cause: str, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.cause = cause


class RenewalRefusedError(NotAllowedError):
    """The server does not renew this device's certificate; ``cause`` is its code (``certificate-retired``, …)."""

    def __init__(self, cause: str, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.cause = cause


class CorruptDownloadError(TrustError):
    """A downloaded file has another length or hash than both repositories say."""

    code = "download-corrupt"


class DamagedStateError(StorageError):
    """A database of the agent is unreadable."""

    code = "state-damaged"


class DiskFullError(StorageError):
    """There is no room: the one refusal of a disk that goes away by itself, or by deleting something."""

    code = "disk-full"


def storage_failed(what: str, error: OSError) -> StorageError:
    """Map an operating system error of a file operation to one sentence."""
    kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageError
    return kind(f"cannot {what}: {error.strerror or error}", hint="free space or correct the permissions")
