# SPDX-License-Identifier: Apache-2.0
"""From a bundle to a device: publish, two approvals, rollout, and python-tuf's own client as the device."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.tuf_custom import ReleaseCustom, read_target_custom


def target(product: str, version: str = "1.0.0") -> str:
    return f"{product}/{version}/{product}-{version}-linux-x86_64.bundle"


@pytest.fixture(scope="module", name="fleet")
def _fleet(shared_server: Any) -> Any:
    shared_server.people = [shared_server.approver("ada"), shared_server.approver("bob")]
    return shared_server


def test_a_release_reaches_a_device_only_after_two_approvals_and_a_rollout(
    fleet: Any, cli: Any, make_bundle: Any, policy_text: str, tmp_path: Path
) -> None:
    fleet.delegate("digits", *fleet.people)
    device = fleet.enrol("d1")
    bundle = make_bundle(tmp_path, acceptance=b"examples")
    pin = f'[device.acceptance]\nsha256 = "{sha256_hex(b"examples")}"\nminimum = 0.75\n'
    (tmp_path / "policy.toml").write_text(policy_text + pin)
    ada, bob = fleet.people

    made = cli("releases", "publish", bundle, "--policy", tmp_path / "policy.toml", "--home", fleet.admin, "--json")
    assert made.document["state"] == "draft"
    refused = cli("rollouts", "create", "digits", "1.0.0", "--home", fleet.admin, expect=3)
    assert "release digits 1.0.0 is draft, expected approved" in refused.err

    first = cli("releases", "approve", "digits", "1.0.0", "--key", "ada", "--home", ada, "--yes", "--json")
    assert first.document["state"] == "awaiting-approval"
    assert f"adds {target('digits')}" in first.err
    assert "you are the first to sign" in first.err
    order, targets = device.order()
    assert (order.device, order.counter, targets) == ("d1", 0, [])

    second = cli("releases", "approve", "digits", "1.0.0", "--key", "bob", "--home", bob, "--yes", "--json")
    assert second.document["state"] == "approved"
    assert "1 approver(s) have signed the same before" in second.err
    assert device.order()[1] == []

    cli("rollouts", "create", "digits", "1.0.0", "--home", fleet.admin)
    order, targets = device.order()
    assert (order.tenant, order.device, order.profile, order.counter) == ("acme", "d1", "linux-x86_64", 1)
    assert [target.path for target in targets] == [target("digits")]
    assert device.fetch(target("digits")) == bundle.read_bytes()
    prefixed = f"/image/targets/digits/1.0.0/{sha256_hex(bundle.read_bytes())}.{bundle.name}"
    rest = device.get(prefixed, range="bytes=1000-")
    assert (rest.status, rest.data) == (206, bundle.read_bytes()[1000:])
    info = device.target(target("digits"))
    assert (info.length, info.hashes) == (targets[0].length, targets[0].hashes)
    custom = read_target_custom(info.custom)
    assert isinstance(custom, ReleaseCustom)
    assert custom.device_policy.acceptance.minimum == 0.75
    assert device.fetch(f"digits/acceptance/{sha256_hex(b'examples')}.npz") == b"examples"


def test_an_approval_that_the_disk_refuses_is_told_and_can_be_given_again(
    fleet: Any, cli: Any, make_bundle: Any, policy_text: str, tmp_path: Path
) -> None:
    fleet.delegate("scales", *fleet.people)
    (tmp_path / "policy.toml").write_text(policy_text)
    bundle = make_bundle(tmp_path, name="scales", acceptance=b"more examples")
    cli("releases", "publish", bundle, "--policy", tmp_path / "policy.toml", "--home", fleet.admin)
    ada, bob = fleet.people
    cli("releases", "approve", "scales", "1.0.0", "--key", "ada", "--home", ada, "--yes")
    in_the_way = fleet.data / "staging" / f"{sha256_hex(b'more examples')}.npz"
    in_the_way.mkdir()
    second = ("releases", "approve", "scales", "1.0.0", "--key", "bob", "--home", bob, "--yes", "--json")
    refused = cli(*second, expect=1).document["error"]
    assert (refused["code"], refused["message"]) == ("storage-failed", f"cannot write '{in_the_way}': Is a directory")
    in_the_way.rmdir()
    assert cli(*second).document["state"] == "approved"


def test_a_second_release_adds_to_the_first_and_a_bundle_with_other_examples_is_refused(
    fleet: Any, cli: Any, make_bundle: Any, policy_text: str, tmp_path: Path
) -> None:
    fleet.delegate("letters", *fleet.people)
    fleet.release(make_bundle(tmp_path, "letters"), policy=policy_text, approvers=fleet.people)
    fleet.release(make_bundle(tmp_path, "letters", version="1.1.0"), policy=policy_text, approvers=fleet.people)
    device = fleet.enrol("letters-1")
    assert device.target(target("letters")) is not None
    assert device.target("letters/1.1.0/letters-1.1.0-linux-x86_64.bundle") is not None
    assert device.target("letters/1.2.0/letters-1.2.0-linux-x86_64.bundle") is None

    pin = f'[device.acceptance]\nsha256 = "{"a" * 64}"\nminimum = 0.9\n'
    (tmp_path / "pinned.toml").write_text(policy_text + pin)
    bundle = make_bundle(tmp_path, "letters", version="1.2.0")
    refused = cli("releases", "publish", bundle, "--policy", tmp_path / "pinned.toml", "--home", fleet.admin, expect=3)
    assert refused.err == (
        f"error: the policy pins the acceptance examples {'a' * 64}, and the bundle for 'linux-x86_64' carries none\n"
        "hint: convert with --acceptance and the product's own examples\n"
    )


def test_an_approver_refuses_a_proposal_that_says_anything_else(
    fleet: Any, cli: Any, make_bundle: Any, policy_text: str, tmp_path: Path
) -> None:
    """The server swaps the bundle behind the first approver's back: the second one's rebuild differs."""
    fleet.delegate("sounds", *fleet.people)

    ada, bob = fleet.people
    (tmp_path / "policy.toml").write_text(policy_text)
    publish = (
        "releases",
        "publish",
        make_bundle(tmp_path, "sounds"),
        "--policy",
        tmp_path / "policy.toml",
        "--home",
        fleet.admin,
    )
    cli(*publish)
    cli("releases", "approve", "sounds", "1.0.0", "--key", "ada", "--home", ada, "--yes")
    connection = sqlite3.connect(fleet.data / "fleet.db")
    (proposal,) = connection.execute("SELECT proposal FROM release WHERE name = 'sounds'").fetchone()
    document = json.loads(proposal)
    document["signed"]["targets"][target("sounds")]["hashes"]["sha256"] = "f" * 64
    connection.execute("UPDATE release SET proposal = ? WHERE name = 'sounds'", (json.dumps(document).encode(),))
    connection.commit()
    connection.close()

    refused = cli("releases", "approve", "sounds", "1.0.0", "--key", "bob", "--home", bob, "--yes", expect=3)
    assert f"the proposal differs from the release that was verified here: changes {target('sounds')}" in refused.err
    assert fleet.call("releases/sounds/1.0.0")["state"] == "awaiting-approval"


def test_one_approver_cannot_sign_twice_and_a_stranger_cannot_sign_at_all(
    fleet: Any, cli: Any, make_bundle: Any, policy_text: str, tmp_path: Path
) -> None:
    fleet.delegate("shapes", *fleet.people)
    ada, _ = fleet.people
    eve = fleet.approver("eve")
    fleet.release(make_bundle(tmp_path, "shapes"), policy=policy_text, approvers=[ada, ada])
    assert fleet.call("releases/shapes/1.0.0")["state"] == "awaiting-approval"
    refused = cli("releases", "approve", "shapes", "1.0.0", "--key", "eve", "--home", eve, "--yes", expect=3)
    assert "the proposal has no valid approval of an approver, or a signature by another key" in refused.err
    assert fleet.call("releases/shapes/1.0.0")["signatures"] == 1
