# SPDX-License-Identifier: Apache-2.0
"""An attacker with the whole server but one approver's key too few, against devices that verify for themselves."""

import sqlite3
import time
from pathlib import Path

import msgspec
import pytest

from device_agent.adapters.storage.state_file import read_record
from edgefleet.contracts.bundle import open_bundle, pack
from edgefleet.contracts.errors import EdgeFleetError
from fleet_emulation.command import edgefleet, require
from fleet_emulation.kills import orders_given_twice
from fleet_emulation.rehearsal import Rehearsal, wait_until
from fleet_emulation.stolen_server import StolenServer
from fleet_emulation.testbed import PRODUCT, TENANT, Testbed

VERSION = "9.0.0"
LIMIT_S = 300.0


@pytest.fixture(name="thief")
def _thief(rehearsal: Rehearsal) -> StolenServer:
    return StolenServer(rehearsal.bed.database, rehearsal.bed.server_data / "signer", TENANT)


def publish_with_one_signature(bed: Testbed, folder: Path) -> None:
    """Publish a release of the same model under another version; only the first approver signs it."""
    good = open_bundle(bed.folder / "bundles" / "digits-1.0.0-linux-x86_64.bundle")
    manifest = msgspec.structs.replace(good.manifest, version=VERSION)
    bundle = folder / f"digits-{VERSION}-linux-x86_64.bundle"
    bundle.write_bytes(pack(manifest, {path: good.read(path) for path in good.spans}))
    require(edgefleet("releases", "publish", bundle, "--policy", bed.folder / "policy.toml", home=bed.admin))
    approve(bed, "alice")


def approve(bed: Testbed, person: str) -> None:
    home = bed.home(person)
    key = ("--key", person, "--passphrase-file", home / "passphrase", "--yes")
    require(edgefleet("releases", "approve", PRODUCT, VERSION, *key, home=home))


def refusals(bed: Testbed, since: float) -> set[str]:
    """Return the devices that refused an update for want of signatures."""
    events = bed.api.get("events", limit=1000)
    return {
        event["device"]
        for event in events
        if (event["kind"], event["cause"]) == ("update-refused", "metadata-unsigned") and event["received_at"] >= since
    }


@pytest.mark.slow
def test_devices_refuse_what_one_of_two_approvers_signed_though_every_online_key_is_stolen(
    rehearsal: Rehearsal, thief: StolenServer, tmp_path: Path
) -> None:
    bed = rehearsal.bed
    publish_with_one_signature(bed, tmp_path)
    running = {agent.device: read_record(agent.files.state) for agent in bed.agents}
    began = time.time()
    assert thief.publish_half_signed(PRODUCT, VERSION) == 1
    assert thief.order_everyone(PRODUCT, VERSION) == sum(device["enrolled"] for device in bed.api.get("devices"))
    thief.wake_everyone(bed.broker_port)
    wait_until(lambda: refusals(bed, began) >= running.keys(), "every agent to refuse", limit_s=LIMIT_S)
    for agent in bed.agents:
        record, before = read_record(agent.files.state), running[agent.device]
        assert record is not None
        assert before is not None
        assert (record.active, record.counter, record.candidate) == (before.active, before.counter, ())
    bed.stop_server()
    thief.clean_up()
    bed.start_server()
    # Devices have seen a genuine snapshot with the next production version, and accept none below (TUF 5.5.5): so the
    # approvers publish that version.
    approve(bed, "bob")
    assert rehearsal.wait_for_end(rehearsal.start_rollout())["state"] == "completed", "the repaired server goes on"
    assert orders_given_twice(bed) == []


def test_a_thief_needs_at_least_one_signature_to_steal(rehearsal: Rehearsal, thief: StolenServer) -> None:
    with sqlite3.connect(f"{rehearsal.bed.database.as_uri()}?mode=ro", uri=True) as rows:
        before = rows.execute("SELECT count(*) FROM image_metadata").fetchone()
        with pytest.raises(EdgeFleetError, match=r"^nobody has signed digits 8\.0\.0 yet$"):
            thief.publish_half_signed(PRODUCT, "8.0.0")
        assert rows.execute("SELECT count(*) FROM image_metadata").fetchone() == before
    rows.close()
