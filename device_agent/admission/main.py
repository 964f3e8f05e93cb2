# SPDX-License-Identifier: Apache-2.0
"""The admission child: ``python -m device_agent.admission.main PARENT_PID CPU_SECONDS``.

The request comes on stdin, the verdict goes to stdout. Before it loads anything of the bundle, the child leaves the
network, bounds its processor time, memory and open files, and gives up writing files.
"""

import sys

import msgspec

from device_agent.core.serving import AdmissionRequest
from device_agent.process_bounds import (
    be_first_to_go,
    die_with_parent,
    half_of_memory_bytes,
    leave_network,
    limit_resources,
)

_OPEN_FILES = 64


def main(arguments: list[str]) -> int:
    """Check one bundle."""
    parent_pid, cpu_s = (int(argument) for argument in arguments)
    die_with_parent(parent_pid)
    leave_network()  # where the kernel refuses, the limits below still hold
    be_first_to_go()
    limit_resources(cpu_s=cpu_s, open_files=_OPEN_FILES, memory_bytes=half_of_memory_bytes())
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=AdmissionRequest)
    from device_agent.admission.checks import admit

    sys.stdout.buffer.write(msgspec.json.encode(admit(request)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
