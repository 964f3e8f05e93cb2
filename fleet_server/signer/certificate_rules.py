# SPDX-License-Identifier: Apache-2.0
"""For whom the signer issues certificates, by what its own log says of each device.

1. At an enrolment: for the device that the request names, which keeps its profile for ever.
2. At a renewal: for a device that had a certificate before, upon the proof that the sender has its key.
3. Once that certificate has lapsed: only until the grace that this signer signed into the device's newest order.
4. For a device that was decommissioned: never.
"""

from datetime import UTC, datetime

from edgefleet.contracts.errors import CertificateLapsedError, DeviceDecommissionedError, NotAllowedError
from fleet_server.adapters.devices.renewal_proof import ProvedRenewal


def check_enrolment(device: str, profile: str, *, known_profile: str | None) -> None:
    """Keep rule 1.

    Raises:
        NotAllowedError: the device is known with another profile.
    """
    if known_profile is not None and known_profile != profile:
        raise NotAllowedError(
            f"device '{device}' has profile '{known_profile}', got '{profile}'", hint="invite a new name"
        )


def check_not_decommissioned(device: str, gone: bool) -> None:
    """Keep rule 4.

    Raises:
        DeviceDecommissionedError: the device is out of the fleet.
    """
    if gone:
        raise DeviceDecommissionedError(
            f"device '{device}' was decommissioned", hint="invite the board again under a new name"
        )


def check_renewal(wanted: ProvedRenewal, *, known_profile: str | None, grace_until: float | None, now: float) -> None:
    """Keep rules 2 and 3; times are Unix seconds.

    Raises:
        NotAllowedError: the device never had a certificate of this signer.
        CertificateLapsedError: the certificate lapsed, and there is no grace, or it is over.
    """
    if known_profile is None:
        raise NotAllowedError(f"device '{wanted.device}' never enrolled here", hint="enrol the device first")
    if now <= wanted.ends_at:
        return
    lapsed = f"the certificate of '{wanted.device}' lapsed on {_day(wanted.ends_at)}"
    hint = f"let it renew all the same: edgefleet devices grace {wanted.device} --days 7; or enrol the device again"
    if grace_until is None:
        raise CertificateLapsedError(f"{lapsed}, and the fleet has signed no grace for it", hint=hint)
    if now > grace_until:
        raise CertificateLapsedError(f"{lapsed}, and its grace ended on {_day(grace_until)}", hint=hint)


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"
