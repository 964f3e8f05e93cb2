# SPDX-License-Identifier: Apache-2.0
"""``python -m device_agent.capture_upload PARENT_PID DATA``: hand captured inputs to the server, and end."""

import sys
from pathlib import Path

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.network.https import ServerConnection
from device_agent.adapters.storage.capture_folder import CaptureFolder
from device_agent.adapters.verification.trust_memory_file import known_time
from device_agent.process_bounds import be_first_to_go, die_with_parent
from edgefleet.contracts.errors import EdgeFleetError


def main(arguments: list[str]) -> int:
    """Upload until nothing is left, or the server takes no more."""
    parent_pid, data = arguments
    die_with_parent(int(parent_pid))
    be_first_to_go()
    folder = DataFolder(Path(data))
    captures = CaptureFolder(folder.captures)
    try:
        server_url = folder.read_identity().server_url
        files = {"ca": folder.ca, "certificate": folder.certificate, "key": folder.key}
        connection = ServerConnection(server_url, **files, bound=known_time(folder.trust))
        while captures.upload(connection):
            continue
    except EdgeFleetError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
