# SPDX-License-Identifier: Apache-2.0
"""The process: ``python -m device_agent.upkeep.main PARENT_PID DATA``: one round, its result on standard output.

An idle device keeps neither cryptography nor an HTTP client in memory, and has no process for this between rounds.
"""

import sys
import time
from pathlib import Path

import msgspec

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.process_bounds import be_first_to_go, die_with_parent
from device_agent.upkeep.in_process import InProcessUpkeep
from edgefleet.contracts.errors import EdgeFleetError


def main(arguments: list[str]) -> int:
    """Do one round; 1 with one sentence on standard error if it could not even begin."""
    parent_pid, data = arguments
    die_with_parent(int(parent_pid))
    be_first_to_go()
    try:
        result = InProcessUpkeep(DataFolder(Path(data)), time.time).round()
    except EdgeFleetError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(msgspec.json.encode(result).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
