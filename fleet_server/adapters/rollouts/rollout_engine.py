# SPDX-License-Identifier: Apache-2.0
"""The rollout engine: reads evidence, lets the pure core decide, and stores the step, all in one transaction.

``kill -9`` between any two instructions leaves either the whole step or none of it; the next start steps again.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Sequence

from sqlalchemy.engine import Connection

from edgefleet.contracts.errors import ConflictError, EdgeFleetError, IncompatibleError, PolicyError
from edgefleet.contracts.policy import read_policy
from edgefleet.contracts.software import SOFTWARE_NAME
from fleet_server.adapters.access.audit_log import append_audit
from fleet_server.adapters.devices.order_store import Hinted, devices_behind
from fleet_server.adapters.keys.signer_process import SignerProcess
from fleet_server.adapters.releases.fitness import unfit_devices
from fleet_server.adapters.releases.release_store import ReleaseStore
from fleet_server.adapters.rollouts.rollout_store import (
    ACTIVE_STATES,
    assign_newcomers,
    bundles_by_profile,
    enrolled_devices,
    find_newcomers,
    find_rollout,
    has_rollout,
    insert_rollout,
    list_rollouts,
    read_evidence,
    write_step,
)
from fleet_server.adapters.storage.database import Database
from fleet_server.adapters.storage.schema import release
from fleet_server.core.rollouts.cohort import draw_holdout
from fleet_server.core.rollouts.reminders import Waiting, remind
from fleet_server.core.rollouts.rollout import Order, Rollout, Step, carry_out, step
from fleet_server.signer.requests import OpenRollout

_LOG = logging.getLogger(__name__)
Hint = Callable[[Sequence[Hinted]], None]


class RolloutEngine:
    """Creates, orders and steps rollouts. ``hint`` is told of devices with new orders, after the commit."""

    def __init__(
        self,
        database: Database,
        releases: ReleaseStore,
        signer: SignerProcess,
        clock: Callable[[], float],
        *,
        time_scale: float,
        hint: Hint,
    ) -> None:
        self._database = database
        self._releases = releases
        self._signer = signer
        self._clock = clock
        self._time_scale = time_scale
        self._hint = hint
        self._waiting: dict[str, Waiting] = {}

    def create(self, name: str, version: str, actor: str) -> Rollout:
        """Start a rollout of an approved release.

        Raises:
            NotFoundError: there is no such release.
            PolicyError: it is not approved.
            ConflictError: another rollout is under way.
            IncompatibleError: no enrolled device has a profile that the release has a bundle for, or none of these
                can run it.
        """
        policy_bytes = self._releases.policy(name, version)
        policy = read_policy(policy_bytes, source="the release's policy").policy.rollout
        now, salt = self._clock(), secrets.token_hex(16)
        with self._database.write() as connection:
            _check_approved(connection, name, version)
            _check_none_active(list_rollouts(connection, ACTIVE_STATES))
            covered = _covered(connection, name, version)
            self._signer.open_rollout(OpenRollout(name=name, version=version, policy=policy_bytes))
            new = Rollout(
                id=f"{name}-{version}-{secrets.token_hex(2)}",
                name=name,
                version=version,
                policy=policy,
                salt=salt,
                holdout=draw_holdout(salt, covered, policy.holdout_percent),
                created_at=now,
            )
            insert_rollout(connection, new)
            detail = f"{len(covered)} devices, {len(new.holdout)} of them held out"
            append_audit(connection, at=now, actor=actor, action="rollout-created", subject=new.id, detail=detail)
        self.step_all()
        return new

    def order(self, rollout_id: str, order: Order, actor: str) -> Rollout:
        """Carry out a person's order.

        Raises:
            NotFoundError, ConflictError: there is no such rollout, or it is in another state.
        """
        now = self._clock()
        with self._database.write() as connection:
            before = find_rollout(connection, rollout_id)
            if order == "resume":
                _check_none_active(list_rollouts(connection, ("running",)))
            decided = carry_out(before, order, read_evidence(connection, before))
            hinted = write_step(connection, before, decided, now)
            append_audit(connection, at=now, actor=actor, action=f"rollout-{order}", subject=rollout_id)
        self._hint(hinted)
        return decided.rollout

    def step_all(self) -> None:
        """Step every rollout that is under way, and give devices that joined late what the fleet runs.

        Whether there is anything to do is seen without the lock that a write takes: an idle server writes nothing.
        """
        with self._database.read() as connection:
            if not _is_due(connection):
                return
        hinted: list[Hinted] = []
        with self._database.write() as connection:
            now = self._clock()
            for before in list_rollouts(connection, ("running", "halted")):
                decided = step(before, read_evidence(connection, before), now, time_scale=self._time_scale)
                if decided != Step(before):
                    hinted += write_step(connection, before, decided, now)
                _audit_change(connection, before, decided, now)
            if not has_rollout(connection, ACTIVE_STATES):
                hinted += assign_newcomers(connection, now)
        self._hint(hinted)

    def remind(self) -> None:
        """Hint again at devices that are connected and have not seen their newest order; called every few seconds."""
        with self._database.read() as connection:
            behind = devices_behind(connection)
        self._waiting, reminded = remind(self._waiting, behind, self._clock())
        if reminded:
            self._hint([Hinted(device, counter) for device, counter in reminded.items()])

    def run(self, stop: threading.Event, *, every_s: float) -> None:
        """Step until ``stop`` is set; a failing step is logged and tried again, and nothing advances meanwhile."""
        while not stop.wait(every_s):
            try:
                self.step_all()
            except EdgeFleetError as error:
                _LOG.error("no rollout advances: %s", error)
            except Exception:  # noqa: BLE001 - a fault of ours: say so and stand still, but do not let the engine's thread die unseen
                _LOG.exception("no rollout advances, because of a fault in EdgeFleet")


def _is_due(connection: Connection) -> bool:
    """Tell whether a rollout is under way, or a device has joined that is to run what the fleet runs."""
    if has_rollout(connection, ("running", "halted")):
        return True
    return not has_rollout(connection, ACTIVE_STATES) and bool(find_newcomers(connection))


def _check_approved(connection: Connection, name: str, version: str) -> None:
    state = connection.execute(release.select().where(release.c.name == name, release.c.version == version)).one().state
    if state != "approved":
        raise PolicyError(
            f"release {name} {version} is {state}, expected approved",
            hint=f"let its approvers run: edgefleet releases approve {name} {version} --key KEY",
        )


def _check_none_active(active: list[Rollout]) -> None:
    if active:
        raise ConflictError(
            f"rollout '{active[0].id}' is {active[0].state}: one rollout goes at a time",
            hint=f"wait for it, or: edgefleet rollouts abort {active[0].id}",
        )


def _covered(connection: Connection, name: str, version: str) -> list[str]:
    bundles = bundles_by_profile(connection, name, version)
    devices = enrolled_devices(connection)
    covered = [device for device, profile in devices.items() if name == SOFTWARE_NAME or profile in bundles]
    if devices and not covered:
        raise IncompatibleError(
            f"release {name} {version} is for {', '.join(sorted(bundles))}, and no enrolled device has such a profile",
            hint="convert and publish a bundle for the fleet's profiles",
        )
    unfit = unfit_devices(connection, name, version)
    fitting = [device for device in covered if device not in unfit]
    if covered and not fitting:
        raise IncompatibleError(
            f"release {name} {version} cannot run on any device; {covered[0]}: {'; '.join(unfit[covered[0]])}",
            hint="convert for a profile that is true of the boards, or correct the boards"
            if name != SOFTWARE_NAME
            else "publish a wheel set for the fleet's machines, and update older agents as they were installed",
        )
    return fitting


def _audit_change(connection: Connection, before: Rollout, decided: Step, now: float) -> None:
    after = decided.rollout
    if (after.state, after.wave) == (before.state, before.wave) and not decided.assign:
        return
    detail = f"{before.state} wave {before.wave + 1} to {after.state} wave {after.wave + 1}"
    detail += f", {len(decided.assign)} devices" if decided.assign else ""
    detail += f", cause {after.cause}" if after.cause else ""
    append_audit(connection, at=now, actor="server", action="rollout-step", subject=after.id, detail=detail)
