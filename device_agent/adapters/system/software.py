# SPDX-License-Identifier: Apache-2.0
"""Which software runs here: the agent's version and its runtime's, read without importing any of it."""

import sys
from pathlib import Path

from device_agent.core.life.record import Software
from edgefleet.version import __version__

_RUNTIMES = ("ai_edge_litert", "tflite_runtime")


def installed_software() -> Software:
    """Return the agent's version and the runtime's name and version (``none`` where none is installed)."""
    for name in _RUNTIMES:
        for folder in map(Path, sys.path):  # packages may lie in a folder of the agent's own
            for found in sorted(folder.glob(f"{name}-*.dist-info")):
                version = found.name.removeprefix(f"{name}-").removesuffix(".dist-info")
                return Software(agent=__version__, runtime=f"{name.replace('_', '-')} {version}")
    return Software(agent=__version__, runtime="none")
