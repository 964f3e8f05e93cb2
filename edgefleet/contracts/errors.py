# SPDX-License-Identifier: Apache-2.0
"""The one tree of errors that a user of EdgeFleet can meet.

EdgeFleetError                       exit 1   failed
├── InputError                       exit 2   wrong usage: a file, option or setting that cannot be used
│   ├── FileMissingError
│   └── SettingError
├── RefusedError                     exit 3   a check said no
│   ├── BundleError
│   ├── ProfileError
│   ├── IncompatibleError
│   ├── UnsupportedModelError
│   ├── SampleError
│   ├── ModelFailedError
│   ├── BudgetError
│   ├── TrustError
│   ├── MessageError
│   └── PolicyError
├── NotAllowedError                  exit 4   the caller may not do this
│   ├── CertificateRetiredError               the device has a newer certificate than the one it shows
│   ├── CertificateLapsedError                it lapsed, and the fleet has signed no grace, or one that is over
│   ├── DeviceDecommissionedError             the device was taken out of the fleet for good
│   └── PossessionError                       a renewal is not signed by the key of the certificate that it shows
├── RolledBackError                  exit 5   the rollout was halted or rolled back
├── UnreachableError                 exit 1   a server, broker or socket does not answer
├── StorageError                     exit 1   a disk is full, a file cannot be written or read back
├── PortInUseError                   exit 1
├── MissingExtraError                exit 1   a Python extra is not installed
├── MissingProgramError              exit 1   a system program is not installed
├── BuildError                       exit 1   a compiler did not make what it should
├── BoardError                       exit 1   a board hung, faulted, or answered nonsense
├── ConflictError                    exit 1   the thing exists already, or moved on meanwhile
└── NotFoundError                    exit 1   the thing is not known here

Each error has a stable kebab-case ``code``, a ``message`` (what was got and what was expected, with the path
of the field) and a ``hint`` (what to do next). The command line prints these three and exits with
``exit_status``; the API returns them as RFC 9457 problem details with ``http_status``.
"""

from enum import IntEnum
from typing import ClassVar


class ExitStatus(IntEnum):
    """The documented exit statuses of every EdgeFleet command."""

    DONE = 0
    FAILED = 1
    WRONG_USAGE = 2
    REFUSED = 3
    NOT_ALLOWED = 4
    ROLLED_BACK = 5


class EdgeFleetError(Exception):
    """Something failed in a way that the user can be told in one sentence.

    ``message`` says what was got and what was expected; ``hint`` says what to do next.
    """

    code: ClassVar[str] = "failed"
    exit_status: ClassVar[ExitStatus] = ExitStatus.FAILED
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class InputError(EdgeFleetError):
    """A file, an option or an argument cannot be used."""

    code = "wrong-usage"
    exit_status = ExitStatus.WRONG_USAGE
    http_status = 400


class FileMissingError(InputError):
    """A file or folder that was named does not exist or cannot be read."""

    code = "file-missing"


class SettingError(InputError):
    """A configuration file has a wrong key, type or value."""

    code = "setting-invalid"


class RefusedError(EdgeFleetError):
    """A check said no: signature, compatibility, budget or policy."""

    code = "refused"
    exit_status = ExitStatus.REFUSED
    http_status = 422


class BundleError(RefusedError):
    """A file is not a bundle, or breaks a rule of the bundle format."""

    code = "bundle-invalid"


class ProfileError(RefusedError):
    """A board's TOML file breaks the profile schema."""

    code = "profile-invalid"


class IncompatibleError(RefusedError):
    """A bundle was made for another board, runtime or interface."""

    code = "incompatible"


class UnsupportedModelError(RefusedError):
    """The model has an operator, type or shape that the board's runtime does not run."""

    code = "model-unsupported"


class SampleError(RefusedError):
    """Calibration, evaluation or acceptance samples do not fit the model."""

    code = "samples-invalid"


class ModelFailedError(RefusedError):
    """The model loads or runs wrongly: a crash, NaN, or outputs that differ from its parity vectors."""

    code = "model-failed"


class BudgetError(RefusedError):
    """The model breaks a budget of the profile or of the command."""

    code = "budget-broken"


class TrustError(RefusedError):
    """Metadata is unsigned, expired, older than seen before, or speaks of another device."""

    code = "trust-refused"


class MessageError(RefusedError):
    """A message on the wire breaks the message schema."""

    code = "message-invalid"


class PolicyError(RefusedError):
    """A policy file cannot be read, or forbids the step."""

    code = "policy-refused"


class NotAllowedError(EdgeFleetError):
    """The caller's token, key or certificate does not allow this."""

    code = "not-allowed"
    exit_status = ExitStatus.NOT_ALLOWED
    http_status = 403


class CertificateRetiredError(NotAllowedError):
    """A device shows a certificate that a newer one has replaced: a copied or a restored memory card."""

    code = "certificate-retired"


class CertificateLapsedError(NotAllowedError):
    """A certificate lapsed, and the fleet has signed no grace for its renewal, or one that is over."""

    code = "certificate-lapsed"


class DeviceDecommissionedError(NotAllowedError):
    """A device was taken out of the fleet for good."""

    code = "device-decommissioned"


class PossessionError(NotAllowedError):
    """A renewal does not prove that its sender has the private key of the certificate that it shows."""

    code = "possession-not-proved"


class RolledBackError(EdgeFleetError):
    """The rollout was halted or rolled back."""

    code = "rolled-back"
    exit_status = ExitStatus.ROLLED_BACK
    http_status = 409


class UnreachableError(EdgeFleetError):
    """A server, broker or socket does not answer."""

    code = "unreachable"
    http_status = 503


class StorageError(EdgeFleetError):
    """A disk is full, or a file cannot be written or read back."""

    code = "storage-failed"
    http_status = 507


class PortInUseError(EdgeFleetError):
    """Another process listens on the address already."""

    code = "port-in-use"


class MissingExtraError(EdgeFleetError):
    """A Python package is missing that one of EdgeFleet's extras installs."""

    code = "extra-missing"


class MissingProgramError(EdgeFleetError):
    """A system program is missing."""

    code = "program-missing"


class BuildError(EdgeFleetError):
    """A compiler did not make what it should: a source does not compile, a name is missing."""

    code = "build-failed"


class BoardError(EdgeFleetError):
    """A board hung, faulted, or answered nonsense."""

    code = "board-failed"


class ConflictError(EdgeFleetError):
    """The thing exists already, or moved on meanwhile."""

    code = "conflict"
    http_status = 409


class NotFoundError(EdgeFleetError):
    """The thing is not known here."""

    code = "not-found"
    http_status = 404


def missing_extra(extra: str, needed_for: str) -> MissingExtraError:
    """Return the one sentence that says which extra to install, and for what."""
    return MissingExtraError(
        f"{needed_for} needs the extra '{extra}', which is not installed",
        hint=f"run: pip install 'edgefleet[{extra}]'",
    )
