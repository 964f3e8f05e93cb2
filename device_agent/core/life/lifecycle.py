# SPDX-License-Identifier: Apache-2.0
"""The device's life cycle as one transition table.

A trigger that a state does not know is a fault (:class:`LifecycleFaultError`), never ignored. After a restart each
persisted state has one resume point (:func:`resume`); a state that this agent does not know means rollback.
"""

from typing import Literal, get_args

from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.messages import DeviceStatus

Trigger = Literal[
    "order-found",
    "order-withdrawn",
    "bundle-complete",
    "bundle-unavailable",
    "bundle-staged",
    "admission-begun",
    "admission-passed",
    "admission-passed-first",
    "admission-refused",
    "admission-postponed",
    "shadow-passed",
    "candidate-failed",
    "trial-passed",
    "settled",
    "active-failed",
    "previous-serving",
    "nothing-to-serve",
    "previous-verified",
    "previous-failed",
    "deadline-passed",
]

TRANSITIONS: dict[tuple[DeviceStatus, Trigger], DeviceStatus] = {
    ("idle", "order-found"): "downloading",
    ("idle", "active-failed"): "rolling-back",
    ("downloading", "bundle-complete"): "verified",
    ("downloading", "bundle-unavailable"): "idle",
    ("downloading", "order-withdrawn"): "idle",
    ("downloading", "deadline-passed"): "idle",
    ("downloading", "active-failed"): "rolling-back",
    ("verified", "bundle-staged"): "staged",
    ("verified", "order-withdrawn"): "idle",
    ("verified", "deadline-passed"): "idle",
    ("verified", "active-failed"): "rolling-back",
    ("staged", "admission-begun"): "admission",
    ("staged", "order-withdrawn"): "idle",
    ("staged", "deadline-passed"): "idle",
    ("staged", "active-failed"): "rolling-back",
    ("admission", "admission-passed"): "shadow",
    ("admission", "admission-passed-first"): "trial",
    ("admission", "admission-refused"): "idle",
    ("admission", "admission-postponed"): "staged",
    ("admission", "order-withdrawn"): "idle",
    ("admission", "deadline-passed"): "idle",
    ("admission", "active-failed"): "rolling-back",
    ("shadow", "shadow-passed"): "trial",
    ("shadow", "candidate-failed"): "rolling-back",
    ("shadow", "order-withdrawn"): "rolling-back",
    ("shadow", "deadline-passed"): "rolling-back",
    ("trial", "trial-passed"): "committed",
    ("trial", "candidate-failed"): "rolling-back",
    ("trial", "order-withdrawn"): "rolling-back",
    ("trial", "deadline-passed"): "rolling-back",
    ("committed", "settled"): "idle",
    ("committed", "active-failed"): "rolling-back",
    ("committed", "deadline-passed"): "idle",
    ("rolling-back", "previous-serving"): "verify-previous",
    ("rolling-back", "nothing-to-serve"): "safe-mode",
    ("rolling-back", "previous-failed"): "safe-mode",
    ("rolling-back", "deadline-passed"): "safe-mode",
    ("verify-previous", "previous-verified"): "idle",
    ("verify-previous", "previous-failed"): "safe-mode",
    ("verify-previous", "deadline-passed"): "safe-mode",
    ("safe-mode", "order-found"): "downloading",
}

#: Where each state goes on after a restart. What had not touched the running model starts over from a poll.
RESUME: dict[DeviceStatus, DeviceStatus] = {
    "idle": "idle",
    "downloading": "idle",
    "verified": "idle",
    "staged": "staged",
    "admission": "staged",
    "shadow": "shadow",
    "trial": "trial",
    "committed": "committed",
    "rolling-back": "rolling-back",
    "verify-previous": "verify-previous",
    "safe-mode": "safe-mode",
}

STATUSES: tuple[DeviceStatus, ...] = get_args(DeviceStatus)
#: States in which the candidate is loaded in the worker.
LIVE: frozenset[DeviceStatus] = frozenset({"shadow", "trial"})
#: States in which a new order may be taken up.
READY: frozenset[DeviceStatus] = frozenset({"idle", "safe-mode"})
#: States in which a candidate is being prepared and can be dropped without a rollback.
PREPARING: frozenset[DeviceStatus] = frozenset({"downloading", "verified", "staged", "admission"})


#: Longest stay in each state in seconds of running time. Idle and safe mode are states of rest; a shadow and a trial
#: have the limits of their policy and, beyond these, this much for a candidate that never comes to answer.
DEADLINES_S: dict[DeviceStatus, float] = {
    "downloading": 7 * 86400.0,
    "verified": 3600.0,
    "staged": 86400.0,
    "admission": 3600.0,
    "shadow": 86400.0,
    "trial": 86400.0,
    "committed": 3600.0,
    "rolling-back": 600.0,
    "verify-previous": 600.0,
}


class LifecycleFaultError(EdgeFleetError):
    """A trigger reached a state that does not know it: a defect of the agent, answered by a rollback."""

    code = "lifecycle-fault"


def step(status: DeviceStatus, trigger: Trigger) -> DeviceStatus:
    """Return the state that follows.

    Raises:
        LifecycleFaultError: ``status`` does not know ``trigger``.
    """
    try:
        return TRANSITIONS[status, trigger]
    except KeyError:
        raise LifecycleFaultError(
            f"the state '{status}' does not know the trigger '{trigger}'", hint="report this as a defect of the agent"
        ) from None


def resume(status: str) -> DeviceStatus:
    """Return where a restarted agent goes on; an unknown persisted state means rollback."""
    return RESUME.get(status, "rolling-back")  # type: ignore[call-overload,no-any-return]  # any text may be persisted
