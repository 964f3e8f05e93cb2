# SPDX-License-Identifier: Apache-2.0
"""A thousand SIGKILLs of the worker: the supervisor lives on and does not grow, and above the limit the model is left.

    python -m benchmarks.campaign_worker_kills [--kills 1000]

``edgefleet-agent run`` has two releases and a factory model; its server is away, and an application asks every 5 ms.

paced    SIGKILLs so far apart that each is a first one (a minute of the agent's time, of which 200 s pass in a second).
         The baseline is the supervisor after some kills; it must be the same process at the end, without zombies.
storm    SIGKILLs as soon as there is an answer again, at the device's own pace: restarts wait longer and longer, and
         no model is blamed, for a SIGKILL comes from outside.
above    SIGSEGVs, which are the model's: the fifth within ten minutes is a crash loop. The release is left for the one
         before; where that one crashes as often, the factory model answers in safe mode.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.live_device import LiveAgent, LiveDevice, wait_for
from benchmarks.process_figures import memory
from benchmarks.record import write
from benchmarks.zoo_device import DIGITS, pack
from device_agent.core.schedule import CRASH_LOOP_LIMIT, STEADY_S
from fleet_emulation.listeners import with_descendants

GROWTH_LIMIT_MIB = 2.0
_SCALE = 200.0
_PACE_S = 1.1 * STEADY_S / _SCALE
_WARM_KILLS = 50
_SETTINGS = 'factory_model = "{factory}"\npoll_s = {poll_s}\ntelemetry_s = {telemetry_s}\n'
#: Real seconds between two polls, and two messages of telemetry.
_POLL_S, _TELEMETRY_S = 0.5, 60.0
_START_TIME = 19


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="ef-") as name:
        result = kills(Path(name), options.kills)
    write("campaign_worker_kills", {"baseline": "the supervisor's memory after its first kills", **result})
    return 0 if not result["supervisor_restarts"] and result["supervisor_grew_mib"] <= GROWTH_LIMIT_MIB else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    return parser.parse_args()


def kills(folder: Path, count: int, *, storm: int = 6) -> dict[str, Any]:
    """Kill the worker so many times, and tell how the supervisor and the application took it."""
    good = (DIGITS / "v1_float32.tflite").read_bytes()
    first, second, factory = (pack(good, version) for version in ("1.0.0", "2.0.0", "0.9.0"))
    (folder / "factory.bundle").write_bytes(factory.data)
    with LiveDevice(folder / "live", first) as device:
        with device.agent(_settings(folder)) as agent:
            agent.wait_until_committed(first)
            device.order(second)
            agent.wait_until_committed(second)
        with device.agent(_settings(folder, _SCALE), time_scale=_SCALE) as agent:
            paced = _paced(agent, count)
        with device.agent(_settings(folder)) as agent:
            agent.wait_for_answer("digits 2.0.0")
            stormy_s = [_killed(agent, signal.SIGKILL, "digits 2.0.0") for _ in range(storm)]
            blamed = agent.record.quarantine
        above = [
            _crash_loop(device, folder, "digits 2.0.0", "digits 1.0.0"),
            _crash_loop(device, folder, "digits 1.0.0", "digits 0.9.0"),
        ]
    return paced | {
        "storm_back_s": [round(seconds, 3) for seconds in stormy_s],
        "storm_blamed": len(blamed),
        "above_the_limit": above,
    }


def _settings(folder: Path, scale: float = 1.0) -> str:
    periods = {"poll_s": _POLL_S * scale, "telemetry_s": _TELEMETRY_S * scale}
    return _SETTINGS.format(factory=folder / "factory.bundle", **periods)


def _paced(agent: LiveAgent, count: int) -> dict[str, Any]:
    agent.wait_for_answer("digits 2.0.0")
    pid, started = agent.program.pid, _started(agent.program.pid)
    warm = min(_WARM_KILLS, count // 2)
    back_s: list[float] = []
    before = _taken(pid)
    for number in range(count):
        if number == warm:
            before = _taken(pid)
        until = time.monotonic() + _PACE_S
        back_s.append(_killed(agent, signal.SIGKILL, "digits 2.0.0"))
        time.sleep(max(until - time.monotonic(), 0.0))
    after = _taken(pid)
    lives = agent.program.running and _started(pid) == started
    return {
        "kills": count,
        "time_scale": _SCALE,
        "supervisor_restarts": 0 if lives else 1,
        "supervisor_before": before,
        "supervisor_after": after,
        "supervisor_grew_mib": round(after["pss_mib"] - before["pss_mib"], 2),
        "zombies": _zombies(pid),
        "application": agent.application.tally(),
        "back_p50_s": round(sorted(back_s)[len(back_s) // 2], 3),
        "back_slowest_s": round(max(back_s), 3),
    }


def _crash_loop(device: LiveDevice, folder: Path, release: str, then: str) -> dict[str, Any]:
    """Let the model of a release crash as often as it takes, and return what the agent did about it."""
    with device.agent(_settings(folder)) as agent:
        since = agent.wait_for_answer(release).answered_at
        for _ in range(CRASH_LOOP_LIMIT - 1):
            _killed(agent, signal.SIGSEGV, release)
        back_s = _killed(agent, signal.SIGSEGV, then)
        wait_for(lambda: agent.record.status in ("idle", "safe-mode"), "the end of the way back", agent.program)
        told = [told.event for told in agent.told(since) if told.event.kind != "agent-started"]
        return {
            "crashes": CRASH_LOOP_LIMIT,
            "events": [f"{event.kind} ({event.cause})" for event in told],
            "then_answers": then,
            "then_state": agent.record.status,
            "back_s": round(back_s, 3),
            "application": agent.application.tally(),
        }


def _killed(agent: LiveAgent, number: signal.Signals, release: str) -> float:
    """End the worker by a signal, and return the seconds until a release answers from another one."""
    (worker,) = agent.workers()
    killed_at = time.time()
    os.kill(worker, number)
    wait_for(lambda: [pid for pid in agent.workers() if pid != worker], "another worker", agent.program)
    return agent.wait_for_answer(release, time.time()).answered_at - killed_at


def _started(pid: int) -> int:
    """Return when a process started, in ticks since the machine did (proc(5), stat)."""
    return int(_stat(pid)[_START_TIME])


def _zombies(pid: int) -> int:
    states = []
    for child in with_descendants([pid]):
        with suppress(OSError):  # it ended, and was reaped
            states.append(_stat(child)[0])
    return states.count("Z")


def _stat(pid: int) -> list[str]:
    """Return what the kernel says of a process, from its state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _taken(pid: int) -> dict[str, Any]:
    """Return what a process takes: memory, and open files."""
    return memory(pid) | {"files": len(list(Path(f"/proc/{pid}/fd").iterdir()))}


if __name__ == "__main__":
    sys.exit(main())
