# SPDX-License-Identifier: Apache-2.0
"""What the fleet's owner may set on a device from afar, signed like everything else: a small, harmless subset.

Paths, addresses, keys, limits of memory and disk are the device's own: no signature reaches them.
"""

from typing import Annotated

import msgspec

from edgefleet.contracts.decoding import decode_toml
from edgefleet.contracts.errors import TrustError
from edgefleet.contracts.manifest import Fact, Share

#: Between ten seconds, so that no order drains a battery, and a day, so that none makes a device deaf.
RemotePeriod = Annotated[float, msgspec.Meta(ge=10.0, le=86_400.0)]
REMOTE_SETTINGS_LIMIT_BYTES = 4096


class RemoteSettings(Fact, frozen=True, kw_only=True):
    """Settings that replace the device's own until the next signed file; what is left out stays the device's.

    Periods are in seconds. ``capture`` switches the capture of inputs on or off, within what the device allows.
    """

    poll_s: RemotePeriod | None = None
    telemetry_s: RemotePeriod | None = None
    compare_share: Share | None = None
    capture: bool | None = None


def read_remote_settings(data: bytes) -> RemoteSettings:
    """Read a verified settings file.

    Raises:
        TrustError: it is too large, or sets what may not be set from afar.
    """
    if len(data) > REMOTE_SETTINGS_LIMIT_BYTES:
        raise TrustError(
            f"the signed settings have {len(data)} bytes, the limit is {REMOTE_SETTINGS_LIMIT_BYTES}",
            hint="sign settings of the documented form",
        )
    return decode_toml(data, RemoteSettings, source="the signed settings", error=TrustError)
