# SPDX-License-Identifier: Apache-2.0
"""Who a device is."""

from edgefleet.contracts.enrolment import BrokerAddress
from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.names import Name


class Identity(Fact, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The names that an enrolment gave this device, and where to go; what a later agent adds is passed over."""

    server_url: str
    tenant: Name
    device: Name
    profile: Name
    broker: BrokerAddress | None = None
