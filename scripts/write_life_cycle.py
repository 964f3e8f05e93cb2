# SPDX-License-Identifier: Apache-2.0
"""Writes the diagram and the tables of docs/explanation/device-life-cycle.md from what the agent goes by.

Run it with ``python scripts/write_life_cycle.py``. A test compares the page with what it would write.
"""

import sys
from pathlib import Path

from device_agent.core.life.lifecycle import DEADLINES_S, LIVE, RESUME, STATUSES, TRANSITIONS
from device_agent.core.schedule import CRASH_LOOP_LIMIT, CRASH_WINDOW_S, RESTART, STEADY_S

PAGE = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "device-life-cycle.md"
BEGIN, END = "<!-- made by scripts/write_life_cycle.py: {} -->", "<!-- end of {} -->"
_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")


def page(text: str) -> str:
    """Return the page with its made parts as the agent's tables and figures are now."""
    for name, part in (("diagram", diagram()), ("states", states()), ("restarts", restarts())):
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n\n{part}\n\n{end}{after}"
    return text


def diagram() -> str:
    """Return the states and the triggers between them as a Mermaid diagram."""
    edges: dict[tuple[str, str], list[str]] = {}
    for (before, trigger), after in TRANSITIONS.items():
        edges.setdefault((before, after), []).append(trigger)
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> idle"]
    lines += [
        f"    {_node(before)} --> {_node(after)}: {', '.join(triggers)}" for (before, after), triggers in edges.items()
    ]
    names = [f'    state "{status}" as {_node(status)}' for status in STATUSES if _node(status) != status]
    return "\n".join([*lines[:2], *names, *lines[2:], "```"])


def states() -> str:
    """Return the table of states: the longest stay, and where a restart goes on."""
    lines = ["| state | longest stay | after a restart |", "|---|---|---|"]
    for status in STATUSES:
        resumed = RESUME[status]
        after = "the same state" if resumed == status else resumed
        lines.append(f"| {status} | {_stay(status)} | {after} |")
    lines.append("| anything unknown | – | rolling-back |")
    return "\n".join(lines)


def restarts() -> str:
    """Return the table of what the agent does about a worker that dies."""
    longest = f"{RESTART.delay_s(99, 0.0):g} to {RESTART.cap_s:g} s"
    rows = {
        "first restart": f"after {RESTART.delay_s(1, 0.0):g} to {RESTART.first_s:g} s, by chance",
        "each further one": f"after twice as long, at most {longest}",
        "a death is a first one again": f"{STEADY_S:g} s after the last one",
        "crash loop": f"{CRASH_LOOP_LIMIT} crashes and hangs of a good release within {_length(CRASH_WINDOW_S)}",
    }
    return "\n".join(["| what | when |", "|---|---|", *(f"| {what} | {when} |" for what, when in rows.items())])


def _node(status: str) -> str:
    return status.replace("-", "_")


def _stay(status: str) -> str:
    limit_s = DEADLINES_S.get(status)  # type: ignore[call-overload]
    if limit_s is None:
        return "a state of rest"
    return f"the policy's `limit_s` and {_length(limit_s)}" if status in LIVE else _length(limit_s)


def _length(seconds: float) -> str:
    length, unit = next((length, unit) for length, unit in _UNITS if seconds >= length)
    number = int(seconds // length)
    return f"{number} {unit}{'s' if number > 1 else ''}"


if __name__ == "__main__":
    main()
