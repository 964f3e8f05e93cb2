# SPDX-License-Identifier: Apache-2.0
"""Devices, people and strangers that mean harm: refused in one problem document, and nothing changes."""

import contextlib
import hashlib
import http.client
import json
import socket
import sqlite3
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from edgefleet.contracts.enrolment import EnrolmentTicket
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.messages import Event, Message, ModelWindow, RunningRelease, State, Telemetry, encode_message
from fleet_server.adapters.keys.certificates import create_authority, issue_device
from fleet_server.adapters.rollouts.rollout_store import find_rollout, read_evidence
from fleet_server.adapters.storage.database import Database
from fleet_server.adapters.telemetry.mqtt_link import MqttLink
from fleet_server.adapters.telemetry.telemetry_store import Arrival, TelemetryStore
from fleet_server.core.rollouts.gate import Figures
from fleet_server.core.rollouts.rollout import DeviceEvidence, Rollout, step

OLD = RunningRelease(name="digits", version="1.0.0", bundle_sha256="1" * 64)
NEW = RunningRelease(name="digits", version="2.0.0", bundle_sha256="2" * 64)


def raw(address: str, target: str, *, context: ssl.SSLContext | None = None, **headers: str) -> tuple[int, bytes]:
    """Ask for a target exactly as it is written."""
    parts = urlsplit(address)
    kind = http.client.HTTPSConnection if context else http.client.HTTPConnection
    settings = {"context": context} if context else {}
    connection = kind(parts.hostname, parts.port, timeout=120, **settings)
    connection.putrequest("GET", target, skip_host=False)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def bearer(server: Any, token: str | None = None) -> dict[str, str]:
    return {"authorization": f"Bearer {token or (server.admin / 'token').read_text()}"}


def ask(server: Any, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    answer = urllib3.PoolManager().request(
        method, f"{server.api}{path}", body=body, headers=bearer(server) | headers, retries=False
    )
    return answer.status, json.loads(answer.data) if answer.data.startswith(b"{") else answer.data


def test_two_enrolments_at_once_with_one_token_make_one_device(shared_server: Any) -> None:
    ticket = ask(shared_server, "POST", "/api/v1/devices", b'{"name":"race","profile":"p"}')[1]
    kind = type(shared_server.enrol("racer"))
    device = kind(msgspec.convert(ticket, EnrolmentTicket), shared_server.folder / "dev" / "race")
    device.folder.mkdir(parents=True)
    (device.folder / "ca.pem").write_text(ticket["ca_pem"])
    pools = [device.pool(certificate=False) for _ in range(8)]
    body = msgspec.json.encode(device.request())
    with ThreadPoolExecutor(8) as threads:
        url = f"{ticket['server_url']}/v1/enrol"
        answers = list(threads.map(lambda pool: pool.request("POST", url, body=body).status, pools))
    assert sorted(answers) == [200] + [403] * 7


@pytest.mark.parametrize(
    "path",
    [
        "/image/targets/../../fleet.db",
        "/image/targets/%2e%2e/%2e%2e/fleet.db",
        "/image/targets//etc/passwd",
        "/image/targets/%2fetc%2fpasswd",
        "/image/targets/digits/1.0.0/%00",
        "/image/targets/digits/../../signer/image.pem",
        "/image/metadata/..%2f..%2fsigner%2fimage.pem",
        "/image/metadata/%00.json",
        "/image/metadata/99999999999999999999999.root.json",
        "/image/metadata/%d9%a1.root.json",
        "/image/targets/" + "a/" * 20_000,
    ],
)
def test_no_path_leads_out_of_the_repository(shared_server: Any, path: str) -> None:
    status, body = raw(shared_server.api, path, **bearer(shared_server))
    assert status in (400, 404)
    assert b"PRIVATE" not in body
    assert b"SQLite" not in body


@pytest.mark.parametrize(
    "query",
    [
        "figures?since=inf",
        "figures?since=nan",
        "figures?since=1e300",
        "figures?since=-1",
        f"audit?after={1 << 70}",
        "audit?limit=1000000",
        "events?limit=0",
        "events?limit=9e9",
    ],
)
def test_an_absurd_query_is_wrong_usage(shared_server: Any, query: str) -> None:
    status, problem = ask(shared_server, "GET", f"/api/v1/{query}")
    assert (status, problem["code"]) == (400, "wrong-usage")


@given(
    st.text(max_size=50).map(lambda text: json.dumps({"name": text, "profile": "p"}).encode()) | st.binary(max_size=80)
)
def test_no_name_and_no_body_is_a_fault_of_the_server(shared_server: Any, body: bytes) -> None:
    assert ask(shared_server, "POST", "/api/v1/devices", body)[0] in (201, 400)


def test_the_servers_own_name_at_the_broker_is_no_devices(shared_server: Any) -> None:
    status, problem = ask(shared_server, "POST", "/api/v1/devices", b'{"name":"edgefleet-server","profile":"p"}')
    assert (status, problem["detail"]) == (400, "'edgefleet-server' is the server's own name at the broker")


def test_a_viewer_changes_nothing_and_garbage_is_nobody(shared_server: Any) -> None:
    made = ask(shared_server, "POST", "/api/v1/tokens", b'{"name":"eve","role":"viewer"}')[1]
    changing = [
        ("POST", "/devices", b'{"name":"x","profile":"p"}'),
        ("POST", "/tokens", b'{"name":"eve","role":"admin"}'),
        ("POST", "/rollouts", b'{"name":"digits","version":"1.0.0"}'),
        ("POST", "/rollouts/x/abort", b""),
        ("PUT", "/targets", b"{}"),
        ("POST", "/releases", b'{"bundles":[],"policy":""}'),
        ("PUT", f"/bundles/{'0' * 64}", b"x"),
        ("PUT", "/releases/digits/1.0.0/proposal", b"{}"),
    ]
    before = shared_server.call("audit?limit=10000")
    for method, path, body in changing:
        for token in (made["token"], "nobody", "\u00ff"):
            status, problem = ask(shared_server, method, f"/api/v1{path}", body, authorization=f"Bearer {token}")
            assert (status, problem["code"]) == (403, "not-allowed")
        cookie = f"edgefleet_session={(shared_server.admin / 'token').read_text()}"
        assert ask(shared_server, method, f"/api/v1{path}", body, authorization="", cookie=cookie)[0] == 403
    assert shared_server.call("audit?limit=10000") == before


def test_uploads_that_lie_break_off_or_come_twice(shared_server: Any, make_bundle: Any, tmp_path: Path) -> None:
    data = make_bundle(tmp_path, name="uploads").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    assert ask(shared_server, "PUT", f"/api/v1/bundles/{'0' * 64}", data)[1]["code"] == "bundle-invalid"
    assert ask(shared_server, "PUT", f"/api/v1/bundles/{sha256.upper()}", data)[1]["code"] == "wrong-usage"
    parts = urlsplit(shared_server.api)
    with socket.create_connection((parts.hostname, parts.port)) as broken:
        head = f"PUT /api/v1/bundles/{sha256} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n"
        broken.sendall(f"{head}authorization: {bearer(shared_server)['authorization']}\r\n\r\n".encode() + data[:700])
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(shared_server, "PUT", f"/api/v1/bundles/{sha256}", data), range(4)))
    assert [status for status, _ in answers] == [201] * 4
    assert ask(shared_server, "GET", f"/api/v1/bundles/{sha256}")[1] == data


def test_left_over_uploads_are_gone_after_they_broke_off(shared_server: Any, wait_for: Any) -> None:
    found = list(shared_server.data.rglob("*.part"))
    wait_for(lambda: not list(shared_server.data.rglob("*.part")), f"no part of an upload, found {found}")


def test_slow_connections_keep_nobody_out(shared_server: Any) -> None:
    with contextlib.ExitStack() as held:
        for address in (shared_server.api, shared_server.device_url):
            parts = urlsplit(address)
            for _ in range(150):
                slow = held.enter_context(socket.create_connection((parts.hostname, parts.port)))
                slow.sendall(b"GET / HTTP/1.1\r\nx: ")
        assert shared_server.call("health")["status"] == "ok"
        assert shared_server.enrol("patient").order()[1] == []


class Fleet:
    """A database with one rollout of digits 2.0.0 on the way, and the devices d1 and d2."""

    def __init__(self, folder: Path, policy: str) -> None:
        self.path = folder / "fleet.db"
        self.now = 1000.0
        self.sequence = 0
        self.database = Database(self.path)
        self.database.migrate()
        self.store = TelemetryStore(self.database, "acme", lambda: self.now)
        with self.database.write() as connection:
            for one, number in ((OLD, 1), (NEW, 2)):
                run = connection.exec_driver_sql
                run(
                    "INSERT INTO release (name, version, state, policy, policy_sha256, created_at) "
                    "VALUES ('digits', ?, 'approved', ?, '', 1)",
                    (one.version, policy.encode()),
                )
                run(
                    "INSERT INTO release_bundle (name, version, profile, sha256, size_bytes, target_path) "
                    "VALUES ('digits', ?, 'p', ?, 1, ?)",
                    (one.version, one.bundle_sha256, f"digits/{number}"),
                )
            for device in ("d1", "d2"):
                run(
                    "INSERT INTO device (name, profile, invited_at, enrolled_at) VALUES (?, 'p', 1, 1)",
                    (device,),
                )
            run(
                "INSERT INTO rollout (id, name, version, salt, holdout, created_at, state, wave, "
                "wave_started_at, cause) VALUES ('r', 'digits', '2.0.0', 's', '[]', 1, 'running', 0, 900, '')"
            )
            run(
                "INSERT INTO rollout_device (rollout_id, device, wave, counter, assigned_at, previous_name, "
                "previous_version, previous_sha256) VALUES ('r', 'd1', 0, 5, 900, 'digits', '1.0.0', ?)",
                (OLD.bundle_sha256,),
            )

    def say(self, body: Any, device: str = "d1") -> None:
        self.sequence += 1
        message = Message(v=1, device=device, epoch="0" * 16, sequence=self.sequence, created_at=1.0, body=body)
        self.store.store([Arrival(f"edgefleet/v1/acme/{device}/event", encode_message(message))])

    def states(self, *states: State) -> None:
        self.store.store([Arrival(f"edgefleet/v1/acme/{s.device}/state", encode_message(s)) for s in states])

    def evidence(self, device: str = "d1") -> DeviceEvidence:
        with self.database.read() as connection:
            return {e.device: e for e in read_evidence(connection, find_rollout(connection, "r"))}[device]

    def rollout(self) -> Rollout:
        with self.database.read() as connection:
            return find_rollout(connection, "r")

    def known(self) -> tuple[Any, ...]:
        with contextlib.closing(sqlite3.connect(self.path)) as outside:
            row = outside.execute(
                "SELECT connected, status, counter, running_sha256, body FROM device_state"
            ).fetchone()
        state = msgspec.json.decode(row[4], type=State)
        assert (bool(row[0]), row[1], row[2]) == (state.connected, state.status, state.counter)
        return (state.connected, state.status, state.counter, state.running)


@pytest.fixture(name="fleet")
def _fleet(tmp_path: Path, policy_text: str) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, policy_text)
    yield fleet
    fleet.database.close()


def state(**changed: Any) -> State:
    values = {"connected": True, "status": "trial", "counter": 5, "running": NEW, "changed_at": 50.0}
    return State(v=1, device="d1", profile="p", agent_version="1", **(values | changed))


def test_going_back_by_order_or_from_another_release_is_no_failure_of_this_one(fleet: Fleet) -> None:
    fleet.say(Event(kind="rolled-back", cause="ordered", release=NEW, counter=5))
    fleet.say(Event(kind="rolled-back", cause="crash-loop", release=OLD, counter=5))
    assert not fleet.evidence().failed
    fleet.say(Event(kind="rolled-back", cause="non-finite", release=NEW, counter=5))
    assert fleet.evidence().failed
    assert not fleet.evidence("d2").failed


def test_a_last_will_only_says_that_the_device_is_gone(fleet: Fleet) -> None:
    will = state(connected=False, status="idle", counter=4, running=OLD, changed_at=10.0)
    fleet.states(state(), will)  # in one batch, as a broker may bring them
    assert fleet.known() == (False, "trial", 5, NEW)
    fleet.states(state(status="idle", changed_at=60.0))
    fleet.states(state(connected=False))
    assert fleet.known() == (False, "idle", 5, NEW)
    fleet.states(state(connected=False, status="safe-mode", counter=6, running=None, changed_at=1.0))  # a farewell
    assert fleet.known() == (False, "safe-mode", 6, None)


@pytest.mark.parametrize(
    "lie",
    [{"failed": 3}, {"disagreed": 3}, {"failed": 1, "non_finite": 2, "requests": 2}],
    ids=["failed", "disagreed", "failed and NaN"],
)
@pytest.mark.parametrize("device", ["d1", "d2"])
def test_a_gate_that_reads_what_cannot_be_true_stops_also_where_the_sums_hide_it(
    fleet: Fleet, lie: dict[str, int], device: str
) -> None:
    honest = ModelWindow(release=NEW, role="trial", requests=500, compared=500)
    fleet.say(Telemetry(window_start=990.0, window_end=999.0, models=(honest,)), "d2" if device == "d1" else "d1")
    lying = ModelWindow(release=NEW, role="trial", **lie)
    fleet.say(Telemetry(window_start=-1e308, window_end=1e308, models=(lying,)), device)
    evidence = [fleet.evidence("d1"), fleet.evidence("d2")]
    decided = step(fleet.rollout(), evidence, 1000.0)
    assert (decided.rollout.state, decided.rollout.cause, decided.revert) == ("halted", "evidence-unreadable", ("d1",))
    assert decided.verdict is not None
    assert decided.verdict.findings[0].devices == (device,)


def test_counts_no_device_can_have_are_refused_and_the_largest_ones_still_add_up(fleet: Fleet) -> None:
    for count in (1 << 32, (1 << 32) + 1, 1 << 53, 1 << 63):
        window = ModelWindow(release=NEW, role="trial", requests=count, compared=count)
        fleet.say(Telemetry(window_start=1.0, window_end=1e12, models=(window,) * 200))
    assert fleet.evidence().candidate == Figures(requests=200 << 32, compared=200 << 32)
    assert fleet.store.counts() == {"malformed": 3, "stored": 1}


def test_one_message_that_meets_a_defect_costs_no_other_message(monkeypatch: Any, fleet: Fleet) -> None:
    link = MqttLink(None, None, "acme", fleet.store)  # type: ignore[arg-type]  # it is never connected
    store = fleet.store.store

    def defective(batch: list[Arrival]) -> Any:
        if any(arrival.payload == b"poison" for arrival in batch):
            raise OverflowError("as sqlite3 says it of a number")
        return store(batch)

    monkeypatch.setattr(fleet.store, "store", defective)
    message = Message(
        v=1, device="d1", epoch="0" * 16, sequence=1, created_at=1.0, body=Event(kind="verified", cause="x")
    )
    for payload in (b"poison", encode_message(message), b"poison"):
        link._arrivals.put(Arrival("edgefleet/v1/acme/d1/event", payload))
    link._arrivals.put(None)
    link._store_arrivals()
    assert fleet.store.counts() == {"stored": 1}


def test_a_certificate_says_only_what_the_server_knows(device_csr: Callable[[str], str]) -> None:
    authority = create_authority("acme", "device")
    for bad in ("", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"):
        with pytest.raises(EdgeFleetError):
            issue_device(authority, "acme", "d1", bad)
    with pytest.raises(EdgeFleetError):
        issue_device(authority, "acme", "d1", device_csr("d2"))
    with pytest.raises(EdgeFleetError):
        issue_device(authority, "acme", "d1", device_csr("d1").replace("A", "B", 3))
