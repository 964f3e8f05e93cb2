# SPDX-License-Identifier: Apache-2.0
"""The attacks that TUF's specification names (section 1.5.2), tried on the agent over real HTTPS.

Each is refused with a cause of its own and a whole sentence; what the device had verified before stays as it was.
"""

import itertools
import time

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadError
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, Root, Snapshot, TargetFile, Timestamp

from device_agent.adapters.verification import metadata_client
from device_agent.adapters.verification.metadata_client import BoundedFetcher
from device_agent.core.orders.clock_judgement import day
from device_agent.errors import TrustRefusedError

YEAR = 365
ONLINE = ("targets", "snapshot", "timestamp")


@pytest.fixture
def wall():
    """The device's clock, which a test may set."""
    return [time.time()]


@pytest.fixture
def start(start_trust, wall):
    return lambda: start_trust(lambda: wall[0])


@pytest.fixture
def trust(start):
    return start()


def changed(data, kind, change):
    """Return metadata with a change that nobody has signed."""
    metadata = Metadata[kind].from_bytes(data)
    change(metadata.signed)
    return metadata.to_bytes()


def rotate(repository, *, days=YEAR, thresholds=(2, 2), old_keys=None):
    """Publish the next root: three fresh root keys with a threshold of two, and fresh keys for the other roles."""
    version = 1 + max(int(name.split(".")[0]) for name in repository.files if name.endswith(".root.json"))
    old = old_keys or getattr(repository, "root_keys", [repository.signers["root"]])
    fresh = [CryptoSigner.generate_ed25519() for _ in range(3)]
    example = Metadata[Root].from_bytes(repository.root).signed
    root = Metadata(Root(version=version, expires=example.expires, consistent_snapshot=True))
    root.signed.expires = example.expires.replace(year=example.expires.year + round((days - YEAR) / YEAR))
    for key in fresh:
        root.signed.add_key(key.public_key, "root")
    root.signed.roles["root"].threshold = 2
    for role in ONLINE:
        repository.signers[role] = CryptoSigner.generate_ed25519()
        root.signed.add_key(repository.signers[role].public_key, role)
    for key in (*old[: thresholds[0]], *fresh[: thresholds[1]]):
        root.sign(key, append=True)
    repository.files[f"{version}.root.json"] = root.to_bytes()
    repository.root_keys = fresh


# ---------------------------------------------------------------------------- arbitrary installation, wrong software


def test_arbitrary_installation_a_release_that_strangers_signed(
    trust, device_side, agent_bundles, agent_tools, refusal
):
    device_side.image.approvers[1:] = [CryptoSigner.generate_ed25519()]
    target = device_side.release(agent_bundles.v1)
    device_side.image.approvers[:] = [CryptoSigner.generate_ed25519() for _ in range(2)]
    name = f"{device_side.image.version}.production-digits.json"
    forged = Metadata.from_bytes(device_side.image.files[name])
    forged.signatures.clear()
    for signer in device_side.image.approvers:
        forged.sign(signer, append=True)
    device_side.image.files[name] = forged.to_bytes()
    device_side.assign(target)
    assert refusal(trust) == (
        "metadata-unsigned",
        "metadata is refused: production-digits was signed by 0/2 keys",
    )


def test_arbitrary_installation_a_target_added_behind_the_signatures(trust, device_side, agent_bundles, refusal):
    device_side.release(agent_bundles.v1)
    name = f"{device_side.image.version}.production-digits.json"
    evil = TargetFile.from_data("digits/6.6.6/digits-6.6.6-linux-x86_64.bundle", b"evil", ["sha256"])
    data = device_side.image.files[name]
    device_side.image.files[name] = changed(
        data, type(Metadata.from_bytes(data).signed), lambda s: s.targets.update({evil.path: evil})
    )
    device_side.assign(evil)
    assert refusal(trust) == ("metadata-unsigned", "metadata is refused: production-digits was signed by 0/2 keys")


@pytest.mark.parametrize("sha256", ["../../state", "", "A" * 64, "é" * 64, "a" * 63, "a" * 64 + "\n"])
def test_a_hash_that_is_none_names_no_file(trust, device_side, agent_bundles, refusal, sha256):
    good = device_side.release(agent_bundles.v1)
    target = TargetFile(good.length, {"sha256": sha256}, good.path, good.unrecognized_fields)
    device_side.image.publish({target.path: target})
    device_side.assign(target)
    assert refusal(trust) == ("mismatch", f"'{good.path}' is listed with {sha256!r}, which is no SHA-256")


def test_wrong_software_a_role_cannot_sign_outside_its_paths(trust, device_side, agent_bundles, refusal):
    target = TargetFile.from_data("faces/1.0.0/faces-1.0.0-linux-x86_64.bundle", b"faces", ["sha256"])
    device_side.release(agent_bundles.v1)
    device_side.image.publish({target.path: target})
    device_side.assign(target)
    assert refusal(trust) == ("not-in-image-repository", f"'{target.path}' is not in the image repository")


def test_extraneous_dependencies_the_director_cannot_add_what_nobody_approved(
    trust, device_side, agent_bundles, refusal
):
    extra = TargetFile.from_data("digits/2.0.0/digits-2.0.0-linux-x86_64.bundle", b"more", ["sha256"])
    device_side.assign(device_side.release(agent_bundles.v1), extra)
    assert refusal(trust) == ("not-in-image-repository", f"'{extra.path}' is not in the image repository")


# ---------------------------------------------------------------------------- endless data, slow retrieval, long chains


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("2.root.json", 512_000),
        ("timestamp.json", 16_384),
        ("{v}.snapshot.json", 2_000_000),
        ("{v}.targets.json", 5_000_000),
    ],
)
def test_endless_data_of_every_role_is_cut_off(trust, device_side, name, limit, refusal):
    device_side.director.files[name.format(v=device_side.director.version)] = b" " * (limit + 200_000)
    cause, message = refusal(trust)
    assert cause == "metadata-oversized"
    assert message.endswith(f" bytes exceeding the maximum allowed length of {limit}")


def test_slow_retrieval_is_given_up_after_a_window(monkeypatch):
    ticks = itertools.count(0.0, 10.0)
    fetcher = BoundedFetcher(lambda _: (200, iter([b"x"] * 1000)), monotonic=lambda: next(ticks))
    with pytest.raises(TrustRefusedError) as raised:
        fetcher.download_bytes("https://server/timestamp.json", 16_384)
    assert (raised.value.cause, raised.value.message) == (
        "metadata-slow",
        "'timestamp.json' comes with less than 50 bytes a second",
    )


def test_a_slow_but_honest_link_is_waited_for():
    ticks = itertools.count(0.0, 1.0)
    fetcher = BoundedFetcher(lambda _: (200, iter([b"x" * 60] * 100)), monotonic=lambda: next(ticks))
    assert len(fetcher.download_bytes("https://server/timestamp.json", 16_384)) == 6000


def test_a_long_chain_of_roots_is_followed_in_portions(start, device_side, monkeypatch, refusal):
    monkeypatch.setattr(metadata_client, "ROOT_LIMIT", 3)
    for _ in range(5):
        rotate(device_side.director)
    device_side.assign(None)
    assert refusal(start()) == ("root-chain-too-long", "there are more than 3 new roots")
    assert start().check(0).wanted == ()


def test_a_search_through_too_many_roles_is_given_up(trust, device_side, agent_bundles, refusal):
    target = device_side.release(agent_bundles.v1)
    image = device_side.image
    keys = {signer.public_key.keyid: signer.public_key for signer in image.approvers}
    names = [f"role-{number}" for number in range(40)]
    roles = {name: DelegatedRole(name, list(keys), 2, terminating=False, paths=["*/*/*"]) for name in names}
    version = image.version
    top = Metadata.from_bytes(image.files[f"{version}.targets.json"])
    top.signed.delegations = Delegations(keys, roles)
    image._sign("targets", top.signed, f"{version}.targets.json")
    snapshot = Metadata[Snapshot].from_bytes(image.files[f"{version}.snapshot.json"]).signed
    empty = Metadata.from_bytes(image.files[f"{version}.production-digits.json"])
    empty.signed.targets.clear()
    empty.signatures.clear()
    for signer in image.approvers:
        empty.sign(signer, append=True)
    for name in names:
        image.files[f"{version}.{name}.json"] = empty.to_bytes()
        snapshot.meta[f"{name}.json"] = MetaFile(version=version)
    image._sign("snapshot", snapshot, f"{version}.snapshot.json")
    device_side.assign(target)
    assert refusal(trust) == ("delegations-too-many", f"'{target.path}' is delegated to more than 32 roles")


def test_a_connection_that_breaks_within_a_file_is_no_refusal():
    import urllib3

    def pieces():
        yield b"{"
        raise urllib3.exceptions.ProtocolError("cut")

    with pytest.raises(DownloadError, match=r"^'timestamp.json' did not come whole$"):
        BoundedFetcher(lambda _: (200, pieces())).download_bytes("https://server/timestamp.json", 100)


# ---------------------------------------------------------------------------- rollback, fast-forward, mix-and-match


def superseded(director, *, snapshot, targets):
    """Sign a newer timestamp and snapshot, with the director's own keys, that point back."""
    expires = Metadata[Timestamp].from_bytes(director.files["timestamp.json"]).signed.expires
    newer = director.version + 1
    meta = {"targets.json": MetaFile(targets)}
    director._sign("snapshot", Snapshot(version=snapshot, expires=expires, meta=meta), f"{snapshot}.snapshot.json")
    pointer = Timestamp(version=newer, expires=expires, snapshot_meta=MetaFile(snapshot))
    director._sign("timestamp", pointer, "timestamp.json")


def test_rollback_of_the_snapshot(trust, device_side, refusal):
    device_side.assign(None)
    trust.check(0)
    now = device_side.director.version
    superseded(device_side.director, snapshot=now - 1, targets=now)
    assert refusal(trust) == (
        "metadata-rollback",
        f"metadata is refused: New snapshot version must be >= {now}, got version {now - 1}",
    )


def test_rollback_of_the_targets_within_a_newer_snapshot(trust, device_side, refusal):
    device_side.assign(None)
    trust.check(0)
    now = device_side.director.version
    superseded(device_side.director, snapshot=now + 1, targets=now - 1)
    assert refusal(trust) == (
        "metadata-rollback",
        f"metadata is refused: Expected targets.json version {now - 1}, got {now}.",
    )


def test_mix_and_match_of_two_versions(trust, device_side, agent_bundles, refusal):
    target = device_side.release(agent_bundles.v1)
    image, before = device_side.image, device_side.image.version
    device_side.release(agent_bundles.v5)
    now = image.version
    image.files[f"{now}.production-digits.json"] = image.files[f"{before}.production-digits.json"]
    device_side.assign(target)
    assert refusal(trust) == (
        "metadata-rollback",
        f"metadata is refused: Expected production-digits v{now}, got v{before}.",
    )


def test_another_roles_file_is_no_metadata_of_this_role(trust, device_side, refusal):
    director = device_side.director
    director.files["timestamp.json"] = director.files[f"{director.version}.snapshot.json"]
    assert refusal(trust) == ("metadata-invalid", "metadata is refused: Expected 'timestamp', got 'snapshot'")


def test_a_fast_forward_is_undone_by_new_online_keys(start, device_side, refusal):
    thief = device_side.director
    thief.version = 1 << 40
    device_side.assign(None)
    start().check(0)
    thief.version = 5
    device_side.assign(None)
    assert refusal(start())[0] == "metadata-rollback"
    rotate(device_side.director)
    device_side.assign(None)
    assert start().check(0).wanted == ()


# ---------------------------------------------------------------------------- keys: compromise, rotation


@pytest.mark.parametrize("stolen", ["timestamp", "snapshot"])
def test_one_stolen_online_key_of_the_image_repository_installs_nothing(
    trust, device_side, agent_bundles, agent_tools, stolen, refusal
):
    target = device_side.release(agent_bundles.v1)
    device_side.assign(target)
    assert trust.check(0).wanted
    forger = agent_tools.Repository(delegation="production-digits", threshold=2)
    forger.signers[stolen] = device_side.image.signers[stolen]
    forger.version = device_side.image.version
    evil = TargetFile(4, {"sha256": "e" * 64}, target.path, target.unrecognized_fields)
    forger.publish({target.path: evil})
    device_side.image.files.update({name: data for name, data in forger.files.items() if "root" not in name})
    device_side.assign(evil)
    role = "snapshot" if stolen == "timestamp" else "timestamp"
    assert refusal(trust) == ("metadata-unsigned", f"metadata is refused: {role} was signed by 0/1 keys")


def test_a_device_that_slept_for_years_follows_two_changes_of_all_keys(start, device_side, enrolled, agent_bundles):
    image = device_side.image
    device_side.assign(device_side.release(agent_bundles.v1))
    assert start().check(0).wanted[0].release.version == "1.0.0"
    image.publish(device_side.releases, days=-3 * YEAR)
    for role in ONLINE:  # all that the device has expired while it slept
        name = "timestamp.json" if role == "timestamp" else f"{image.version}.{role}.json"
        (enrolled.trust / "image" / f"{role}.json").write_bytes(image.files[name])
    for days in (-2 * YEAR, YEAR):
        rotate(image, days=days)
        image.approvers = [CryptoSigner.generate_ed25519() for _ in range(3)]
    rotate(device_side.director, days=-YEAR)
    rotate(device_side.director)
    device_side.assign(device_side.release(agent_bundles.v5))
    assert start().check(0).wanted[0].release.version == "5.0.0"


@pytest.mark.parametrize(("thresholds", "count"), [((0, 2), "0/2"), ((1, 2), "1/2"), ((2, 1), "1/2")])
def test_a_root_without_two_of_three_old_and_new_keys_is_refused(trust, device_side, thresholds, count, refusal):
    rotate(device_side.director)
    rotate(device_side.director, thresholds=thresholds)
    device_side.assign(None)
    assert refusal(trust) == ("metadata-unsigned", f"metadata is refused: root was signed by {count} keys")


def test_an_expired_last_root_is_refused(trust, device_side, refusal):
    rotate(device_side.director, days=-YEAR)
    device_side.assign(None)
    assert refusal(trust) == ("metadata-expired", "metadata is refused: Final root.json is expired")


def test_a_damaged_trusted_root_is_replaced_by_the_copy_of_the_last_check(start, device_side, enrolled):
    start().check(0)
    for name in ("director", "image"):
        path = enrolled.root_metadata(name)
        path.write_bytes(path.read_bytes()[:100])
    device_side.assign(None, counter=9)
    assert start().check(0).counter == 9


# ---------------------------------------------------------------------------- freeze, and clocks


def test_freeze_is_found_out_when_the_metadata_expires(trust, device_side, agent_bundles, refusal):
    device_side.assign(device_side.release(agent_bundles.v1), days=-0.01)
    assert refusal(trust) == ("metadata-expired", "metadata is refused: timestamp.json is expired")


def test_freeze_is_found_out_by_a_device_whose_clock_died(start, device_side, wall, agent_bundles, refusal):
    device_side.assign(device_side.release(agent_bundles.v1), days=30)
    trust = start()
    wall[0] += 8 * 86_400.0  # the frozen image metadata expires by then; a later check of the director knew the time
    device_side.assign(None, days=30)
    trust._remember(type(trust._memory)(bound=wall[0]))
    device_side.assign(device_side.releases[agent_bundles.v1.path], days=30)
    later, wall[0] = wall[0], 0.0
    image = device_side.image
    expires = Metadata[Timestamp].from_bytes(image.files["timestamp.json"]).signed.expires
    assert refusal(start()) == (
        "metadata-expired",
        f"'timestamp' expired on {expires:%Y-%m-%d %H:%M}, and it is {day(later)} or later",
    )


def test_a_dead_clock_is_told_and_does_not_hold_back_an_update(start, device_side, wall, agent_bundles):
    device_side.assign(device_side.release(agent_bundles.v1))
    assert start().check(0).notices == ()
    wall[0] = 3600.0
    trust = start()
    bound = trust._memory.bound
    order = trust.check(0)
    assert len(order.wanted) == 1
    (notice,) = order.notices
    assert notice.cause == "clock-behind"
    assert notice.detail == f"the clock says 1970-01-01 01:00, and it is {day(bound)} or later"


def test_a_clock_far_ahead_is_told_and_accepts_nothing(trust, device_side, wall, refusal):
    device_side.assign(None, days=-1)
    wall[0] += 400 * 86_400.0
    cause, message = refusal(trust)
    assert cause == "clock-ahead"
    start, _, end = message.partition("; ")
    assert start == "metadata is refused: timestamp.json is expired"
    assert end.startswith(f"the clock says {day(wall[0])}, and the server says ")
