# SPDX-License-Identifier: Apache-2.0
"""Rollouts in the database: read one with its evidence, write one step of it. Callers own the transaction."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection, Row

from edgefleet.contracts.errors import NotFoundError
from edgefleet.contracts.policy import read_policy
from edgefleet.contracts.software import SOFTWARE_NAME
from fleet_server.adapters.devices.order_store import (
    Hinted,
    insert_order,
    newest_order,
    ordered_release,
    read_members,
    release_before,
    running_of,
)
from fleet_server.adapters.releases.fitness import file_for, needs_by_profile
from fleet_server.adapters.storage.schema import release, release_bundle, rollout, rollout_device
from fleet_server.core.rollouts.gate import NOTHING, Figures, Verdict
from fleet_server.core.rollouts.rollout import DeviceEvidence, Rollout, RolloutState, Step

#: Events that say: this device did not take the release, or went back from it.
FAILURE_KINDS = (
    *("update-refused", "admission-refused", "rolled-back", "quarantined", "safe-mode"),
    *("software-refused", "software-rolled-back"),
)
ACTIVE_STATES: tuple[RolloutState, ...] = ("running", "paused")


def insert_rollout(connection: Connection, value: Rollout) -> None:
    """Store a new rollout."""
    connection.execute(
        insert(rollout).values(
            id=value.id,
            name=value.name,
            version=value.version,
            salt=value.salt,
            holdout=msgspec.json.encode(sorted(value.holdout)).decode(),
            created_at=value.created_at,
            **_changing(value),
        )
    )


def find_rollout(connection: Connection, rollout_id: str) -> Rollout:
    """Return one rollout.

    Raises:
        NotFoundError: there is none of that id.
    """
    row = connection.execute(_joined().where(rollout.c.id == rollout_id)).first()
    if row is None:
        raise NotFoundError(f"there is no rollout '{rollout_id}'", hint="see: edgefleet rollouts list")
    return _rollout(row)


def list_rollouts(connection: Connection, states: Iterable[RolloutState] = ()) -> list[Rollout]:
    """Return the rollouts in the given states (none given: in any), the newest first."""
    query = _joined().order_by(rollout.c.created_at.desc(), rollout.c.id)
    wanted = tuple(states)
    if wanted:
        query = query.where(rollout.c.state.in_(wanted))
    return [_rollout(row) for row in connection.execute(query)]


def has_rollout(connection: Connection, states: Iterable[RolloutState]) -> bool:
    """Tell whether there is a rollout in one of the given states; quick, for the engine asks all the time."""
    wanted = tuple(states)
    marks = ", ".join("?" * len(wanted))
    row = connection.exec_driver_sql(f"SELECT 1 FROM rollout WHERE state IN ({marks}) LIMIT 1", wanted).first()  # noqa: S608 - marks only
    return row is not None


def last_verdict(connection: Connection, rollout_id: str) -> Verdict | None:
    """Return what the gate said last."""
    data = connection.execute(select(rollout.c.verdict).where(rollout.c.id == rollout_id)).scalar()
    return None if data is None else msgspec.json.decode(data, type=Verdict)


def bundles_by_profile(connection: Connection, name: str, version: str) -> dict[str, str]:
    """Return the release's bundle hash for each profile."""
    rows = connection.execute(
        select(release_bundle.c.profile, release_bundle.c.sha256).where(
            release_bundle.c.name == name, release_bundle.c.version == version
        )
    )
    return {row.profile: row.sha256 for row in rows}


def enrolled_devices(connection: Connection) -> dict[str, str]:
    """Return the profile of each enrolled device."""
    rows = connection.exec_driver_sql("SELECT name, profile FROM device WHERE enrolled_at IS NOT NULL ORDER BY name")
    return {row.name: row.profile for row in rows}


def read_evidence(connection: Connection, value: Rollout) -> list[DeviceEvidence]:
    """Return what is known of each device that the rollout covers."""
    hashes = set(bundles_by_profile(connection, value.name, value.version).values())
    rows = {row.device: row for row in connection.exec_driver_sql(_DEVICES, (value.id,))}
    needs = needs_by_profile(connection, value.name, value.version)
    covered = {
        name: row
        for name, row in rows.items()
        if row.given_counter is not None or file_for(needs, row.profile, row.facts) is not None
    }
    reports = _Reports(_failures(connection, value), *_figures(connection, value, hashes))
    return [_device_evidence(value, row, hashes, reports) for row in covered.values()]


def write_step(connection: Connection, before: Rollout, step: Step, now: float) -> list[Hinted]:
    """Store what a step decided; return the devices to hint at."""
    hinted = [_assign(connection, step.rollout, device, now) for device in step.assign]
    hinted += [new for device in step.revert if (new := _revert(connection, step.rollout, device, now)) is not None]
    values = _changing(step.rollout)
    if step.verdict is not None:
        values["verdict"] = msgspec.json.encode(step.verdict).decode()
    if step.rollout.state != before.state and step.rollout.state in ("completed", "halted", "rolled-back"):
        values["ended_at"] = now
    connection.execute(update(rollout).where(rollout.c.id == step.rollout.id).values(**values))
    return hinted


def find_newcomers(connection: Connection) -> list[tuple[Rollout, str]]:
    """Return each enrolled device that has had no order at all, with each product's newest completed rollout that
    covers it.

    Software comes to such devices with its next rollout: what machine they are is not known before they check in.
    """
    rows = connection.exec_driver_sql(
        "SELECT name, profile, facts FROM device WHERE enrolled_at IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM assignment a WHERE a.device = device.name AND a.purpose != 'lift')"
    ).fetchall()
    newest: dict[str, Rollout] = {}
    for completed in list_rollouts(connection, ("completed",)) if rows else []:
        if completed.name != SOFTWARE_NAME:
            newest.setdefault(completed.name, completed)
    found = []
    for value in newest.values():
        needs = needs_by_profile(connection, value.name, value.version)
        found += [(value, row.name) for row in rows if file_for(needs, row.profile, row.facts) is not None]
    return found


def assign_newcomers(connection: Connection, now: float) -> list[Hinted]:
    """Order what the fleet runs for the devices that joined it late."""
    return [_assign(connection, value, device, now) for value, device in find_newcomers(connection)]


_DEVICES = """
SELECT d.name AS device, d.profile, d.facts, rd.counter AS given_counter, rd.previous_sha256, rd.revert_counter,
       a.members, a.name, a.version, a.bundle_sha256, s.connected, s.status, s.counter AS seen_counter,
       s.candidate_sha256, s.body
FROM device d
LEFT JOIN rollout_device rd ON rd.device = d.name AND rd.rollout_id = ?
LEFT JOIN assignment a ON a.device = d.name AND a.counter = (SELECT max(counter) FROM assignment WHERE device = d.name)
LEFT JOIN device_state s ON s.device = d.name
WHERE d.enrolled_at IS NOT NULL
ORDER BY d.name
"""


@dataclass(frozen=True)
class _Reports:
    """What devices reported about a release: who failed it, and the sums by device."""

    failures: set[str]
    candidate: dict[str, Figures]
    before: dict[str, Figures]


def _device_evidence(value: Rollout, row: Row[Any], hashes: set[str], reports: _Reports) -> DeviceEvidence:
    running = running_of(row.body, value.name)
    runs_it = running in hashes
    given = row.given_counter is not None
    software = value.name == SOFTWARE_NAME
    at_rest = software or (row.status in ("idle", "committed") and row.candidate_sha256 is None)
    settled = given and runs_it and at_rest
    # what was said before the order came may have been lifted by it
    up_to_date = given and row.body is not None and (row.seen_counter or 0) >= row.given_counter
    quarantined = up_to_date and any(f'"{sha256}"' in _quarantine(row.body) for sha256 in hashes)
    ran_before = row.previous_sha256 if given else running
    had_previous = ran_before is not None and ran_before not in hashes
    return DeviceEvidence(
        device=row.device,
        online=bool(row.connected),
        assigned=given,
        had_previous=had_previous,
        failed=given and (quarantined or (row.device in reports.failures and not settled)),
        settled=settled,
        works=software and settled,
        back=_is_back(value, row, may_run_it=not runs_it or not had_previous),
        candidate=reports.candidate.get(row.device, NOTHING),
        before=reports.before.get(row.device, NOTHING),
    )


def _is_back(value: Rollout, row: Row[Any], *, may_run_it: bool) -> bool:
    """Tell whether a device has followed its order to go back, or was sent elsewhere by a later rollout."""
    if row.revert_counter is None:
        ordered = read_members(row.members, row.name, row.version, row.bundle_sha256).get(value.name)
        return ordered is None or ordered.version != value.version
    return (row.seen_counter or 0) >= row.revert_counter and may_run_it


def _quarantine(body: str) -> str:
    _, _, tail = body.partition('"quarantined":')
    return tail.partition("]")[0]


def _failures(connection: Connection, value: Rollout) -> set[str]:
    """Return who reported that it refused the release or went back from it, also under a later order of another one.

    Going back because another release was ordered is no failure, nor is what befell another release meanwhile.
    """
    rows = connection.exec_driver_sql(
        f"""
        SELECT DISTINCT e.device FROM device_event e
        JOIN rollout_device rd ON rd.device = e.device AND rd.rollout_id = ?
        LEFT JOIN release_bundle b ON b.sha256 = e.bundle_sha256 AND b.name = ? AND b.version = ?
        WHERE e.kind IN {FAILURE_KINDS!r}
          AND e.cause != 'ordered'
          AND (CASE
                 WHEN e.bundle_sha256 IS NULL THEN e.counter = rd.counter
                 WHEN b.sha256 IS NULL THEN FALSE
                 WHEN e.counter IS NULL THEN e.received_at >= rd.assigned_at
                 ELSE e.counter >= rd.counter AND NOT EXISTS (
                   SELECT 1 FROM assignment a
                   WHERE a.device = e.device AND a.counter > e.counter AND instr(a.lift, e.bundle_sha256) > 0
                 )
               END)
        """,  # noqa: S608 - FAILURE_KINDS is a constant
        (value.id, value.name, value.version),
    )
    return {row.device for row in rows}


def _figures(connection: Connection, value: Rollout, hashes: set[str]) -> tuple[dict[str, Figures], dict[str, Figures]]:
    """Return, by device, the sums since the wave began: of the release's bundles, and of its product's others."""
    rows = connection.exec_driver_sql(
        """
        SELECT f.device, f.bundle_sha256, f.role, sum(f.requests) AS requests, sum(f.failed) AS failed,
               sum(f.non_finite) AS non_finite, sum(f.compared) AS compared, sum(f.disagreed) AS disagreed,
               sum(f.labelled) AS labelled, sum(f.correct) AS correct
        FROM model_figures f LEFT JOIN release_bundle b ON b.sha256 = f.bundle_sha256
        WHERE f.bucket >= ? AND coalesce(b.name, ?) = ?
        GROUP BY f.device, f.bundle_sha256, f.role
        """,
        (int(value.wave_started_at), value.name, value.name),
    )
    candidate: dict[str, Figures] = {}
    before: dict[str, Figures] = {}
    for row in rows:
        into = candidate if row.bundle_sha256 in hashes else before
        live = row.role != "shadow"
        figures = Figures(
            requests=row.requests if live else 0,
            failed=row.failed if live else 0,
            non_finite=row.non_finite if live else 0,
            compared=row.compared,
            disagreed=row.disagreed,
            labelled=row.labelled,
            correct=row.correct,
        )
        into[row.device] = into.get(row.device, Figures()) + figures
    return candidate, before


def _assign(connection: Connection, value: Rollout, device: str, now: float) -> Hinted:
    bundles = bundles_by_profile(connection, value.name, value.version)
    row = connection.exec_driver_sql("SELECT profile, facts FROM device WHERE name = ?", (device,)).one()
    needs = needs_by_profile(connection, value.name, value.version)
    previous = release_before(connection, device, value.name)
    sha256 = bundles[file_for(needs, row.profile, row.facts) or row.profile]
    ordered = ordered_release(connection, value.name, value.version, sha256)
    counter = insert_order(connection, device, value.name, ordered, rollout_id=value.id, purpose="rollout", now=now)
    connection.execute(
        insert(rollout_device).values(
            rollout_id=value.id,
            device=device,
            wave=value.wave,
            counter=counter,
            assigned_at=now,
            previous_name=value.name if previous else None,
            previous_version=previous.version if previous else None,
            previous_sha256=previous.bundle_sha256 if previous else None,
        )
    )
    return Hinted(device, counter)


def _revert(connection: Connection, value: Rollout, device: str, now: float) -> Hinted | None:
    """Send a device back, unless a later rollout has taken it over already."""
    newest = newest_order(connection, device)[1].get(value.name)
    given = connection.execute(
        select(rollout_device).where(rollout_device.c.rollout_id == value.id, rollout_device.c.device == device)
    ).one()
    if newest is None or newest.version != value.version:
        return None
    # An older server may have written that the device ran another product before: that one stays as it is now.
    back = None
    if given.previous_name == value.name:
        back = ordered_release(connection, value.name, given.previous_version, given.previous_sha256)
    counter = insert_order(connection, device, value.name, back, rollout_id=value.id, purpose="revert", now=now)
    connection.execute(
        update(rollout_device)
        .where(rollout_device.c.rollout_id == value.id, rollout_device.c.device == device)
        .values(revert_counter=counter)
    )
    return Hinted(device, counter)


def _joined() -> Any:
    joined = rollout.join(release, (release.c.name == rollout.c.name) & (release.c.version == rollout.c.version))
    return select(rollout, release.c.policy).select_from(joined)


def _rollout(row: Row[Any]) -> Rollout:
    return Rollout(
        id=row.id,
        name=row.name,
        version=row.version,
        policy=read_policy(bytes(row.policy), source="the release's policy").policy.rollout,
        salt=row.salt,
        holdout=frozenset(msgspec.json.decode(row.holdout, type=list[str])),
        created_at=row.created_at,
        state=row.state,
        wave=row.wave,
        wave_started_at=row.wave_started_at,
        cause=row.cause,
    )


def _changing(value: Rollout) -> dict[str, Any]:
    return {
        "state": value.state,
        "wave": value.wave,
        "wave_started_at": value.wave_started_at,
        "cause": value.cause,
    }
