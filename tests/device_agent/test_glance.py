# SPDX-License-Identifier: Apache-2.0
"""A poll that finds nothing new starts no process; whatever is not plainly the same is checked as a whole."""

import contextlib
import socket
import threading
import time

import pytest

from device_agent.adapters.children.repositories_process import RepositoriesProcess
from device_agent.adapters.verification.glance import Glance
from device_agent.adapters.verification.inbox import Inbox
from device_agent.core.orders.agreement import CHECK_ANYWAY_S, Agreement, Watched, may_stand
from device_agent.core.orders.clock_judgement import BUILT_AT
from device_agent.errors import TrustRefusedError
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.errors import UnreachableError
from edgefleet.contracts.tuf_custom import RecallOrder, Standing
from edgefleet.contracts.update_file import DESCRIPTION_PATH

NOW = BUILT_AT + 1e6
DAY_S = 86_400.0
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsame"
SAME = (Watched(path="/timestamp.json", sha256=sha256_hex(b"same")),)


class Times:
    """Clocks that a test moves."""

    def __init__(self):
        self.moved_s = 0.0

    def wall(self):
        return time.time() + self.moved_s

    def monotonic(self):
        return time.monotonic() + self.moved_s


#: What a look asks a repository for, and what a whole check does where nothing is new.
LOOK = ["timestamp.json", "2.root.json"]
WHOLE = ["2.root.json", "timestamp.json"]


@pytest.fixture
def times():
    return Times()


@pytest.fixture
def check(enrolled, device_side, times):
    """Checks both repositories, and returns the order and what was asked for, by its last names."""
    made = RepositoriesProcess(enrolled, reserve_bytes=0, wall=times.wall, monotonic=times.monotonic)

    def check(seen_counter=0):
        before = len(device_side.requests)
        order = made.check(seen_counter)
        return order, [path.rpartition("/")[2] for path, _ in device_side.requests[before:]]

    yield check
    made.close()


def test_an_order_for_nothing_stands_while_the_director_has_no_news(check, device_side):
    device_side.assign(None)
    first, _ = check()
    assert check() == (first, LOOK)


def test_an_order_for_a_bundle_stands_while_neither_repository_has_news(check, device_side, agent_bundles):
    device_side.assign(device_side.release(agent_bundles.v1))
    first, _ = check()
    assert first.wanted
    assert check(first.counter) == (first, LOOK + LOOK)


def test_a_look_starts_no_process(check, device_side, enrolled, monkeypatch):
    device_side.assign(None)
    first, _ = check()
    monkeypatch.setattr("subprocess.Popen", None)
    assert check() == (first, LOOK)


def test_a_new_order_is_seen_at_once(check, device_side, agent_bundles):
    device_side.assign(None)
    check()
    device_side.assign(device_side.release(agent_bundles.v1))
    order, asked = check()
    assert [one.release.version for one in order.wanted] == ["1.0.0"]
    assert asked[:3] == ["timestamp.json", "2.root.json", "timestamp.json"]


def test_a_recall_is_seen_at_once_and_what_is_refused_does_not_stand(check, device_side, agent_bundles):
    device_side.assign(device_side.release(agent_bundles.v1))
    check()
    device_side.image.standing = Standing(recalled=RecallOrder(bundles={"digits": (agent_bundles.v1.sha256,)}))
    device_side.image.publish(device_side.releases)
    for _ in range(2):
        with pytest.raises(TrustRefusedError) as raised:
            check()
        assert raised.value.cause == "recalled"


def test_a_new_root_is_seen_although_the_timestamp_has_not_changed(check, device_side):
    device_side.assign(None)
    check()
    device_side.director.files["2.root.json"] = device_side.director.files["1.root.json"]
    with pytest.raises(TrustRefusedError) as raised:
        check()
    assert raised.value.cause == "metadata-rollback"


@pytest.mark.parametrize(("moved_s", "asked"), [(0.1 * DAY_S, LOOK), (0.21 * DAY_S, WHOLE)])
def test_what_was_verified_expires_although_the_server_shows_the_same_bytes(check, device_side, times, moved_s, asked):
    device_side.assign(None, days=0.2)
    check()
    times.moved_s = moved_s
    assert check()[1] == asked


def test_a_delegated_role_expires_like_every_other(check, device_side, times, agent_bundles):
    target = device_side.release(agent_bundles.v1, days=0.2)
    device_side.assign(target)
    check()
    times.moved_s = 0.21 * DAY_S
    assert check()[1] == WHOLE + WHOLE


def test_a_higher_counter_than_that_of_the_order_asks_for_a_whole_check(check, device_side):
    device_side.assign(None)
    order, _ = check()
    with pytest.raises(TrustRefusedError) as raised:
        check(order.counter + 1)
    assert raised.value.cause == "assignment-rollback"


def test_an_update_that_a_person_brought_is_looked_at(check, device_side, enrolled):
    device_side.assign(None)
    check()
    inbox = Inbox(enrolled.root).path
    inbox.mkdir()
    (inbox / DESCRIPTION_PATH).write_bytes(b"{}")
    order, asked = check()
    assert asked == WHOLE
    assert [notice.kind for notice in order.notices] == ["update-refused"]


def test_a_server_that_is_away_is_told_without_a_process_and_what_was_agreed_stands(check, device_side, monkeypatch):
    device_side.assign(None)
    first, _ = check()
    device_side.stop()
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(UnreachableError, match=rf"^the server {device_side.url} does not answer: Connection refused$"):
        check()
    device_side.start_again()
    assert check() == (first, LOOK)


@pytest.mark.parametrize(
    ("age_s", "wall", "stands"),
    [
        (0.0, NOW, True),
        (CHECK_ANYWAY_S - 1, NOW, True),
        (CHECK_ANYWAY_S, NOW, False),
        (0.0, NOW + DAY_S - 1, True),
        (0.0, NOW + DAY_S, False),
        (0.0, 0.0, False),  # a clock that died may not turn time back
        (0.0, NOW - 3 * DAY_S, False),  # nor one that is far behind what is known
    ],
)
def test_an_agreement_stands_for_a_time(age_s, wall, stands):
    agreement = Agreement(watched=(), until=NOW + DAY_S, bound=NOW - DAY_S)
    assert may_stand(agreement, wall=wall, age_s=age_s) is stands


def test_a_known_time_beyond_the_expiry_ends_it_whatever_the_clock_says():
    agreement = Agreement(watched=(), until=NOW + 10, bound=NOW + 20)
    assert not may_stand(agreement, wall=NOW, age_s=0.0)


@pytest.fixture
def answering(enrolled, device_side):
    """Lets the server of the enrolled device answer each request with given bytes, in pieces."""
    device_side.stop()
    listener = socket.create_server(("127.0.0.1", device_side.port))
    context = device_side._context()
    threads = []

    def serve(pieces, *, hang_up=True):
        def answer():
            hung_up = contextlib.suppress(OSError)  # by who has seen enough
            with hung_up, listener.accept()[0] as plain, context.wrap_socket(plain, server_side=True) as end:
                end.recv(4096)
                for piece in pieces:
                    end.sendall(piece)
                if not hang_up:
                    end.recv(1)

        threads.append(threading.Thread(target=answer, daemon=True))
        threads[-1].start()
        return Glance(enrolled)

    yield serve
    listener.close()
    for thread in threads:
        thread.join(120.0)
    device_side.start_again()


@pytest.mark.parametrize(
    ("pieces", "unchanged"),
    [
        ([ANSWER], True),
        ([ANSWER[i : i + 1] for i in range(len(ANSWER))], True),
        ([ANSWER.replace(b"same", b"else")], False),
        ([ANSWER.replace(b"200 OK", b"304 Not Modified")], False),
        ([ANSWER.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked")], False),
        ([ANSWER.replace(b"Length: 4", b"Length: 5")], False),
        ([ANSWER.replace(b"HTTP/1.1", b"ICY")], False),
        ([ANSWER.replace(b": 4", b": 999999"), *[b"x" * 4096] * 100], False),
        ([b"HTTP/1.1 200 OK\r\n", *[b"x" * 4096] * 100], False),
        ([ANSWER[:-2]], False),
        ([b""], False),
    ],
    ids=lambda value: value[0].decode()[:60] if isinstance(value, list) else None,
)
def test_only_the_plain_answer_of_before_is_the_same(answering, pieces, unchanged):
    assert answering(pieces).unchanged(SAME) is unchanged


def test_a_server_that_hangs_up_after_each_answer_is_not_asked_again(answering):
    closing = ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert answering([closing]).unchanged(SAME)
    assert not answering([closing]).unchanged(SAME + SAME)


def test_a_look_ends_although_a_server_never_comes_to_an_end(answering, enrolled):
    answering([ANSWER[:-1]], hang_up=False)
    assert not Glance(enrolled, limit_s=0.05).unchanged(SAME)


def test_a_server_with_another_authority_s_certificate_is_not_believed(answering, enrolled, device_side):
    glance = answering([ANSWER])
    enrolled.ca.write_bytes(type(device_side.authority)().pem)
    assert not glance.unchanged(SAME)
