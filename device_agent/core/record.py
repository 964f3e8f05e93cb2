# SPDX-License-Identifier: Apache-2.0
"""What an agent must remember across a power cut: one row, replaced whole."""

from typing import Annotated

import msgspec

from edgefleet.contracts.manifest import Fact, Natural
from edgefleet.contracts.messages import Cause, Detail, RunningRelease
from edgefleet.contracts.names import Sha256
from edgefleet.contracts.policy import DevicePolicy

REPORTED_LIMIT = 32
QUARANTINE_LIMIT = 1000


class Progress(Fact, frozen=True, kw_only=True):
    """How far shadow or trial have come.

    ``attempts_left`` is decremented durably before each activation, and given back after a clean stop, a reboot or a
    death that nothing explains. ``elapsed_s`` counts policy seconds while the agent was running.
    """

    attempts_left: Natural = 0
    unexplained_left: int = 0
    requests: Natural = 0
    failed: Natural = 0
    non_finite: Natural = 0
    compared: Natural = 0
    elapsed_s: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0


class Fault(Fact, frozen=True, kw_only=True):
    """Why the device goes back, from which release, and when the first sign was (Unix seconds)."""

    cause: Cause
    detail: Detail = ""
    release: RunningRelease | None = None
    at: float = 0.0


class DeviceRecord(Fact, frozen=True, kw_only=True):
    """One device's whole persistent state.

    ``active`` is the release that was last found good and answers, unless a trial is on; ``candidate`` is under test
    (it answers in a trial); ``previous`` is the good release before ``active``. ``status`` is any text, so that a
    state written by another agent can be read and answered with a rollback. ``counter`` is the highest assignment
    counter accepted, ``order_counter`` that of the candidate's order. ``reported`` names refusals already reported.
    """

    status: str = "idle"
    counter: Natural = 0
    order_counter: Natural = 0
    active: RunningRelease | None = None
    previous: RunningRelease | None = None
    candidate: RunningRelease | None = None
    compat_hash: str = ""
    policy: DevicePolicy = DevicePolicy()
    progress: Progress = Progress()
    quarantine: tuple[Sha256, ...] = ()
    fault: Fault | None = None
    reported: tuple[str, ...] = ()
    boot_id: str = ""
    clean_stop: bool = False
    changed_at: float = 0.0

    def quarantines(self, bundle_sha256: str) -> bool:
        """Tell whether this device will not try the bundle again."""
        return bundle_sha256 in self.quarantine


def quarantined(record: DeviceRecord, bundle_sha256: str) -> DeviceRecord:
    """Return the record with one more bundle in quarantine (the oldest entries beyond the limit are let go)."""
    kept = tuple(sha for sha in record.quarantine if sha != bundle_sha256)
    return msgspec.structs.replace(record, quarantine=(*kept, bundle_sha256)[-QUARANTINE_LIMIT:])


def reported(record: DeviceRecord, key: str) -> DeviceRecord:
    """Return the record that remembers a refusal as reported."""
    return msgspec.structs.replace(record, reported=(*record.reported, key)[-REPORTED_LIMIT:])


def fresh_progress(policy: DevicePolicy) -> Progress:
    """Return the counters with which a shadow or a trial starts."""
    return Progress(attempts_left=policy.trial.crash_limit + 1, unexplained_left=policy.trial.unexplained_limit)
