# SPDX-License-Identifier: Apache-2.0
"""The admission child: ``python -m device_agent.admission.main PARENT_PID CPU_SECONDS``.

The request comes on stdin, the verdict goes to stdout. Before it opens the bundle, the child leaves the network, bounds
its processor time, memory and open files, and gives up everything but reading that one file and its runtime's.
"""

import sys
from pathlib import Path

import msgspec

from device_agent.core.serving import AdmissionRequest
from device_agent.process_bounds import (
    be_first_to_go,
    die_with_parent,
    half_of_memory_bytes,
    leave_network,
    limit_resources,
)
from device_agent.sandbox.confinement import confine

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

    confine([Path(ref.path) for ref in (request.model, *request.beside)])
    sys.stdout.buffer.write(msgspec.json.encode(admit(request)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
