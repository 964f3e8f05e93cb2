# SPDX-License-Identifier: Apache-2.0
"""Read the database for what the API and the page show."""

from sqlalchemy.engine import Connection

from edgefleet.contracts.software import SOFTWARE_NAME
from fleet_server.adapters.devices.device_register import list_devices
from fleet_server.adapters.releases.fitness import unfit_devices
from fleet_server.adapters.rollouts.rollout_store import (
    bundles_by_profile,
    enrolled_devices,
    find_rollout,
    last_verdict,
    list_rollouts,
    read_evidence,
)
from fleet_server.api.documents import (
    ConfusionCell,
    FleetEvent,
    FleetView,
    Health,
    ReleaseFigures,
    RolloutDevice,
    RolloutStatus,
)
from fleet_server.api.parts import ServerParts
from fleet_server.core.rollouts.rollout import DeviceEvidence, last_wave

_EVENTS_SHOWN = 50


def rollout_status(connection: Connection, rollout_id: str) -> RolloutStatus:
    """Return one rollout with its devices and the gate's last verdict.

    Raises:
        NotFoundError: there is no such rollout.
    """
    value = find_rollout(connection, rollout_id)
    evidence = read_evidence(connection, value)
    bundles = bundles_by_profile(connection, value.name, value.version)
    devices = enrolled_devices(connection)
    waves = _waves(connection, rollout_id)
    holdout = frozenset() if last_wave(value) and value.state == "completed" else value.holdout
    return RolloutStatus(
        id=value.id,
        name=value.name,
        version=value.version,
        state=value.state,
        cause=value.cause,
        wave=value.wave + 1,
        wave_percents=tuple(wave.percent for wave in value.policy.waves),
        wave_started_at=value.wave_started_at,
        created_at=value.created_at,
        covered=len(evidence),
        assigned=sum(device.assigned for device in evidence),
        settled=sum(device.settled for device in evidence),
        failed=sum(device.failed for device in evidence),
        offline=sum(not device.online for device in evidence),
        held_out=sum(device.device in holdout and not device.assigned for device in evidence),
        not_covered=tuple(
            name for name, profile in devices.items() if profile not in bundles and value.name != SOFTWARE_NAME
        ),
        unfit=unfit_devices(connection, value.name, value.version),
        verdict=last_verdict(connection, rollout_id),
        devices=tuple(_rollout_device(device, waves, holdout) for device in evidence),
    )


def _rollout_device(evidence: DeviceEvidence, waves: dict[str, int], holdout: frozenset[str]) -> RolloutDevice:
    return RolloutDevice(
        device=evidence.device,
        online=evidence.online,
        assigned=evidence.assigned,
        holdout=evidence.device in holdout and not evidence.assigned,
        failed=evidence.failed,
        settled=evidence.settled,
        back=evidence.back,
        wave=waves.get(evidence.device),
    )


def _waves(connection: Connection, rollout_id: str) -> dict[str, int]:
    rows = connection.exec_driver_sql("SELECT device, wave FROM rollout_device WHERE rollout_id = ?", (rollout_id,))
    return {row.device: row.wave + 1 for row in rows}


def recent_events(connection: Connection, *, device: str | None = None, limit: int = 200) -> list[FleetEvent]:
    """Return device events, the newest first."""
    rows = connection.exec_driver_sql(
        "SELECT device, received_at, kind, cause, detail, version, bundle_sha256, counter, seconds FROM device_event "
        "WHERE ? IS NULL OR device = ? ORDER BY id DESC LIMIT ?",
        (device, device, limit),
    )
    return [FleetEvent(**row._mapping) for row in rows]


def release_figures(connection: Connection, since: float) -> list[ReleaseFigures]:
    """Return the fleet's sums for each bundle and role since a time (Unix seconds)."""
    rows = connection.exec_driver_sql(
        "SELECT bundle_sha256, role, count(DISTINCT device) AS devices, sum(requests) AS requests, "
        "sum(failed) AS failed, sum(non_finite) AS non_finite, sum(compared) AS compared, "
        "sum(disagreed) AS disagreed, sum(labelled) AS labelled, sum(correct) AS correct "
        "FROM model_figures WHERE bucket >= ? GROUP BY bundle_sha256, role ORDER BY bundle_sha256, role",
        (int(since),),
    )
    return [ReleaseFigures(**row._mapping) for row in rows]


def confusion_cells(connection: Connection, bundle_sha256: str) -> list[ConfusionCell]:
    """Return the labelled confusion of one bundle over the whole fleet."""
    rows = connection.exec_driver_sql(
        "SELECT actual, predicted, count FROM confusion WHERE bundle_sha256 = ? ORDER BY actual, predicted",
        (bundle_sha256,),
    )
    return [ConfusionCell(**row._mapping) for row in rows]


def health(parts: ServerParts) -> Health:
    """Say how the server is."""
    link = parts.link_status()
    return Health(status="ok", tenant=parts.settings.tenant, broker_connected=link.connected, broker=link.detail)


def fleet_view(parts: ServerParts) -> FleetView:
    """Return everything that the page shows."""
    with parts.database.read() as connection:
        rollouts = list_rollouts(connection)
        return FleetView(
            now=parts.clock(),
            health=health(parts),
            devices=tuple(list_devices(connection)),
            rollout=rollout_status(connection, rollouts[0].id) if rollouts else None,
            events=tuple(recent_events(connection, limit=_EVENTS_SHOWN)),
            ingestion=parts.telemetry.counts(),
        )
