# SPDX-License-Identifier: Apache-2.0
"""What Linux says of a process and its threads: processor time, and who sleeps (proc(5), stat)."""

import os
from contextlib import suppress
from pathlib import Path

from device_agent.core.evidence.silence import Exertion

_ASLEEP = ("S", "I")
#: Fields of a stat line behind the name in parentheses.
_STATE, _USER_TICKS, _SYSTEM_TICKS = 0, 11, 12


def exertion_of(pid: int, thread: int | None = None) -> Exertion | None:
    """Return what a process has done, or one thread of it (0: the first); None if it is gone.

    Beside a thread that is not the first, the first is left out: it goes on by itself.
    """
    threads = _threads(Path(f"/proc/{pid}/task"))
    if not threads:
        return None
    of = threads if thread is None else {thread or pid}
    ticks = sum(int(threads[number][at]) for number in of if number in threads for at in (_USER_TICKS, _SYSTEM_TICKS))
    looked_at = [number for number in threads if thread in (None, 0, number) or number != pid]
    asleep = all(threads[number][_STATE] in _ASLEEP for number in looked_at)
    return Exertion(ticks / os.sysconf("SC_CLK_TCK"), asleep)


def _threads(folder: Path) -> dict[int, list[str]]:
    """Return the fields of each thread's stat; threads come and go meanwhile."""
    found = {}
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            with suppress(OSError):
                found[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
    return found
