# SPDX-License-Identifier: Apache-2.0
"""What signers say beside their targets: floors, recalls, lifted quarantine, settings, and what a device remembers."""

import dataclasses
import shutil
import time

import pytest
from tuf.api.metadata import TargetFile

from device_agent.adapters.storage.slots import SlotFolder
from device_agent.adapters.verification.trust import LOOK_S
from device_agent.adapters.verification.trust_memory_file import TrustMemoryFile
from device_agent.core.orders.release_orders import SignedSettings
from device_agent.core.orders.trust_memory import TrustMemory
from device_agent.core.recall import Recall
from device_agent.errors import TrustRefusedError
from edgefleet.contracts.tuf_custom import AcceptanceCustom, RecallOrder, SettingsCustom, Standing, to_custom


class Clock:
    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def start(start_trust, clock):
    return lambda: start_trust(clock)


@pytest.fixture
def trust(start):
    return start()


def named(made, name, version="1.0.0"):
    """Another product's bundle; what is in it does not matter before admission."""
    return dataclasses.replace(made, name=name, version=version, data=f"{name} {version}".encode())


def settings_target(side, text, name="night"):
    data = text.encode()
    target = TargetFile.from_data(f"settings/{name}/1.toml", data, ["sha256"])
    target.unrecognized_fields["custom"] = to_custom(SettingsCustom(name=name))
    side.releases[target.path] = target
    side.bundles[f"settings/{name}/{target.hashes['sha256']}.1.toml"] = data
    side.image.publish(side.releases)
    return target


# ---------------------------------------------------------------------------- several targets


def test_an_order_carries_one_release_a_name_sorted(trust, device_side, agent_bundles):
    device_side.image.paths = ("*/*/*",)
    digits = device_side.release(agent_bundles.v1)
    faces = device_side.release(named(agent_bundles.v1, "faces", "2.1.0"))
    device_side.assign(faces, digits)
    order = trust.check(0)
    assert [(one.release.name, one.release.version) for one in order.wanted] == [
        ("digits", "1.0.0"),
        ("faces", "2.1.0"),
    ]
    assert [one.target.sha256 for one in order.wanted] == [one.release.bundle_sha256 for one in order.wanted]


def test_one_target_of_several_that_is_refused_refuses_them_all(trust, device_side, agent_bundles, refusal):
    device_side.image.paths = ("*/*/*",)
    digits = device_side.release(agent_bundles.v1)
    faces = device_side.release(named(agent_bundles.v1, "faces"), profile="other")
    device_side.assign(digits, faces)
    path = "faces/1.0.0/faces-1.0.0-linux-x86_64.bundle"
    assert refusal(trust) == ("wrong-profile", f"'{path}' is for 'other', expected 'linux-x86_64'")


def test_a_bundle_signed_under_another_products_path_is_refused(trust, device_side, agent_bundles, refusal):
    target = device_side.release(agent_bundles.v1)
    target.unrecognized_fields["custom"]["edgefleet"]["name"] = "faces"
    device_side.image.publish(device_side.releases)
    device_side.assign(target)
    expected = "faces/1.0.0/faces-1.0.0-linux-x86_64.bundle"
    assert refusal(trust) == ("wrong-path", f"'{target.path}' is signed as 'faces', expected '{expected}'")


def test_acceptance_examples_are_no_bundle(trust, device_side, refusal):
    target = TargetFile.from_data("digits/acceptance/a.npz", b"x", ["sha256"])
    target.unrecognized_fields["custom"] = to_custom(AcceptanceCustom(name="digits"))
    device_side.image.publish({target.path: target})
    device_side.assign(target)
    assert refusal(trust) == ("not-a-bundle", "'digits/acceptance/a.npz' is no bundle")


# ---------------------------------------------------------------------------- floors


def test_a_release_below_the_floor_is_refused_and_an_older_one_above_it_is_not(
    trust, device_side, agent_bundles, refusal
):
    device_side.image.standing = Standing(minimum_release={"digits": "3.0.0"})
    old, at, new = (device_side.release(made) for made in (agent_bundles.v1, agent_bundles.v3, agent_bundles.v5))
    device_side.assign(new)
    assert trust.check(0).wanted[0].release.version == "5.0.0"
    device_side.assign(at)
    assert trust.check(0).wanted[0].release.version == "3.0.0"
    device_side.assign(old)
    assert refusal(trust) == ("below-floor", "digits 1.0.0 is below the signed minimum 3.0.0")


@pytest.mark.parametrize("lost", ["nothing", "metadata", "one copy", "its bytes"])
def test_a_floor_never_goes_down(start, device_side, enrolled, agent_bundles, lost, refusal):
    device_side.image.standing = Standing(minimum_release={"digits": "3.0.0"})
    target = device_side.release(agent_bundles.v1)
    device_side.assign(target)
    assert refusal(start())[0] == "below-floor"
    if lost == "metadata":
        shutil.rmtree(enrolled.trust / "image")
    elif lost == "one copy":
        (enrolled.trust / "memory.json").unlink()
    elif lost == "its bytes":
        path = enrolled.trust / "memory.json"
        path.write_bytes(path.read_bytes().replace(b"3.0.0", b"1.0.0"))
    device_side.image.standing = Standing(minimum_release={"digits": "0.1.0"})
    device_side.image.publish(device_side.releases)
    assert refusal(start()) == ("below-floor", "digits 1.0.0 is below the signed minimum 3.0.0")


def test_a_role_sets_floors_only_for_the_names_that_it_may_sign(trust, device_side, agent_bundles):
    device_side.image.standing = Standing(minimum_release={"faces": "9.0.0", "digits": "1.0.0"})
    device_side.image.top_standing = Standing(minimum_release={"voices": "2.0.0"})
    device_side.assign(device_side.release(agent_bundles.v1))
    trust.check(0)
    assert trust._memory.floor == {"digits": "1.0.0", "voices": "2.0.0"}


def test_older_metadata_than_remembered_is_refused_even_after_the_metadata_were_lost(
    start, device_side, enrolled, agent_bundles, refusal
):
    target = device_side.release(agent_bundles.v1)
    for _ in range(3):
        device_side.image.publish(device_side.releases)
    device_side.assign(target)
    start().check(0)
    seen = device_side.image.version
    shutil.rmtree(enrolled.trust / "image")
    device_side.image.version = 0
    device_side.image.publish(device_side.releases)
    assert refusal(start()) == ("metadata-rollback", f"'targets' has the version 1, {seen} was seen before")


def test_a_floor_that_cannot_be_read_refuses(trust, device_side, agent_bundles, refusal):
    device_side.image.standing = Standing(minimum_release={"digits": "three"})
    device_side.assign(device_side.release(agent_bundles.v1))
    cause, message = refusal(trust)
    assert cause == "metadata-invalid"
    assert message.startswith("the metadata of 'production-digits' has a malformed 'edgefleet' entry: ")


# ---------------------------------------------------------------------------- recalls


def test_recalls_of_all_kinds_reach_the_core(trust, device_side, agent_bundles):
    device_side.image.standing = Standing(
        recalled=RecallOrder(
            bundles={"digits": ("a" * 64,), "faces": ("b" * 64,)}, below={"digits": "0.9.0"}, every_model=True
        )
    )
    device_side.assign(device_side.release(agent_bundles.v1))
    assert trust.check(0).recall == Recall(releases=("a" * 64,), minimum={"digits": "0.9.0"})
    device_side.image.top_standing = Standing(recalled=RecallOrder(every_model=True))
    device_side.image.publish(device_side.releases)
    with pytest.raises(TrustRefusedError) as raised:
        trust.check(0)
    assert (raised.value.cause, raised.value.message) == ("recalled", "a signed order stops every model")
    assert raised.value.recall == Recall(releases=("a" * 64,), minimum={"digits": "0.9.0"}, stopped=True)


def test_an_order_for_a_recalled_release_is_refused_and_the_recall_is_told(trust, device_side, agent_bundles):
    device_side.image.standing = Standing(recalled=RecallOrder(bundles={"digits": (agent_bundles.v1.sha256,)}))
    device_side.assign(device_side.release(agent_bundles.v1))
    with pytest.raises(TrustRefusedError) as raised:
        trust.check(0)
    assert (raised.value.cause, raised.value.message) == ("recalled", "digits 1.0.0 is recalled")
    assert raised.value.recall == Recall(releases=(agent_bundles.v1.sha256,))


def test_a_recall_is_taken_back_by_the_next_version_of_the_same_role(trust, device_side, agent_bundles, refusal):
    device_side.image.standing = Standing(recalled=RecallOrder(bundles={"digits": (agent_bundles.v1.sha256,)}))
    device_side.assign(device_side.release(agent_bundles.v1))
    assert refusal(trust)[0] == "recalled"
    device_side.image.standing = None
    device_side.image.publish(device_side.releases)
    assert trust.check(0).recall == Recall()


def test_a_recall_comes_at_once_when_the_director_says_so_and_within_half_a_day_when_it_does_not(
    trust, device_side, clock, agent_bundles
):
    device_side.assign(device_side.release(agent_bundles.v1))
    trust.check(0)
    device_side.assign(None)
    first = Recall(releases=("a" * 64,))
    device_side.image.standing = Standing(recalled=RecallOrder(bundles={"digits": first.releases}))
    device_side.image.publish(device_side.releases)
    assert trust.check(0).recall == Recall()
    device_side.assign(None, standing=1)
    assert trust.check(0).recall == first
    device_side.image.standing = None
    device_side.image.publish(device_side.releases)
    assert trust.check(0).recall == first
    clock.now += LOOK_S
    assert trust.check(0).recall == Recall()


def test_a_director_that_is_held_back_does_not_hold_back_a_recall(trust, device_side, clock, agent_bundles):
    device_side.assign(device_side.release(agent_bundles.v1))
    trust.check(0)
    device_side.image.standing = Standing(recalled=RecallOrder(below={"digits": "2.0.0"}))
    device_side.image.publish(device_side.releases)
    device_side.assign(None, days=-1)
    clock.now += LOOK_S
    with pytest.raises(TrustRefusedError) as raised:
        trust.check(0)
    assert raised.value.cause == "metadata-expired"
    assert raised.value.recall == Recall(minimum={"digits": "2.0.0"})


def test_a_recall_is_learned_again_when_both_copies_of_what_is_remembered_are_lost(
    start, device_side, enrolled, agent_bundles
):
    release = device_side.release(agent_bundles.v1)
    device_side.assign(release)
    wanted = start().check(0).wanted[0].release
    SlotFolder(enrolled.slots).mark_good(wanted, counter=1, committed_at=0.0)  # it was installed
    device_side.image.standing = Standing(recalled=RecallOrder(below={"digits": "0.9.0"}))
    device_side.image.publish(device_side.releases)
    device_side.assign(None, standing=1)
    assert start().check(0).recall == Recall(minimum={"digits": "0.9.0"})
    for path in enrolled.trust.glob("memory.json*"):
        path.unlink()
    assert start().check(0).recall == Recall(minimum={"digits": "0.9.0"})  # no order names it: the slots do

    for path in enrolled.trust.glob("memory.json*"):
        path.write_bytes(b"0")
    device_side.assign(None, days=-1)
    kept = dict(device_side.image.files)
    device_side.image.files.clear()
    with pytest.raises(TrustRefusedError) as raised:
        start().check(0)
    assert raised.value.recall is None  # nothing is known: what the device's record says of recalls stays
    device_side.image.files.update(kept)
    with pytest.raises(TrustRefusedError) as raised:
        start().check(0)
    assert raised.value.recall == Recall(minimum={"digits": "0.9.0"})


def test_a_lifted_quarantine_is_part_of_the_order(trust, device_side):
    device_side.assign(None, lift=("d" * 64,))
    assert trust.check(0).lift == ("d" * 64,)


# ---------------------------------------------------------------------------- settings


def test_settings_that_both_repositories_list_are_fetched_once(trust, device_side, agent_bundles):
    target = settings_target(device_side, "poll_s = 60.0\n")
    device_side.assign(device_side.release(agent_bundles.v1), target)
    expected = SignedSettings("night", target.hashes["sha256"], "poll_s = 60.0\n")
    order = trust.check(0)
    assert (order.settings, len(order.wanted)) == (expected, 1)
    device_side.requests.clear()
    assert trust.check(0).settings == expected
    assert not [path for path, _ in device_side.requests if path.startswith("/image/targets/")]


def test_settings_of_other_bytes_than_signed_are_refused(trust, device_side, refusal):
    target = settings_target(device_side, "poll_s = 60.0\n")
    device_side.bundles[f"settings/night/{target.hashes['sha256']}.1.toml"] = b"poll_s = 61.0\n"
    device_side.assign(target)
    cause, message = refusal(trust)
    assert cause == "metadata-mismatch"
    assert message.startswith("metadata is refused: Observed hash ")


@pytest.mark.parametrize(
    ("text", "cause", "message"),
    [
        ("#" * 65_537, "too-large", "'settings/night/1.toml' has 65537 bytes, the limit is 65536"),
        ("\udcff", "settings-invalid", "'settings/night/1.toml' is not UTF-8 text"),
    ],
)
def test_settings_that_nobody_can_take_are_refused(trust, device_side, text, cause, message, refusal):
    data = text.encode(errors="surrogateescape")
    target = TargetFile.from_data("settings/night/1.toml", data, ["sha256"])
    target.unrecognized_fields["custom"] = to_custom(SettingsCustom(name="night"))
    device_side.bundles[f"settings/night/{target.hashes['sha256']}.1.toml"] = data
    device_side.image.publish({target.path: target})
    device_side.assign(target)
    assert refusal(trust) == (cause, message)


def test_two_files_of_settings_are_refused(trust, device_side, refusal):
    first, second = (settings_target(device_side, "poll_s = 60.0\n", name) for name in ("day", "night"))
    device_side.assign(first, second)
    assert refusal(trust) == ("assignment-ambiguous", "the director lists two files of settings, expected one")


# ---------------------------------------------------------------------------- memory


def test_what_is_remembered_survives_one_damaged_copy_and_is_learned_again_after_two(tmp_path):
    file = TrustMemoryFile(tmp_path)
    memory = TrustMemory(floor={"digits": "1.2.3"}, bound=5.0)
    file.save(memory)
    for path in (tmp_path / "memory.json", tmp_path / "memory.json.copy"):
        assert file.load() == memory
        path.write_bytes(path.read_bytes()[:-3])
    assert file.load() == TrustMemory()
