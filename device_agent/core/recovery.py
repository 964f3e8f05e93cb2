# SPDX-License-Identifier: Apache-2.0
"""What a restarted agent makes of the record that it finds."""

from typing import NamedTuple

import msgspec

from device_agent.core.lifecycle import LIVE, READY, resume
from device_agent.core.record import DeviceRecord, Fault, quarantined
from device_agent.core.trial import Death, judge_death
from edgefleet.contracts.messages import DeviceStatus


class Recovery(NamedTuple):
    """Where to go on, with what record, and whether the last end is known to be harmless."""

    status: DeviceStatus
    record: DeviceRecord
    death: Death


def recover(record: DeviceRecord, *, boot_id: str, now: float) -> Recovery:
    """Resume from a record: clean stops and reboots are harmless, other ends count against a limit of their own.

    ``boot_id`` is the running kernel's, ``now`` Unix seconds. The record comes back marked as running.
    """
    death: Death = "clean" if record.clean_stop or not record.boot_id or record.boot_id != boot_id else "unexplained"
    status = resume(record.status)
    running = msgspec.structs.replace(record, boot_id=boot_id, clean_stop=False, status=status)
    if status in READY:  # what was being prepared starts over from a poll
        running = msgspec.structs.replace(running, candidate=None)
    if status in LIVE:
        running, status = _resume_live(running, status, death, now)
    if status == "rolling-back" and running.fault is None:
        fault = Fault(cause="unknown-state", detail=f"the persisted state was '{record.status[:100]}'", at=now)
        running = msgspec.structs.replace(running, fault=fault, candidate=None)
    return Recovery(status, running, death)


def _resume_live(
    record: DeviceRecord, status: DeviceStatus, death: Death, now: float
) -> tuple[DeviceRecord, DeviceStatus]:
    if record.candidate is None:
        fault = Fault(cause="unknown-state", detail=f"the state '{status}' has no candidate", at=now)
        return msgspec.structs.replace(record, status="rolling-back", fault=fault), "rolling-back"
    progress, verdict = judge_death(record.progress, death)
    if verdict.kind == "fail":
        fault = Fault(cause=verdict.cause, detail=verdict.detail, release=record.candidate, at=now)
        failed = quarantined(record, record.candidate.bundle_sha256)
        changes = {"progress": progress, "status": "rolling-back", "fault": fault, "candidate": None}
        return msgspec.structs.replace(failed, **changes), "rolling-back"
    return msgspec.structs.replace(record, progress=progress), status
