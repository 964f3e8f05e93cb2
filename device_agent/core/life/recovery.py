# SPDX-License-Identifier: Apache-2.0
"""What a restarted agent makes of the record that it finds."""

from typing import NamedTuple

import msgspec

from device_agent.core.life.lifecycle import LIVE, READY, resume
from device_agent.core.life.record import DeviceRecord, Fault, Progress, Software, quarantined
from device_agent.core.life.release_set import ReleaseSet
from device_agent.core.life.trial import Death, judge_death
from edgefleet.contracts.messages import DeviceStatus


class Recovery(NamedTuple):
    """Where to go on, with what record, and whether the last end is known to be harmless."""

    status: DeviceStatus
    record: DeviceRecord
    death: Death


def recover(record: DeviceRecord, *, boot_id: str, now: float, software: Software) -> Recovery:
    """Resume from a record: clean stops and reboots are harmless, other ends count against a limit of their own.

    ``boot_id`` is the running kernel's, ``now`` Unix seconds. The record comes back marked as running.
    """
    death: Death = "clean" if record.clean_stop or not record.boot_id or record.boot_id != boot_id else "unexplained"
    status = resume(record.status)
    running = msgspec.structs.replace(record, boot_id=boot_id, clean_stop=False, status=status)
    if status in READY:  # what was being prepared starts over from a poll
        running = msgspec.structs.replace(running, candidate=(), progress={})
    if status in LIVE:
        running, status = _resume_live(running, status, death, now, software)
    if status == "rolling-back" and running.fault is None:
        fault = Fault(cause="unknown-state", detail=f"the persisted state was '{record.status[:100]}'", at=now)
        running = msgspec.structs.replace(running, fault=fault, candidate=(), progress={})
    return Recovery(status, running, death)


def newer_commit(record: DeviceRecord, good: ReleaseSet, counter: int) -> DeviceRecord:
    """Return the record, unless the slots' own marks know of a later commit: then what these say.

    ``good`` is the set that was marked last, by the order ``counter``. A damaged log can take a database back to an
    older save; what was committed, and told so, stays committed.
    """
    candidate_is_good = counter == record.order_counter and _covers(good, record.candidate)
    if not good or good == record.active or not (counter > record.order_counter or candidate_is_good):
        return record
    changes = {
        "status": "idle",
        "counter": max(counter, record.counter),
        "order_counter": counter,
        "active": record.candidate if candidate_is_good else good,
        "previous": record.active or record.previous,
        "candidate": (),
        "progress": {},
        "fault": None,
    }
    return msgspec.structs.replace(record, **changes)


def _covers(good: ReleaseSet, candidate: ReleaseSet) -> bool:
    releases = {member.release for member in good}
    return bool(candidate) and all(member.release in releases for member in candidate)


def _resume_live(
    record: DeviceRecord, status: DeviceStatus, death: Death, now: float, software: Software
) -> tuple[DeviceRecord, DeviceStatus]:
    if not record.candidate:
        fault = Fault(cause="unknown-state", detail=f"the state '{status}' has no candidate", at=now)
        return msgspec.structs.replace(record, status="rolling-back", fault=fault), "rolling-back"
    progress, failed = dict(record.progress), None
    for member in record.trying:
        name = member.release.name
        progress[name], verdict = judge_death(progress.get(name, Progress()), death)
        if verdict.kind == "fail":
            failed = failed or (member, verdict)
    if failed is None:
        return msgspec.structs.replace(record, progress=progress), status
    member, verdict = failed
    fault = Fault(cause=verdict.cause, detail=verdict.detail, release=member.release, at=now)
    for suspect in record.trying:
        record = quarantined(record, suspect.sha256, software, verdict.cause)
    changes = {"progress": {}, "status": "rolling-back", "fault": fault, "candidate": ()}
    return msgspec.structs.replace(record, **changes), "rolling-back"
