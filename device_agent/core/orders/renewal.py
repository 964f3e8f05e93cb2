# SPDX-License-Identifier: Apache-2.0
"""When a device's certificate is to be renewed, with times as arguments (Unix seconds)."""

from typing import Literal, NamedTuple

#: After this share of its life a certificate is renewed; a device spreads from it by up to half of ``_SPREAD``.
_SHARE = 2 / 3
_SPREAD = 0.1
#: From this share on, a certificate that could not be renewed is reported.
_LATE_SHARE = 5 / 6

Stage = Literal["fresh", "due", "late", "lapsed", "clock-behind"]


class CertificateLife(NamedTuple):
    """From when to when a certificate holds, and its serial number."""

    begins_at: float
    ends_at: float
    serial: int

    @property
    def renewal_at(self) -> float:
        """When to renew it: spread by the serial number, so that a fleet enrolled on one day does not ask in step.

        It is the same after each restart.
        """
        spread = (self.serial % 1024 / 1024 - 0.5) * _SPREAD
        return self.begins_at + (_SHARE + spread) * (self.ends_at - self.begins_at)

    def stage(self, now: float) -> Stage:
        """Return where in its life the certificate is; before its life begins, the clock must be behind."""
        if now < self.begins_at:
            return "clock-behind"
        if now >= self.ends_at:
            return "lapsed"
        if now < self.renewal_at:
            return "fresh"
        late_at = self.begins_at + _LATE_SHARE * (self.ends_at - self.begins_at)
        return "late" if now >= late_at else "due"
