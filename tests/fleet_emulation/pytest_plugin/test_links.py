# SPDX-License-Identifier: Apache-2.0
"""Faulty links carry what is sent, late, in parts or not at all, and the same way for the same seed."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet.contracts.errors import InputError
from fleet_emulation.testing.network import RETRANSMISSION_S, SEGMENT_BYTES, Faults, Link, Network, lateness_s


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    yield network
    network.close()


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets, on a port of its own."""
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(server,), daemon=True).start()
    yield server.getsockname()[1]
    server.close()


def _serve(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError:
            return


def _through(link: Link, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", link.port), timeout=120) as client:
        sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
        sender.start()
        got = b""
        while piece := client.recv(65536):
            got += piece
        sender.join()
    return got


def test_everything_arrives_in_order_whatever_the_link_does(network: Network, echo: int) -> None:
    data = random.Random(1).randbytes(300_000)
    link = network.link(echo, delay_s=0.002, jitter_s=0.003, loss=0.01, bytes_per_s=10_000_000, seed=3)
    assert _through(link, data) == data
    assert link.traffic.connections == 1
    assert (link.traffic.bytes_up, link.traffic.bytes_down) == (len(data), len(data))


def test_the_same_seed_loses_the_same_segments(network: Network, echo: int) -> None:
    data = bytes(100 * SEGMENT_BYTES)
    lost = []
    for seed in (7, 7, 8):
        link = network.link(echo, loss=0.05, seed=seed)
        assert _through(link, data) == data
        lost.append(link.traffic.lost_segments)
    assert lost[0] == lost[1]
    assert lost[0] > 0


def test_a_delay_is_there_both_ways(network: Network, echo: int) -> None:
    link = network.link(echo, delay_s=0.05)
    began_s = time.monotonic()
    assert _through(link, b"ping") == b"ping"
    assert time.monotonic() - began_s >= 0.1


def test_a_lost_segment_is_late_by_the_retransmission_timeout_doubled_each_time() -> None:
    class Dice(random.Random):
        def __init__(self, *rolls: float) -> None:
            super().__init__(0)
            self.rolls = list(rolls)

        def random(self) -> float:
            return self.rolls.pop(0)

    late_s, lost = lateness_s(Dice(0.5, 0.0, 0.0, 0.9), Faults(delay_s=1.0, jitter_s=0.1, loss=0.5))
    assert lost == 2
    assert late_s == pytest.approx(1.0 + 0.05 + RETRANSMISSION_S + 2 * RETRANSMISSION_S)


def test_nothing_passes_a_parted_link_until_it_heals(network: Network, echo: int) -> None:
    link = network.link(echo)
    with socket.create_connection(("127.0.0.1", link.port), timeout=120) as client:
        client.sendall(b"one")
        assert client.recv(3) == b"one"
        network.part()
        assert link.parted
        client.sendall(b"two")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(3)
        network.heal()
        client.settimeout(120)
        assert client.recv(3) == b"two"


def test_a_new_connection_through_a_parted_link_gets_no_answer(network: Network, echo: int) -> None:
    link = network.link(echo)
    link.part()
    with socket.create_connection(("127.0.0.1", link.port), timeout=0.2) as client:
        client.sendall(b"hello")
        with pytest.raises(TimeoutError):
            client.recv(5)


def test_connections_can_be_reset(network: Network, echo: int) -> None:
    link = network.link(echo)
    with socket.create_connection(("127.0.0.1", link.port), timeout=120) as client:
        client.sendall(b"one")
        assert client.recv(3) == b"one"
        link.reset_connections()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_server_that_is_not_there_ends_the_connection(network: Network) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    link = network.link(port)
    with (
        socket.create_connection(("127.0.0.1", link.port), timeout=120) as client,
        contextlib.suppress(ConnectionResetError),
    ):
        assert client.recv(1) == b""
    assert link.traffic.refused == 1


def test_faults_can_change_while_a_connection_is_open(network: Network, echo: int) -> None:
    link = network.link(echo)
    with socket.create_connection(("127.0.0.1", link.port), timeout=120) as client:
        link.change(delay_s=0.05)
        began_s = time.monotonic()
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert time.monotonic() - began_s >= 0.1


def test_closing_leaves_no_listener_and_no_thread() -> None:
    network = Network()
    link = network.link(9)
    network.close()
    assert not any(thread.name == "edgefleet-network" for thread in threading.enumerate())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", link.port), timeout=120)


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"delay_s": -1.0}, "a link cannot have a delay of -1.0 s, a jitter of 0.0 s and a loss of 0.0"),
        ({"loss": 1.0}, "a link cannot have a delay of 0.0 s, a jitter of 0.0 s and a loss of 1.0"),
        ({"bytes_per_s": 0.0}, "a link cannot carry 0.0 bytes a second"),
    ],
)
def test_faults_that_no_link_has_are_refused(network: Network, faults: dict[str, float], message: str) -> None:
    with pytest.raises(InputError) as refused:
        network.link(9, **faults)  # type: ignore[arg-type]
    assert refused.value.message == message


@given(st.integers(0, 2**32), st.floats(0, 0.9))
def test_lateness_is_never_less_than_the_delay(seed: int, loss: float) -> None:
    late_s, lost = lateness_s(random.Random(seed), Faults(delay_s=0.1, jitter_s=0.2, loss=loss))
    assert 0.1 + RETRANSMISSION_S * (2**lost - 1) <= late_s <= 0.3 + RETRANSMISSION_S * (2**lost - 1) + 1e-9
