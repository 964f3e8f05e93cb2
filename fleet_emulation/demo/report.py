# SPDX-License-Identifier: Apache-2.0
"""What the demo observed, as data and as a table for people."""

from edgefleet.contracts.manifest import Fact, Natural


class StoryReport(Fact, frozen=True, kw_only=True):
    """One story: what happened, who caught it, and whether it ended as told.

    ``seconds`` runs from the cause to the recovery (or to the end of the roll-out of a good release). ``evidence``
    are sentences made from the agents' and the server's own records.
    """

    key: str
    title: str
    caught_by: str
    as_told: bool
    seconds: float
    evidence: tuple[str, ...]


class RequestReport(Fact, frozen=True, kw_only=True):
    """Requests of the applications on the real agents (``failures`` says why some failed), and of simulated devices."""

    served: Natural
    failed: Natural
    failures: tuple[str, ...]
    over_200_ms: Natural
    slowest_ms: float
    simulated_served: Natural
    simulated_failed: Natural


class ListenerReport(Fact, frozen=True, kw_only=True):
    """One listening TCP socket of the demo's processes."""

    program: str
    address: str
    port: Natural
    on_loopback: bool


class DemoReport(Fact, frozen=True, kw_only=True):
    """The demo's one JSON document."""

    seed: int
    seconds: float
    broker: str
    devices: Natural
    time_scale: float
    stories: tuple[StoryReport, ...]
    requests: RequestReport
    listeners: tuple[ListenerReport, ...]
    all_as_told: bool


def render(report: DemoReport) -> str:
    """Return the closing table: what happened, who caught it, seconds from cause to recovery, requests."""
    widths = (max(len(s.title) for s in report.stories), max(len(s.caught_by) for s in report.stories))
    lines = [f"  {'what happened':{widths[0]}}  {'who caught it':{widths[1]}}  seconds  as told"]
    lines += [
        f"  {s.title:{widths[0]}}  {s.caught_by:{widths[1]}}  {s.seconds:7.1f}  {'yes' if s.as_told else 'NO'}"
        for s in report.stories
    ]
    lines += ["", *_requests(report.requests), *_closing(report)]
    return "\n".join(lines)


def _requests(requests: RequestReport) -> list[str]:
    return [
        f"  requests on 4 agents: {requests.served} served, {requests.failed} failed, "
        f"{requests.over_200_ms} over 200 ms (slowest {requests.slowest_ms:.0f} ms)",
        *(f"    failed: {why}" for why in dict.fromkeys(requests.failures)),
        f"  requests on simulated devices: {requests.simulated_served} served, {requests.simulated_failed} failed",
    ]


def _closing(report: DemoReport) -> list[str]:
    elsewhere = [listener for listener in report.listeners if not listener.on_loopback]
    where = ", ".join(sorted({f"{x.address}:{x.port} ({x.program})" for x in report.listeners}))
    told = sum(story.as_told for story in report.stories)
    return [
        f"  listeners: {where}; {'all on loopback' if not elsewhere else 'NOT all on loopback'}",
        f"  {told} of {len(report.stories)} stories ended as told, {report.devices} devices, seed {report.seed}, "
        f"{report.seconds:.0f} s",
    ]
