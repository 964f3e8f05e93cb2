# SPDX-License-Identifier: Apache-2.0
"""Everything that a running server consists of, as the two listeners see it."""

from collections.abc import Callable
from dataclasses import dataclass

from edgefleet.contracts.enrolment import BrokerAddress
from fleet_server.adapters.devices.check_ins import CheckIns
from fleet_server.adapters.devices.device_certificates import DeviceCertificates
from fleet_server.adapters.devices.device_register import DeviceRegister
from fleet_server.adapters.devices.director import Director
from fleet_server.adapters.devices.poll_times import PollTimes
from fleet_server.adapters.devices.quarantines import Quarantines
from fleet_server.adapters.keys.signer_process import SignerProcess
from fleet_server.adapters.releases.approval_desk import ApprovalDesk
from fleet_server.adapters.releases.image_repository import ImageRepository
from fleet_server.adapters.releases.release_store import ReleaseStore
from fleet_server.adapters.releases.update_export import UpdateExport
from fleet_server.adapters.rollouts.rollout_engine import RolloutEngine
from fleet_server.adapters.storage.data_folder import DataFolder, ServerSettings
from fleet_server.adapters.storage.database import Database
from fleet_server.adapters.telemetry.capture_store import CaptureStore
from fleet_server.adapters.telemetry.mqtt_link import LinkStatus, MqttLink
from fleet_server.adapters.telemetry.telemetry_store import TelemetryStore


@dataclass
class ServerParts:
    """The parts of one server; ``device_url`` is set once its listener has a port."""

    folder: DataFolder
    settings: ServerSettings
    database: Database
    signer: SignerProcess
    images: ImageRepository
    releases: ReleaseStore
    approvals: ApprovalDesk
    devices: DeviceRegister
    certificates: DeviceCertificates
    check_ins: CheckIns
    director: Director
    exports: UpdateExport
    engine: RolloutEngine
    quarantines: Quarantines
    telemetry: TelemetryStore
    polls: PollTimes
    captures: CaptureStore
    clock: Callable[[], float]
    broker: BrokerAddress | None = None
    link: MqttLink | None = None
    device_url: str = ""

    def link_status(self) -> LinkStatus:
        """Say whether device messages can come in."""
        if self.link is None:
            return LinkStatus(False, False, "no broker is configured: start the server with --broker")
        return self.link.status()
