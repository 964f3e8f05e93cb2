# SPDX-License-Identifier: Apache-2.0
"""Renewal of a device's certificate: the agent's own code against a real server, over real TLS."""

import contextlib
import itertools
import json
import os
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from device_agent.adapters.identity import renewal
from device_agent.adapters.identity.data_folder import DataFolder, key_of
from device_agent.adapters.identity.enrolment import certificate_request, enrol, read_ticket
from device_agent.adapters.network.https import ServerConnection
from device_agent.adapters.verification.trust_memory_file import TrustMemoryFile
from device_agent.core.orders.renewal import CertificateLife
from device_agent.core.orders.trust_memory import TrustMemory
from device_agent.core.upkeep import Note, UpkeepResult
from device_agent.upkeep.in_process import InProcessUpkeep
from edgefleet.contracts.enrolment import RENEWAL_PURPOSE, RenewalRequest, SignedRenewal
from edgefleet.contracts.errors import UnreachableError
from edgefleet.contracts.messages import Event, Message, decode_message
from fleet_server.adapters.keys.certificates import create_authority, issue_device

#: Long enough for an enrolment, and over soon after.
MOMENT_DAYS = "1e-5"
TIMESTAMP = "/director/{}/metadata/timestamp.json"


class Board:
    """A device's data folder, and the server that it enrolled at."""

    def __init__(self, server: Any, cli: Any, name: str) -> None:
        self.server, self.name = server, name
        ticket = server.folder / f"{name}.ticket.json"
        cli("devices", "invite", name, "--profile", "linux-x86_64", "--output", ticket, "--home", server.admin)
        self.folder = DataFolder(server.folder / "boards" / name)
        self.identity = enrol(read_ticket(ticket), self.folder)

    def round(self, *, ahead_s: float = 0.0) -> UpkeepResult:
        """Do one round of upkeep by a clock that may be ahead."""
        return InProcessUpkeep(self.folder, lambda: time.time() + ahead_s).round()

    @property
    def life(self) -> CertificateLife:
        return renewal.read_life(self.folder)

    def status(self, certificate: Path | None = None, key: Path | None = None) -> int:
        """Return what the server answers to a poll with a pair."""
        files = {"ca": self.folder.ca, "certificate": certificate or self.folder.certificate}
        connection = ServerConnection(self.identity.server_url, **files, key=key or self.folder.key)
        try:
            with connection.get(TIMESTAMP.format(self.name)) as answer:
                return answer.status
        finally:
            connection.close()

    def keep(self, name: str) -> tuple[Path, Path]:
        """Copy the present pair."""
        copies = (self.folder.root / f"{name}.crt", self.folder.root / f"{name}.key")
        key = key_of(self.folder.certificate, self.folder.key)
        assert key is not None
        for copy, path in zip(copies, (self.folder.certificate, key), strict=True):
            copy.write_bytes(path.read_bytes())
        return copies

    def post(self, proof: SignedRenewal) -> tuple[int, str, str]:
        """Send a renewal without any certificate; return status, code and detail."""
        connection = ServerConnection(self.identity.server_url, ca=self.folder.ca)
        status, body = connection.post_json("/v1/renew", msgspec.json.encode(proof))
        connection.close()
        document = json.loads(body)
        return status, document.get("code", ""), document.get("detail", "")

    def record(self) -> Any:
        return self.server.call(f"devices/{self.name}")


def causes(result: UpkeepResult) -> list[tuple[str, str]]:
    return [(note.kind, note.cause) for note in result.notes]


def proof_by(certificate_pem: str, signing: Any, device: str, fresh: Any, tenant: str = "acme") -> SignedRenewal:
    request = RenewalRequest(
        tenant=tenant,
        device=device,
        certificate_pem=certificate_pem,
        csr_pem=certificate_request(fresh, tenant=tenant, device=device),
    )
    text = msgspec.json.encode(request)
    signature = signing.sign(RENEWAL_PURPOSE + text, ec.ECDSA(hashes.SHA256()))
    return SignedRenewal(request=text.decode(), signature=signature.hex())


@pytest.fixture(name="server")
def _server(shared_server: Any) -> Any:
    return shared_server


@pytest.fixture(name="brief_server")
def _brief_server(new_server: Callable[..., Any]) -> Any:
    """A server whose device certificates hold for a moment only."""
    server = new_server()
    server.stop()
    (server.data / "signer" / "certificate-days").write_text(MOMENT_DAYS)
    server.start()
    server.login(server.admin)
    return server


def test_a_certificate_is_renewed_when_two_thirds_of_its_life_are_over(server: Any, cli: Any) -> None:
    board = Board(server, cli, "r1")
    first, old = board.life, board.keep("old")
    assert board.record()["certificate_ends_at"] == first.ends_at
    quarter_s = (first.ends_at - first.begins_at) / 4

    assert causes(board.round(ahead_s=quarter_s * 2)) == []
    assert board.life == first
    assert causes(board.round(ahead_s=quarter_s * 3)) == [("certificate-renewed", "due")]
    assert board.life.serial != first.serial
    assert board.status() == 200
    assert board.status(*old) == 403  # from the first use of the next one on
    record = board.record()
    assert (record["certificate_ends_at"], record["renewed_at"] is not None) == (board.life.ends_at, True)
    assert board.folder.certificate.stat().st_mode & 0o777 == 0o600

    assert causes(board.round(ahead_s=quarter_s * 3 + board.life.ends_at - first.ends_at)) == [
        ("certificate-renewed", "due")
    ]
    assert board.status() == 200


def test_a_board_whose_clock_says_1970_renews_by_the_time_that_it_knows_of(server: Any, cli: Any) -> None:
    board = Board(server, cli, "r1970")
    in_1970 = InProcessUpkeep(board.folder, lambda: 3600.0)
    first = board.life
    assert causes(in_1970.round()) == []
    bound = first.begins_at + 0.75 * (first.ends_at - first.begins_at)
    TrustMemoryFile(board.folder.trust).save(TrustMemory(bound=bound))
    with pytest.MonkeyPatch.context() as patched:  # TLS judges by the bound, too
        patched.setattr("device_agent.adapters.network.tls_time.time.time", lambda: 3600.0)
        assert causes(in_1970.round()) == [("certificate-renewed", "due")]
    assert board.life.serial != first.serial
    assert board.status() == 200


def test_a_renewed_pair_serves_an_agent_that_knows_two_files(server: Any, cli: Any) -> None:
    board = Board(server, cli, "r2")
    before = board.folder.key.read_bytes()
    renewal.renew(board.folder, board.identity, lapsed=False)
    assert board.folder.key.read_bytes() != before
    context = ssl.create_default_context(cafile=str(board.folder.ca))
    context.load_cert_chain(board.folder.certificate, board.folder.key)  # as an older agent does


def test_a_connection_that_lives_on_takes_up_the_renewed_pair(server: Any, cli: Any) -> None:
    board = Board(server, cli, "r3")
    folder = board.folder
    connection = ServerConnection(
        board.identity.server_url, ca=folder.ca, certificate=folder.certificate, key=folder.key
    )
    for _ in range(2):
        with connection.get(TIMESTAMP.format("r3")) as answer:
            assert answer.status == 200
        renewal.renew(folder, board.identity, lapsed=False)
    with connection.get(TIMESTAMP.format("r3")) as answer:
        assert answer.status == 200
    connection.close()


def test_an_answer_that_was_lost_is_asked_for_again_and_is_the_same(
    server: Any, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(server, cli, "r4")
    answers: list[bytes] = []
    ask = renewal._ask

    def lost(*arguments: Any, **named: Any) -> bytes:
        answers.append(ask(*arguments, **named))
        raise UnreachableError("the connection broke", hint="")

    with monkeypatch.context() as broken:
        broken.setattr(renewal, "_ask", lost)
        for _ in range(2):
            with pytest.raises(UnreachableError):
                renewal.renew(board.folder, board.identity, lapsed=False)
    assert board.status() == 200  # the present one still holds
    assert renewal.renew(board.folder, board.identity, lapsed=False) == board.life
    answers.append(board.folder.certificate.read_bytes().partition(b"-----BEGIN PRIVATE KEY")[0])
    assert len(set(answers)) == 1
    assert board.status() == 200


class PowerCut(BaseException):
    """Nothing after this is written."""


def cuts(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[int]:
    """Cut the power before the ``after``-th write, rename or unlink of a renewal."""
    counted = itertools.count()

    def guard(action: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **named: Any) -> Any:
            if next(counted) == after:
                raise PowerCut
            return action(*arguments, **named)

        return guarded

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", guard(os.fsync))
        patched.setattr(Path, "replace", guard(Path.replace))
        patched.setattr(Path, "unlink", guard(Path.unlink))
        yield after


def test_a_power_cut_at_any_point_leaves_a_pair_that_the_server_takes(
    server: Any, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(server, cli, "r5")
    for after in range(40):
        before = board.life
        ended = True
        for _ in cuts(monkeypatch, after):
            try:
                renewal.renew(board.folder, board.identity, lapsed=False)
            except PowerCut:
                ended = False
        assert board.status() == 200, after
        renewal.make_up(board.folder)
        if ended:
            break
        if board.life == before:
            renewal.renew(board.folder, board.identity, lapsed=False)
        assert board.status() == 200, after
        key = board.folder.key.read_bytes()
        assert board.folder.certificate.read_bytes().endswith(key)
    assert 8 < after < 39
    assert not board.folder.next_key.exists()


def test_a_lapsed_certificate_is_renewed_within_a_signed_grace_only(brief_server: Any, cli: Any, wait_for: Any) -> None:
    server = brief_server
    board = Board(server, cli, "g1")
    wait_for(lambda: time.time() > board.life.ends_at, "the certificate lapses")
    lapsed_on = time.strftime("%Y-%m-%d", time.gmtime(board.life.ends_at))

    def refused(why: str) -> UpkeepResult:
        until = time.strftime("%Y-%m-%d %H:%M", time.gmtime(board.life.ends_at))
        detail = (
            f"the certificate holds until {until}; the server refuses to renew the certificate: "
            f"the certificate of 'g1' lapsed on {lapsed_on}, and {why}"
        )
        return UpkeepResult(
            notes=(Note(kind="certificate-lapsing", cause="certificate-lapsed", detail=detail),), soon=True
        )

    assert board.round() == refused("the fleet has signed no grace for it")
    said = cli("devices", "grace", "g1", "--days", "0", "--home", server.admin)
    assert said.out.startswith("g1 may renew a lapsed certificate until ")
    grace_until = server.call("devices/g1")["renewal_grace_until"]
    wait_for(lambda: time.time() > grace_until, "the grace ends")
    ended_on = time.strftime("%Y-%m-%d", time.gmtime(grace_until))
    assert board.round() == refused(f"its grace ended on {ended_on}")

    cli("devices", "grace", "g1", "--days", "1", "--home", server.admin)
    with sqlite3.connect(server.data / "fleet.db") as database:  # what the director signed carries it
        (targets,) = database.execute("SELECT targets FROM director WHERE device = 'g1'").fetchone()
    signed = json.loads(targets)["signed"]["edgefleet"]
    assert signed["renewal_grace_until"] == int(board.record()["renewal_grace_until"])
    result = board.round()
    assert causes(result) == [("certificate-renewed", "within-grace")]
    assert board.record()["renewal_grace_until"] is None  # it is used up
    actions = [entry["action"] for entry in server.call("audit")]
    assert actions.count("renewal-grace-given") == 2
    assert actions.count("device-renewed") == 1


def test_a_grace_that_only_the_database_knows_is_none(brief_server: Any, cli: Any, wait_for: Any) -> None:
    board = Board(brief_server, cli, "g2")
    with sqlite3.connect(brief_server.data / "fleet.db") as database:
        until = int(time.time()) + 10_000
        database.execute("UPDATE device_identity SET grace_until = ? WHERE device = 'g2'", (until,))
    wait_for(lambda: time.time() > board.life.ends_at, "the certificate lapses")
    assert causes(board.round()) == [("certificate-lapsing", "certificate-lapsed")]


def test_a_retired_certificate_renews_nothing(server: Any, cli: Any) -> None:
    board = Board(server, cli, "x1")
    old, key = board.keep("old")
    renewal.renew(board.folder, board.identity, lapsed=False)
    assert board.status() == 200
    signing = serialization.load_pem_private_key(key.read_bytes(), None)
    proof = proof_by(old.read_text(), signing, "x1", ec.generate_private_key(ec.SECP256R1()))
    assert board.post(proof) == (
        403,
        "certificate-retired",
        "device 'x1' has a newer certificate than the one that it shows",
    )


def test_a_decommissioned_device_renews_nothing_and_never_comes_back(server: Any, cli: Any) -> None:
    board = Board(server, cli, "x2")
    assert cli("devices", "decommission", "x2", "--yes", "--home", server.admin).out == "x2 was decommissioned\n"
    assert board.status() == 403
    result = board.round(ahead_s=700 * 86400.0)
    assert causes(result) == [("certificate-lapsing", "device-decommissioned")]
    for command in (
        ("grace", "x2", "--days", "3"),
        ("invite", "x2", "--profile", "p", "--output", server.folder / "t"),
    ):
        refused = cli("devices", *command, "--home", server.admin, expect=None)
        assert refused.err.startswith("error: device 'x2' was decommissioned\n")
    with sqlite3.connect(server.data / "fleet.db") as database:  # nor by a database that was put back
        database.execute("UPDATE device_identity SET decommissioned_at = NULL WHERE device = 'x2'")
        serial = f"{board.life.serial:x}"
        database.execute("UPDATE device SET certificate_serial = ?, enrolled_at = 1 WHERE name = 'x2'", (serial,))
    assert causes(board.round(ahead_s=700 * 86400.0)) == [("certificate-lapsing", "device-decommissioned")]


def test_a_proof_that_proves_nothing_is_refused(server: Any, cli: Any) -> None:
    board, other = Board(server, cli, "y1"), Board(server, cli, "y2")
    pem = board.folder.certificate.read_text()
    own = serialization.load_pem_private_key(board.folder.key.read_bytes(), None)
    fresh = ec.generate_private_key(ec.SECP256R1())
    good = proof_by(pem, own, "y1", fresh)
    foreign_authority = create_authority("acme", "device")
    foreign_key = ec.generate_private_key(ec.SECP256R1())
    csr = certificate_request(foreign_key, tenant="acme", device="y1")
    foreign = issue_device(foreign_authority, "acme", "y1", csr)
    unsigned = (
        403,
        "possession-not-proved",
        "the renewal of 'y1' is not signed by the key of the certificate that it shows",
    )
    for proof, expected in (
        (proof_by(pem, fresh, "y1", fresh), unsigned),
        (msgspec.structs.replace(good, request=good.request + " "), unsigned),
        (msgspec.structs.replace(good, signature="00"), unsigned),
        (
            proof_by(foreign, foreign_key, "y1", fresh),
            (403, "possession-not-proved", "the renewal shows a certificate of another authority than this fleet's"),
        ),
        (
            proof_by(pem, own, "y2", fresh),
            (
                403,
                "possession-not-proved",
                "the renewal shows a certificate of 'y1' of 'acme', expected 'y2' of 'acme'",
            ),
        ),
        (
            proof_by(pem, own, "y1", fresh, tenant="other"),
            (
                403,
                "possession-not-proved",
                "the renewal shows a certificate of 'y1' of 'acme', expected 'y1' of 'acme'",
            ),
        ),
        (
            proof_by((server.data / "tls" / "server.crt").read_text(), own, "y1", fresh),
            (403, "possession-not-proved", "the renewal shows a certificate of another authority than this fleet's"),
        ),
        (SignedRenewal(request="{}", signature="00"), (422, "refused", "the renewal is malformed: ")),
        (msgspec.structs.replace(good, signature="x"), (422, "refused", "the renewal is malformed: ")),
        (proof_by("no pem", own, "y1", fresh), (422, "refused", "the renewal is malformed: ")),
    ):
        status, code, detail = board.post(proof)
        assert (status, code) == expected[:2], detail
        assert detail.startswith(expected[2])
    assert board.post(good)[0] == 200
    assert other.status() == 200


def test_a_key_that_the_service_manager_keeps_stays_where_it_is(
    server: Any, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(server, cli, "s1")
    sealed = tmp_path / "edgefleet-device-key"
    sealed.write_bytes(board.folder.key.read_bytes())
    board.folder.key.unlink()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    board.folder = DataFolder(board.folder.root)
    before = board.life
    renewal.renew(board.folder, board.identity, lapsed=False)
    assert board.life.serial != before.serial
    assert b"PRIVATE KEY" not in board.folder.certificate.read_bytes()
    assert board.status() == 200


def stories(outbox: Path) -> list[tuple[str, str]]:
    """Events in the outbox of a running agent."""
    with contextlib.closing(sqlite3.connect(f"{outbox.as_uri()}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT data FROM message ORDER BY sequence").fetchall()
    bodies = [decode_message(data, Message).body for (data,) in rows]
    return [(body.kind, body.cause) for body in bodies if isinstance(body, Event)]


def test_a_running_agent_renews_its_certificate_and_goes_on_with_it(new_server: Any, cli: Any, wait_for: Any) -> None:
    server = new_server()
    server.stop()
    (server.data / "signer" / "certificate-days").write_text("0.002")  # two thirds of it are over at once
    server.start()
    server.login(server.admin)
    board = Board(server, cli, "a1")
    before = board.life
    command = [sys.executable, "-m", "device_agent", "run", "--data", str(board.folder.root), "--poll", "0.3"]
    agent = subprocess.Popen([*command, "--time-scale", "60"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert agent.stdout is not None
        assert b"socket" in agent.stdout.readline()
        # before a server has said what it understands, an event is put in words that every one knows
        told = {("certificate-renewed", "due"), ("state-repaired", "certificate-renewed")}
        wait_for(lambda: told & set(stories(board.folder.outbox)), "the renewal")
        assert board.life.serial != before.serial
        wait_for(lambda: board.record()["renewed_at"], "the first use of the next certificate")
        wait_for(lambda: board.record()["last_seen"], "a poll")
        assert len(board.record()["facts"]["cpu_features"]) > 5
    finally:
        agent.terminate()
        assert agent.wait(120) == 0
        agent.stdout.close()
