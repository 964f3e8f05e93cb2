# SPDX-License-Identifier: Apache-2.0
"""What processes take, as the kernel counts it: memory (proc(5), smaps) and processor time (schedstat)."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_KIB = 1024
_NS = 1e9
#: Fields of /proc/PID/stat after the name: processor time of children that have ended, in ticks.
_ENDED_CHILDREN = slice(13, 15)


def memory(pid: int) -> dict[str, Any]:
    """Return one process's memory in MiB: PSS counts shared pages once, divided among those who share them."""
    held = _rollup(pid)
    figures = {"pss_mib": "Pss", "pss_anon_mib": "Pss_Anon", "rss_mib": "Rss"}
    return {name: mib(held[line]) for name, line in figures.items()}


def pss_bytes(pids: Sequence[int]) -> int:
    """Return the PSS of some processes together."""
    return sum(_rollup(pid)["Pss"] for pid in pids)


def alone_bytes(pids: Sequence[int]) -> int:
    """Return what processes would take if nobody else mapped the same files."""
    anonymous = 0
    by_file: dict[str, int] = {}
    for pid in pids:
        for place, held in _mappings(pid):
            anonymous += held["Anonymous"]
            by_file[place] = max(by_file.get(place, 0), held["Rss"] - held["Anonymous"])
    return anonymous + sum(by_file.values())


def cpu_s(pids: Sequence[int]) -> float:
    """Return the processor time of processes that live, all threads, to the nanosecond."""
    tasks = [path for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(path.read_text().split()[0]) for path in tasks) / _NS


def ended_children_cpu_s(pid: int) -> float:
    """Return the processor time of a process's children that have ended, to a tick."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[_ENDED_CHILDREN]) / os.sysconf("SC_CLK_TCK")


def wakeups(pids: Sequence[int]) -> dict[str, int]:
    """Return how often each thread went to sleep of itself so far, by ``PID/THREAD``."""
    counts = {}
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            lines = (task / "status").read_text().splitlines()
            counts[f"{pid}/{task.name}"] = next(
                int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches")
            )
    return counts


def mib(size_bytes: int) -> float:
    """Return bytes as MiB with one digit."""
    return round(size_bytes / (1 << 20), 1)


def _mappings(pid: int) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield each mapping's file and offset, and its figures in bytes (proc(5), smaps)."""
    place, held = "", {"Rss": 0, "Anonymous": 0}
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *words = line.split()
        if name.endswith(":"):
            held[name[:-1]] = int(words[0]) * _KIB if words[0].isdigit() else 0
            continue
        yield place, held
        place, held = " ".join([words[1], *words[3:]]), {"Rss": 0, "Anonymous": 0}
    yield place, held


def _rollup(pid: int) -> dict[str, int]:
    """Return the sums over all of a process's mappings, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * _KIB for line in lines}
