# SPDX-License-Identifier: Apache-2.0
"""Here the fixture ``edgefleet`` is the plugin's; the tests around use the name for the command."""

from fleet_emulation.pytest_plugin import edgefleet

__all__ = ["edgefleet"]
