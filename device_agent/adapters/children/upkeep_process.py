# SPDX-License-Identifier: Apache-2.0
"""A round of upkeep in a process of its own, which ends with it."""

import os
import subprocess
import sys

import msgspec

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.core.upkeep import UpkeepResult
from edgefleet.contracts.errors import EdgeFleetError

ROUND_LIMIT_S = 300.0
_HINT = "the agent tries again by itself"


class UpkeepProcess:
    """The port ``Upkeep``; the calling thread must live as long as the agent: the kernel ties the child to it."""

    def __init__(self, folder: DataFolder, *, limit_s: float = ROUND_LIMIT_S) -> None:
        self._folder = folder
        self._limit_s = limit_s

    def round(self) -> UpkeepResult:
        """Do one round.

        Raises:
            EdgeFleetError: the process failed or took too long.
        """
        command = [sys.executable, "-m", "device_agent.upkeep.main", str(os.getpid()), str(self._folder.root)]
        try:
            ran = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=self._limit_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise EdgeFleetError(f"upkeep took longer than {self._limit_s:g} s", hint=_HINT) from error
        if ran.returncode != 0:
            said = ran.stderr.decode(errors="replace").strip().splitlines()
            raise EdgeFleetError(f"upkeep failed: {said[-1][:300] if said else ran.returncode}", hint=_HINT)
        try:
            return msgspec.json.decode(ran.stdout, type=UpkeepResult)
        except msgspec.MsgspecError as error:
            raise EdgeFleetError(f"upkeep answered nonsense: {error}", hint=_HINT) from error
