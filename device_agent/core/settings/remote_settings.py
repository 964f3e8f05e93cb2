# SPDX-License-Identifier: Apache-2.0
"""Which settings hold: the device's own, and over them the few that the fleet's owner may set from afar.

Only what :class:`edgefleet.contracts.device_settings.RemoteSettings` names can change here, and capture only within
what the device itself allows: a device that captures nothing does not begin to.
"""

import msgspec

from device_agent.core.settings.agent_settings import AgentSettings
from edgefleet.contracts.device_settings import RemoteSettings


def merged(own: AgentSettings, remote: RemoteSettings | None) -> AgentSettings:
    """Return the settings in force; ``remote`` is the last verified file, None where there was none."""
    if remote is None:
        return own
    named = ("poll_s", "telemetry_s", "compare_share")
    changes = {name: value for name in named if (value := getattr(remote, name)) is not None}
    if remote.capture is False:
        changes["capture_bytes"] = 0
    return msgspec.structs.replace(own, **changes)
