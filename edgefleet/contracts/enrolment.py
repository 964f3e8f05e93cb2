# SPDX-License-Identifier: Apache-2.0
"""How a device joins: a ticket carried to it by a person, a request with a key made on the device, and the answer."""

from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.names import Name

ENROL_PATH = "/v1/enrol"


class HardwareFacts(Fact, frozen=True, kw_only=True):
    """What the agent observed of its own board."""

    architecture: str
    kernel: str
    cpu_count: int
    memory_bytes: int
    python: str
    runtime: str


class BrokerAddress(Fact, frozen=True, kw_only=True):
    """Where the MQTT broker listens; with ``tls`` the device shows its certificate."""

    host: str
    port: int
    tls: bool


class EnrolmentTicket(Fact, frozen=True, kw_only=True):
    """A file that a person carries to the device: where to go, a one-time secret, and what to trust from then on.

    ``image_root`` and ``director_root`` are root metadata (JSON text); they come by this trusted way, never from the
    network. ``ca_pem`` is the certificate authority of the server's TLS listener.
    """

    server_url: str
    tenant: Name
    device: Name
    profile: Name
    token: str
    ca_pem: str
    image_root: str
    director_root: str


class EnrolmentRequest(Fact, frozen=True, kw_only=True):
    """What the device sends: the ticket's secret, a certificate request for a key that never leaves it, facts."""

    device: Name
    token: str
    csr_pem: str
    facts: HardwareFacts


class EnrolmentAnswer(Fact, frozen=True, kw_only=True):
    """What the server answers: the device's certificate chain and the broker (absent: HTTPS polling only)."""

    certificate_pem: str
    broker: BrokerAddress | None = None
