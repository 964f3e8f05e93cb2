# SPDX-License-Identifier: Apache-2.0
"""The process: ``python -m device_agent.repositories.main CALLS_FD PARENT_PID LINGER_S RESERVE_BYTES DATA``.

It answers one call after another and ends by itself when none came for a while, so that an idle device does not keep
python-tuf, cryptography and an HTTP client in memory. What it has verified lies in the data folder, not in here.
"""

import signal
import socket
import sys
from functools import cached_property
from pathlib import Path

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.control_channel import ControlChannel
from device_agent.core.orders.repository_calls import Agreed, Answer, Call, CheckBoth, Fetched, failed
from device_agent.process_bounds import be_first_to_go, die_with_parent
from device_agent.repositories.in_process import InProcessRepositories
from edgefleet.contracts.errors import EdgeFleetError


class Answering:
    """Answers calls for one device."""

    def __init__(self, folder: DataFolder, *, reserve_bytes: int) -> None:
        self._folder = folder
        self._reserve_bytes = reserve_bytes

    def answer(self, call: Call) -> Answer:
        """Do what is asked; the errors that the port promises are answers."""
        try:
            if isinstance(call, CheckBoth):
                order = self._repositories.check(call.seen_counter)
                return Agreed(order=order, agreement=self._repositories.agreement)
            path = self._repositories.fetch(call.target, lambda: False)  # who gives up a download ends this process
            return Fetched(path=str(path))
        except EdgeFleetError as error:
            return failed(error)

    @cached_property
    def _repositories(self) -> InProcessRepositories:
        return InProcessRepositories(self._folder, reserve_bytes=self._reserve_bytes)


def main(arguments: list[str]) -> int:
    """Answer calls until nobody asks any more."""
    calls_fd, parent_pid, linger_s, reserve_bytes, data = arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's to handle; it then ends this process
    die_with_parent(int(parent_pid))
    be_first_to_go()
    answering = Answering(DataFolder(Path(data)), reserve_bytes=int(reserve_bytes))
    calls = socket.socket(fileno=int(calls_fd))
    calls.settimeout(float(linger_s))
    channel = ControlChannel(calls)
    while (received := channel.receive(Call)) is not None:
        for call in received:
            channel.send(answering.answer(call))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
