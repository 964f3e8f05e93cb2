# SPDX-License-Identifier: Apache-2.0
"""Which software of its own a device starts: the active wheel set, one on trial, or what the system installed.

The launcher asks at each start, before anything else runs, so this module needs the standard library only and decides
without looking at anything:

=====================  ======================================  ==================================================
at the last end         the one on trial                        the active one
=====================  ======================================  ==================================================
reported healthy        becomes the active one                  its failures are forgotten
stopped cleanly         is tried again, not counted             is not counted
anything else           counted; after ``ATTEMPTS`` it is bad   counted; after ``FAILURES`` the system's own starts
=====================  ======================================  ==================================================

An attempt is counted durably *before* it starts: a start that takes the device down has been counted.

A set that a signed order forbids is left for the one before it, which is kept until the next one is installed, or for
the system's own. Where these are forbidden, too, what runs goes on: an agent that removed itself could do nothing more.
"""

from collections.abc import Collection
from typing import NamedTuple

#: Starts of one on trial that did not end well.
ATTEMPTS = 3
#: Starts of the active one in a row that did not end well: it was healthy once, and may be innocent.
FAILURES = 10
#: What the system's packages installed, which is always there.
SYSTEM = ""


class SoftwareRecord(NamedTuple):
    """What the launcher remembers. Wheel sets are named by their SHA-256; ``failures`` are those of what runs now.

    ``previous`` was the active one before. Launchers of before know nothing of it, and forget it.
    """

    active: str = SYSTEM
    trial: str = ""
    failures: int = 0
    bad: tuple[str, ...] = ()
    previous: str = SYSTEM


class Start(NamedTuple):
    """What to start, what to remember first, and (where something changed) what happened, for the agent to report."""

    record: SoftwareRecord
    run: str
    happened: str = ""


def at_start(record: SoftwareRecord, *, healthy: str | None, stopped: str | None, present: frozenset[str]) -> Start:
    """Decide at a start.

    ``healthy`` and ``stopped`` name what reported so at the last run (None: nobody did); ``present`` are the sets that
    lie there whole.
    """
    if (committed := proved(record, healthy)) != record:
        return _start_active(committed, present, "software-committed")
    record = _settled(record, healthy=healthy, stopped=stopped)
    return _start_trial(record, present) if record.trial else _start_active(record, present, "")


def proved(record: SoftwareRecord, healthy: str | None) -> SoftwareRecord:
    """Return the record in which one on trial that reported health is the active one, as the next start will see it."""
    if not record.trial or healthy != record.trial:
        return record
    return SoftwareRecord(active=record.trial, bad=record.bad, previous=record.active)


def on_trial(record: SoftwareRecord, sha256: str) -> SoftwareRecord:
    """Put a set on trial from the next start on; one that is bad was named again, and gets another trial.

    The active one is the way back from now on, and the one before it is not needed any more.
    """
    bad = tuple(name for name in record.bad if name != sha256)
    if sha256 == record.active:
        return SoftwareRecord(active=record.active, bad=bad, previous=record.previous)
    return SoftwareRecord(active=record.active, trial=sha256, bad=bad)


def given_up(record: SoftwareRecord, running: str) -> SoftwareRecord:
    """Return the record after one on trial found itself that it does worse than the one before."""
    return SoftwareRecord(active=record.active, bad=(*record.bad, running), previous=record.previous)


def without(record: SoftwareRecord, forbidden: Collection[str]) -> SoftwareRecord:
    """Return the record after a signed order forbade sets, the system's own (:data:`SYSTEM`) perhaps among them."""
    kept = record
    if record.trial in forbidden and record.trial:
        kept = kept._replace(trial="", failures=0)
    if record.active not in forbidden:
        return kept
    before = record.previous if record.previous not in forbidden and record.previous not in record.bad else SYSTEM
    return kept if before in forbidden else kept._replace(active=before, failures=0, previous=SYSTEM)


def lifted(record: SoftwareRecord, sha256s: Collection[str]) -> SoftwareRecord:
    """Return the record without these sets' failures: they may be tried again."""
    return record._replace(bad=tuple(name for name in record.bad if name not in sha256s))


def _settled(record: SoftwareRecord, *, healthy: str | None, stopped: str | None) -> SoftwareRecord:
    """Take back the count of a start that ended well."""
    counted = record.trial or record.active
    if healthy == counted:
        return record._replace(failures=0)
    return record._replace(failures=max(record.failures - 1, 0)) if stopped == counted else record


def _start_trial(record: SoftwareRecord, present: frozenset[str]) -> Start:
    if record.trial not in present or record.failures >= ATTEMPTS:
        back = SoftwareRecord(active=record.active, bad=(*record.bad, record.trial), previous=record.previous)
        return _start_active(back, present, "software-rolled-back")
    return Start(record._replace(failures=record.failures + 1), record.trial)


def _start_active(record: SoftwareRecord, present: frozenset[str], happened: str) -> Start:
    lost = record.active != SYSTEM and (record.active not in present or record.failures >= FAILURES)
    if lost:
        return Start(SoftwareRecord(failures=1, bad=(*record.bad, record.active)), SYSTEM, "software-lost")
    failures = min(record.failures + 1, FAILURES)
    return Start(record._replace(failures=failures), record.active, happened)
