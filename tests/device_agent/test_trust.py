# SPDX-License-Identifier: Apache-2.0
"""What both repositories must agree on: every way to disagree is refused with its own cause."""

import hashlib
import stat

import msgspec
import pytest
from cryptography import x509
from tuf.api.metadata import TargetFile

from device_agent.adapters.children.repositories_process import RepositoriesProcess
from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.identity.enrolment import enrol, read_ticket
from device_agent.core.orders.release_orders import TargetFile as Wanted
from device_agent.errors import CorruptDownloadError, TrustRefusedError
from device_agent.repositories.in_process import InProcessRepositories
from edgefleet.contracts.errors import (
    ConflictError,
    FileMissingError,
    InputError,
    NotAllowedError,
    SettingError,
    StorageError,
    UnreachableError,
)
from edgefleet.contracts.tuf_custom import Assignment, to_custom


@pytest.fixture(params=["in this process", "in a child"])
def repositories(request, enrolled):
    """Both ways to the repositories, which must not differ."""
    if request.param == "in this process":
        yield lambda reserve_bytes=0: InProcessRepositories(enrolled, reserve_bytes=reserve_bytes)
        return
    made = []
    yield lambda reserve_bytes=0: made.append(RepositoriesProcess(enrolled, reserve_bytes=reserve_bytes)) or made[-1]
    for each in made:
        each.close()


@pytest.fixture
def trust(repositories):
    return repositories()


def refusal(trust, seen=0):
    with pytest.raises(TrustRefusedError) as raised:
        trust.check(seen)
    return raised.value.cause, raised.value.message


def test_an_agreed_order_names_release_target_and_policy(trust, device_side, agent_bundles, agent_tools):
    policy = agent_tools.quick_policy(requests=7)
    counter = device_side.assign(device_side.release(agent_bundles.v1, policy))
    order = trust.check(0)
    assert order.counter == counter
    (wanted,) = order.wanted
    assert wanted.release.bundle_sha256 == wanted.target.sha256 == agent_bundles.v1.sha256
    assert wanted.target.path == f"digits/1.0.0/{agent_bundles.v1.sha256}.digits-1.0.0-linux-x86_64.bundle"
    assert wanted.policy == policy
    assert wanted.compat_hash == agent_tools.COMPAT


def test_an_empty_order_asks_the_image_repository_for_recalls_twice_a_day_only(trust, device_side):
    trust.check(0)
    assert any(path.startswith("/image/") for path, _ in device_side.requests)
    device_side.requests.clear()
    assert trust.check(0).wanted == ()
    assert all(path.startswith("/director/") for path, _ in device_side.requests)


@pytest.mark.parametrize(
    ("names", "cause", "message"),
    [
        ({"device": "dev-2"}, "wrong-device", "the assignment is for the device 'dev-2', expected 'dev-1'"),
        ({"tenant": "other"}, "wrong-tenant", "the assignment is for the tenant 'other', expected 'acme'"),
        ({"profile": "other"}, "wrong-profile", "the assignment is for the profile 'other', expected 'linux-x86_64'"),
    ],
)
def test_an_assignment_for_someone_else_is_refused(trust, device_side, names, cause, message):
    device_side.assign(None, **names)
    assert refusal(trust) == (cause, message)


def test_a_counter_below_the_one_seen_is_refused(trust, device_side):
    device_side.assign(None, counter=4)
    assert refusal(trust, seen=5) == ("assignment-rollback", "the assignment has the counter 4, 5 was seen before")


def test_an_assignment_without_its_entry_is_refused(trust, device_side):
    device_side.director.publish({})
    assert refusal(trust)[0] == "metadata-invalid"


def test_a_target_that_only_the_director_knows_is_refused(trust, device_side, agent_bundles):
    target = device_side.release(agent_bundles.v1)
    other = TargetFile(target.length, target.hashes, "digits/9.9.9/digits-9.9.9-linux-x86_64.bundle")
    device_side.assign(other)
    assert refusal(trust)[0] == "not-in-image-repository"


@pytest.mark.parametrize("change", ["length", "hash"])
def test_a_target_that_both_describe_differently_is_refused(trust, device_side, agent_bundles, change):
    target = device_side.release(agent_bundles.v1)
    length = target.length + (change == "length")
    hashes = {"sha256": "0" * 64} if change == "hash" else target.hashes
    device_side.assign(TargetFile(length, hashes, target.path))
    assert refusal(trust)[0] == "mismatch"


def test_two_targets_at_once_are_refused(trust, device_side, agent_bundles):
    targets = [device_side.release(made) for made in (agent_bundles.v1, agent_bundles.v5)]
    device_side.assign(targets[0])
    order = to_custom(Assignment(tenant="acme", device="dev-1", profile="linux-x86_64", counter=9))
    device_side.director.publish({target.path: target for target in targets}, fields=order)
    assert refusal(trust) == ("assignment-ambiguous", "the director lists two bundles of 'digits', expected one")


def test_a_release_for_another_profile_is_refused(trust, device_side, agent_bundles):
    device_side.assign(device_side.release(agent_bundles.v1, profile="raspberry-pi-4"))
    assert refusal(trust)[0] == "wrong-profile"


def test_one_approver_of_two_is_not_enough(trust, device_side, agent_bundles):
    device_side.assign(device_side.release(agent_bundles.v1, signatures=1))
    assert refusal(trust)[0] == "metadata-unsigned"


def test_expired_metadata_of_either_repository_is_refused(trust, device_side, agent_bundles):
    device_side.assign(None, days=-1)
    assert refusal(trust)[0] == "metadata-expired"
    device_side.assign(device_side.release(agent_bundles.v1, days=-1))
    assert refusal(trust)[0] == "metadata-expired"


def test_older_metadata_than_seen_before_is_refused(trust, device_side):
    device_side.assign(None)
    trust.check(0)
    device_side.director.version = 0
    device_side.assign(None)
    assert refusal(trust)[0] == "metadata-rollback"


def test_metadata_signed_by_strangers_is_refused(trust, device_side, agent_tools):
    stranger = agent_tools.Repository()
    device_side.director.signers = stranger.signers
    device_side.assign(None)
    assert refusal(trust)[0] == "metadata-unsigned"


def test_endless_metadata_is_refused(trust, device_side):
    device_side.director.files["timestamp.json"] = b"{" * 100_000
    assert refusal(trust)[0] == "metadata-oversized"


def test_a_policy_with_fractions_is_the_same_after_signing(trust, device_side, agent_bundles, agent_tools):
    policy = agent_tools.quick_policy(minimum_s=0.1, limit_s=1234.5)
    device_side.assign(device_side.release(agent_bundles.v1, policy))
    assert trust.check(0).wanted[0].policy == policy


def test_an_unreachable_server_is_one_sentence(trust, device_side):
    device_side.stop()
    with pytest.raises(UnreachableError) as raised:
        trust.check(0)
    assert raised.value.message.startswith(f"the server {device_side.url} does not answer: ")
    device_side.start_again()


def test_a_server_with_a_strangers_certificate_is_not_believed(enrolled, trust):
    enrolled.ca.write_bytes(enrolled.certificate.read_bytes())
    with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
        trust.check(0)


@pytest.mark.parametrize("name", ["ca.pem", "certificate.pem", "key.pem"])
@pytest.mark.parametrize("damage", ["gone", "half"])
def test_certificates_that_the_device_lost_are_not_taken_for_a_silent_server(enrolled, trust, name, damage):
    path = enrolled.root / "identity" / name
    half = path.read_bytes()[:80]
    path.unlink()
    if damage == "half":
        path.write_bytes(half)
    with pytest.raises(InputError, match=r"^the device's certificates cannot be used: ") as raised:
        trust.check(0)
    assert raised.value.hint == "enrol the device again"


def test_a_damaged_trusted_root_is_told_as_the_devices_own(enrolled, trust):
    enrolled.root_metadata("director").write_bytes(b"{")
    with pytest.raises(FileMissingError) as raised:
        trust.check(0)
    assert raised.value.message == "the trusted root 'director.root.json' is damaged: Failed to deserialize JSON"
    assert raised.value.hint == "enrol the device again"


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nMIG", b"\xff\x00"])
def test_a_key_that_an_interrupted_enrolment_left_damaged_is_named(device_side, tmp_path, content):
    folder = DataFolder(tmp_path / "half")
    folder.key.parent.mkdir(parents=True)
    folder.key.write_bytes(content)
    with pytest.raises(InputError) as raised:
        enrol(device_side.ticket(), folder)
    assert raised.value.message == f"'{folder.key}' holds no key that can be read"
    assert raised.value.hint == "delete it and enrol again"
    assert folder.key.read_bytes() == content
    folder.key.unlink()
    assert enrol(device_side.ticket(), folder).device == "dev-1"


def test_enrolment_makes_a_private_key_and_a_certificate_for_the_device(enrolled, device_side):
    certificate = x509.load_pem_x509_certificate(enrolled.certificate.read_bytes())
    assert certificate.subject.rfc4514_string() == "O=acme,CN=dev-1"
    assert stat.S_IMODE(enrolled.key.stat().st_mode) == 0o600
    assert b"one-time" not in b"".join(path.read_bytes() for path in enrolled.root.rglob("*") if path.is_file())
    with pytest.raises(ConflictError):
        enrol(device_side.ticket(), enrolled)


def test_a_used_ticket_is_refused_with_the_servers_words_and_leaves_the_device_unenrolled(
    enrolled, device_side, tmp_path
):
    other = DataFolder(tmp_path / "other")
    with pytest.raises(NotAllowedError) as raised:
        enrol(device_side.ticket(), other)
    assert raised.value.message == "the server refuses this enrolment: the token was used already"
    assert not other.identity.exists()


def test_a_damaged_ticket_is_named(tmp_path, device_side):
    path = tmp_path / "ticket.json"
    path.write_bytes(msgspec.json.encode(device_side.ticket()).replace(b'"acme"', b'"ACME"'))
    with pytest.raises(SettingError) as raised:
        read_ticket(path)
    assert raised.value.message.startswith("the ticket 'ticket.json': ")
    assert "$.tenant" in raised.value.message


@pytest.fixture
def wanted(device_side, enrolled, agent_bundles):
    enrolled.downloads.mkdir()
    target = device_side.release(agent_bundles.v1)
    name = f"digits/1.0.0/{agent_bundles.v1.sha256}.digits-1.0.0-linux-x86_64.bundle"
    return Wanted(name, agent_bundles.v1.sha256, target.length)


def test_a_download_longer_than_signed_is_dropped(repositories, enrolled, wanted):
    downloads = repositories()
    short = wanted._replace(size_bytes=wanted.size_bytes - 1)
    with pytest.raises(CorruptDownloadError):
        downloads.fetch(short, lambda: False)
    assert list(enrolled.downloads.iterdir()) == []


def test_a_left_over_that_is_complete_is_not_fetched_again(repositories, enrolled, device_side, wanted, agent_bundles):
    downloads = repositories()
    part = enrolled.downloads / f"{wanted.sha256}.part"
    part.write_bytes(agent_bundles.v1.data)
    device_side.requests.clear()
    assert downloads.fetch(wanted, lambda: False) == part
    assert device_side.requests == []


def test_what_is_left_of_a_download_that_was_given_up_goes_with_the_next_one(repositories, enrolled, wanted):
    (enrolled.downloads / f"{'0' * 64}.part").write_bytes(b"half")
    path = repositories().fetch(wanted, lambda: False)
    assert list(enrolled.downloads.iterdir()) == [path]


def test_a_left_over_with_other_bytes_is_found_out(repositories, enrolled, device_side, wanted, agent_bundles):
    downloads = repositories()
    part = enrolled.downloads / f"{wanted.sha256}.part"
    part.write_bytes(b"\1" * 1000)
    with pytest.raises(CorruptDownloadError):
        downloads.fetch(wanted, lambda: False)
    path = downloads.fetch(wanted, lambda: False)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == wanted.sha256


def test_space_for_a_rollback_is_kept_free(repositories, enrolled, wanted):
    downloads = repositories(reserve_bytes=1 << 60)
    with pytest.raises(StorageError) as raised:
        downloads.fetch(wanted, lambda: False)
    assert f"{(1 << 60) + wanted.size_bytes} are needed" in raised.value.message
    assert list(enrolled.downloads.iterdir()) == []
