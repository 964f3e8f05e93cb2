# SPDX-License-Identifier: Apache-2.0
"""The web process's side of the signer: start it as a child, ask it, and map its refusals back into errors."""

import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TypeVar

import msgspec

from edgefleet.contracts.enrolment import SignedRenewal
from edgefleet.contracts.errors import StorageError, TrustError, UnreachableError
from fleet_server.adapters.access.problems import error_class
from fleet_server.signer.requests import (
    Decommission,
    OpenRollout,
    Refused,
    RenewCertificate,
    Request,
    SignAssignment,
    SignCertificate,
    Signed,
    SignedAssignment,
    SignSnapshot,
    SignTimestamp,
    decode_answer,
    receive_frame,
    send_frame,
)

A = TypeVar("A", Signed, SignedAssignment)


class SignerProcess:
    """A running signer. Requests may come from any thread and are answered one after the other."""

    def __init__(self, folder: Path, *, time_scale: float = 1.0) -> None:
        self._folder = folder
        self._time_scale = time_scale
        self._asking = threading.Lock()
        self._process, self._channel = self._start()

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        descriptor = theirs.fileno()
        command = [sys.executable, "-m", "fleet_server.signer", str(self._folder), str(descriptor)]
        try:
            process = subprocess.Popen(
                [*command, repr(self._time_scale)],
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        except OSError as error:
            ours.close()
            raise UnreachableError(f"the signer does not start: {error}", hint="check the installation") from error
        finally:
            theirs.close()
        return process, ours

    @property
    def pid(self) -> int:
        """The signer's process id."""
        return self._process.pid

    def sign_snapshot(self, request: SignSnapshot) -> bytes:
        """Return signed snapshot metadata."""
        return self._ask(request, Signed).content

    def sign_timestamp(self, request: SignTimestamp) -> bytes:
        """Return signed timestamp metadata."""
        return self._ask(request, Signed).content

    def open_rollout(self, request: OpenRollout) -> None:
        """Tell the signer that an approved release may spread from now on."""
        self._ask(request, Signed)

    def sign_assignment(self, request: SignAssignment) -> SignedAssignment:
        """Return the director's metadata for one device."""
        return self._ask(request, SignedAssignment)

    def sign_certificate(self, request: SignCertificate) -> str:
        """Return a device certificate as PEM."""
        return self._ask(request, Signed).content.decode()

    def renew_certificate(self, proof: SignedRenewal) -> str:
        """Return a device's next certificate as PEM."""
        return self._ask(RenewCertificate(proof=proof), Signed).content.decode()

    def decommission(self, device: str) -> None:
        """Let nothing be signed for a device any more."""
        self._ask(Decommission(device=device), Signed)

    def close(self) -> None:
        """Close the socket, upon which the signer ends, and wait for it."""
        self._channel.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, request: Request, kind: type[A]) -> A:
        with self._asking:
            self._restart_if_ended()
            try:
                send_frame(self._channel, request)
                data = receive_frame(self._channel)
            except OSError as error:
                raise self._gone() from error
        if data is None:
            raise self._gone()
        try:
            answer = decode_answer(data)
        except msgspec.MsgspecError as error:
            raise StorageError(f"the signer's answer is malformed: {error}", hint="restart the server") from error
        if isinstance(answer, Refused):
            raise error_class(answer.code, TrustError)(answer.message, hint=answer.hint)
        assert isinstance(answer, kind)  # noqa: S101 - both sides are of one version
        return answer

    def _restart_if_ended(self) -> None:
        """Start the signer again if it was killed; it knows from its own log what it has signed."""
        if self._process.poll() is not None:
            self._channel.close()
            self._process, self._channel = self._start()

    def _gone(self) -> UnreachableError:
        return UnreachableError(
            "the signer has ended; its message is on the server's standard error",
            hint="check DIR/signer and start the server again",
        )
