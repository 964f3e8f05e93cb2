# SPDX-License-Identifier: Apache-2.0
"""Enrolment and the device listener, over real TLS."""

import json
import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest
import urllib3
from cryptography import x509
from cryptography.x509.oid import NameOID

from edgefleet.contracts.enrolment import EnrolmentTicket
from fleet_server.adapters.keys.certificates import KeyedCertificate, issue_client


@pytest.fixture(name="server")
def _server(shared_server: Any) -> Any:
    return shared_server


def ticket(server: Any, cli: Any, name: str) -> Any:
    file = server.folder / f"{name}.json"
    cli("devices", "invite", name, "--profile", "linux-x86_64", "--output", file, "--home", server.admin)
    return json.loads(file.read_text())


def problem(answer: Any) -> tuple[int, str, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    document = json.loads(answer.data)
    assert document["status"] == answer.status
    return answer.status, document["code"], document["detail"]


def test_a_device_enrols_once_and_reads_only_what_is_its_own(server: Any, cli: Any) -> None:
    device = server.enrol("d1")
    other = server.enrol("d2")
    certificate = x509.load_pem_x509_certificate((device.folder / "crt.pem").read_bytes())
    names = {
        oid: certificate.subject.get_attributes_for_oid(oid)[0].value
        for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
    }
    assert list(names.values()) == ["d1", "acme"]

    used = device.enrol()
    assert problem(used) == (403, "not-allowed", "the enrolment token of device 'd1' is wrong or used")

    answer = device.get("/director/d1/metadata/timestamp.json")
    assert answer.status == 200
    again = device.get("/director/d1/metadata/timestamp.json", **{"if-none-match": answer.headers["etag"]})
    assert (again.status, again.data) == (304, b"")
    assert problem(other.get("/director/d1/metadata/timestamp.json")) == (
        403, "not-allowed", "the certificate is of device 'd2', not of 'd1'",
    )  # fmt: skip
    for path in ("/director/d1/metadata/timestamp.json", "/image/metadata/timestamp.json", "/image/targets/a/1.0.0/x"):
        assert problem(device.get(path, certificate=False)) == (
            403, "not-allowed", "the connection shows no device certificate",
        )  # fmt: skip
    for path in (
        "/image/metadata/2.root.json",
        "/image/metadata/x",
        "/image/targets/../fleet.db",
        "/director/d1/metadata/9.targets.json",
    ):
        assert device.get(path).status == 404
    record = server.call("devices/d1")
    assert (record["enrolled"], record["facts"]["architecture"]) == (True, "x86_64")


def test_a_wrong_token_and_a_request_for_another_device_are_refused_and_use_nothing_up(server: Any, cli: Any) -> None:

    device = server.enrol("e1")
    fresh = msgspec.convert(ticket(server, cli, "e2"), EnrolmentTicket)
    second = type(device)(fresh, server.folder / "dev" / "e2")
    assert problem(second.enrol(second.request(token="ef_wrong"))) == (
        403, "not-allowed", "the enrolment token of device 'e2' is wrong or used",
    )  # fmt: skip
    assert problem(second.enrol(second.request(csr_pem=second.csr("e1")))) == (
        403, "not-allowed", "the certificate request does not speak for 'e2'",
    )  # fmt: skip
    assert problem(second.enrol(second.request(csr_pem="nonsense")))[:2] == (422, "refused")
    malformed = second.pool(certificate=False).request("POST", f"{fresh.server_url}/v1/enrol", body=b"{}")
    assert problem(malformed) == (
        400, "wrong-usage", "the enrolment request: Object missing required field `device`",
    )  # fmt: skip
    assert second.enrol().status == 200


def test_a_reflashed_device_enrols_again_and_its_old_certificate_ends(server: Any, cli: Any) -> None:
    device = server.enrol("f1")
    again = server.folder / "again.json"
    cli("devices", "invite", "f1", "--profile", "linux-x86_64", "--output", again, "--home", server.admin)
    reflashed = type(device)(device.ticket, server.folder / "dev" / "again")
    reflashed.ticket = type(device.ticket)(**json.loads(again.read_text()))
    assert reflashed.enrol().status == 200
    assert reflashed.get("/image/metadata/timestamp.json").status == 200
    assert problem(device.get("/image/metadata/timestamp.json")) == (
        403, "not-allowed", "the certificate is not the current one of an enrolled device",
    )  # fmt: skip
    refused = cli(
        "devices",
        "invite",
        "f1",
        "--profile",
        "raspberry-pi-4",
        "--output",
        server.folder / "x",
        "--home",
        server.admin,
        expect=1,
    )
    assert refused.err == (
        "error: device 'f1' has profile 'linux-x86_64', got 'raspberry-pi-4'\nhint: choose another name\n"
    )


def test_a_certificate_of_another_authority_does_not_even_connect(
    server: Any, initialised: list[Path], tmp_path: Path
) -> None:
    device = server.enrol("g1")
    tls = initialised[1] / "srv" / "signer"
    foreign = KeyedCertificate((tls / "device-authority.crt").read_bytes(), (tls / "device-authority.key").read_bytes())
    stranger = issue_client(foreign, "acme", "g1")
    (tmp_path / "crt").write_bytes(stranger.certificate_pem)
    (tmp_path / "key").write_bytes(stranger.key_pem)
    context = ssl.create_default_context(cafile=str(device.folder / "ca.pem"))
    context.load_cert_chain(str(tmp_path / "crt"), str(tmp_path / "key"))
    pool = urllib3.PoolManager(ssl_context=context, retries=False)
    with pytest.raises((urllib3.exceptions.HTTPError, ssl.SSLError, ConnectionError)):
        pool.request("GET", f"{server.device_url}/image/metadata/timestamp.json")
