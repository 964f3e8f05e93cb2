# SPDX-License-Identifier: Apache-2.0
"""``python -m fleet_server.signer FOLDER FD TIME_SCALE``: answer requests on an inherited socket until it closes."""

import fcntl
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec
from tuf.api.exceptions import RepositoryError

from edgefleet.contracts.errors import EdgeFleetError
from fleet_server.adapters.keys.certificates import DEVICE_CERTIFICATE_DAYS, KeyedCertificate
from fleet_server.adapters.keys.key_files import load_signer
from fleet_server.core.trust.tuf_types import Metadata, Root
from fleet_server.signer.requests import Refused, decode_request, receive_frame, send_frame
from fleet_server.signer.service import SignerService


def load_service(folder: Path, time_scale: float) -> SignerService:
    """Open the signer's folder: keys, root, authority and log."""
    return SignerService(
        folder,
        tenant=(folder / "tenant").read_text().strip(),
        root=Metadata[Root].from_file(str(folder / "image-root.json")),
        image_key=load_signer(folder, "image"),
        director_key=load_signer(folder, "director"),
        authority=KeyedCertificate(
            (folder / "device-authority.crt").read_bytes(), (folder / "device-authority.key").read_bytes()
        ),
        clock=time.time,
        time_scale=time_scale,
        certificate_days=read_days(folder / "certificate-days"),
    )


def read_days(path: Path) -> float:
    """Return how long device certificates hold; the usual time where ``server init`` fixed no other."""
    return float(path.read_text()) if path.exists() else DEVICE_CERTIFICATE_DAYS


def serve(channel: socket.socket, service: SignerService) -> None:
    """Answer one request after the other until the web process is gone."""
    while (data := receive_frame(channel)) is not None:
        try:
            request = decode_request(data)
        except msgspec.MsgspecError as error:
            send_frame(channel, Refused(code="message-invalid", message=f"malformed request: {error}", hint="update"))
            continue
        send_frame(channel, service.answer(request))


def main() -> None:
    """Run the signer; the lock keeps a second one out while an earlier one still ends."""
    folder, descriptor, time_scale = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle; it then closes the socket
    with socket.socket(fileno=descriptor) as channel, (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            service = load_service(folder, time_scale)
        except (
            EdgeFleetError,
            RepositoryError,
            OSError,
            ValueError,
        ) as error:  # ValueError: a key or a file that is none
            sys.exit(f"error: the signer cannot start: {error}\nhint: restore '{folder}' from a backup")
        serve(channel, service)


if __name__ == "__main__":
    main()
