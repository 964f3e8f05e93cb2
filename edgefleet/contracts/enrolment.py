# SPDX-License-Identifier: Apache-2.0
"""How a device joins and stays: enrolment by ticket, renewal of its certificate, and the check-in.

Enrolment: a ticket carried to the device by a person, a request with a key made there, and the answer.

Renewal: the device makes a fresh key, and signs the request for its certificate with the key of the present one. It
sends that over TLS with the present certificate, or without any once that has lapsed; the proof is the same.

Check-in: what the device observed of its own board where that changed, and the *instance token* of the check-in
before, upon which it gets the next one. Two devices that share one identity cannot both keep such a chain.
"""

from typing import Annotated

import msgspec

from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.names import Name

ENROL_PATH = "/v1/enrol"
RENEW_PATH = "/v1/renew"
CHECK_IN_PATH = "/v1/check-in"
#: What a renewal's signature covers before the request itself, so that it can stand for nothing else.
RENEWAL_PURPOSE = b"edgefleet certificate renewal 1\n"


class Grows(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what devices and servers of different age exchange: unknown fields are passed over, defaults left out."""


class HardwareFacts(Grows, frozen=True, kw_only=True):
    """What the agent observed of its own board. Fields are added, never taken away.

    The first six are as old as enrolment, and only they may go into an :class:`EnrolmentRequest`, which servers of
    before refuse with any other. ``runtime`` names the first of ``runtimes``. ``accelerators`` are device nodes and
    PCI and USB ids (``node:apex_0``, ``pci:1ac1:089a``, ``usb:1a6e:089a``). ``order_kinds`` says what the
    agent's orders may list beside bundles.
    """

    architecture: str
    kernel: str
    cpu_count: int
    memory_bytes: int
    python: str
    runtime: str
    board: str = ""
    soc: str = ""
    cpu_model: str = ""
    cpu_features: tuple[str, ...] = ()
    accelerators: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    agent_version: str = ""
    order_kinds: tuple[str, ...] = ()

    def first(self) -> "HardwareFacts":
        """Return the facts that every server takes."""
        return HardwareFacts(
            architecture=self.architecture,
            kernel=self.kernel,
            cpu_count=self.cpu_count,
            memory_bytes=self.memory_bytes,
            python=self.python,
            runtime=self.runtime,
        )


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


class RenewalRequest(Fact, frozen=True, kw_only=True):
    """Which certificate is to be followed by one for which key; both as PEM."""

    tenant: Name
    device: Name
    certificate_pem: str
    csr_pem: str


class SignedRenewal(Fact, frozen=True, kw_only=True):
    """A renewal with its proof.

    ``request`` is the JSON text of a :class:`RenewalRequest`; ``signature`` (hexadecimal, DER) is by ECDSA with
    SHA-256 over :data:`RENEWAL_PURPOSE` and that text, with the key of the certificate that the request shows.
    """

    request: Annotated[str, msgspec.Meta(max_length=32 << 10)]
    signature: Annotated[str, msgspec.Meta(max_length=512)]


class RenewalAnswer(Grows, frozen=True, kw_only=True):
    """The next certificate. The one before holds until this one is first used."""

    certificate_pem: str


class CheckIn(Grows, frozen=True, kw_only=True):
    """What a device says of itself now and then; ``facts`` only where they are not the ones it sent last.

    ``attempt`` is random: the same request that came twice gets the same answer.
    """

    attempt: Annotated[str, msgspec.Meta(max_length=64)] = ""
    instance: Annotated[str, msgspec.Meta(max_length=128)] = ""
    facts: HardwareFacts | None = None


class CheckInAnswer(Grows, frozen=True, kw_only=True):
    """The next instance token, and whether the server misses the device's facts."""

    instance: str = ""
    facts_wanted: bool = False
