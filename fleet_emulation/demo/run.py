# SPDX-License-Identifier: Apache-2.0
"""Runs the demo: sets the stage, tells the stories, and reports what was observed."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from edgefleet.contracts.errors import FileMissingError
from fleet_emulation.broker import BrokerKind
from fleet_emulation.demo.applications import Application
from fleet_emulation.demo.releases import Workshop
from fleet_emulation.demo.report import DemoReport, ListenerReport, RequestReport, StoryReport
from fleet_emulation.demo.stage import AGENTS, TIME_SCALE, Stage
from fleet_emulation.demo.stories import Teller
from fleet_emulation.live_stream import LiveStream

_REQUESTS_PER_S = 50.0
#: A trial of the example's policy has 100 requests: each sees the camera blank at least once, whatever the seed.
_BLANK_WITHIN = 80
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class DemoOptions:
    """What a run is told. ``once``: end after the last story; else the fleet goes on until Ctrl-C.

    ``broker_kind`` absent: mosquitto where it is installed, else amqtt.
    """

    folder: Path
    seed: int
    simulated: int
    once: bool
    broker_kind: BrokerKind | None = None


class Narrator:
    """Says each sentence on standard error, with the seconds since the start."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def __call__(self, sentence: str) -> None:
        """Say one sentence."""
        sys.stderr.write(f"{self.seconds:6.1f} s  {sentence}\n")
        sys.stderr.flush()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started


def example_folder() -> Path:
    """Return the digits example: beside the package in a wheel, in the repository otherwise.

    Raises:
        FileMissingError: it is in neither place.
    """
    for folder in (_PACKAGE / "digits", _PACKAGE.parent / "examples" / "digits"):
        if (folder / "digits.npz").exists():
            return folder
    raise FileMissingError("the example 'digits' is not installed", hint="install EdgeFleet again, with its data files")


def run_demo(options: DemoOptions) -> DemoReport:
    """Run all stories once and return what was observed.

    Raises:
        EdgeFleetError: the stage could not be set, or something that a story waits for never happened.
    """
    say = Narrator()
    stage = Stage(
        options.folder,
        example_folder(),
        seed=options.seed,
        simulated=options.simulated,
        broker_kind=options.broker_kind,
    )
    workshop = Workshop(stage)
    applications: list[Application] = []
    try:
        say(f"seed {options.seed}; everything is written to {options.folder} and listens on loopback only")
        _set_up(stage, workshop, say)
        applications += _start_applications(stage)
        stories = _tell_stories(Teller(stage, workshop, say))
        seconds = say.seconds
        found = stage.listening()
        if not options.once:
            _go_on(stage, say)
    finally:
        workshop.close()
        for application in applications:
            application.stop()
        stage.stop()
    return _report(stage, stories, applications, found, seconds)


def _set_up(stage: Stage, workshop: Workshop, say: Narrator) -> None:
    stage.set_up_server()
    workshop.release_ahead("1.0.0")
    assert stage.broker is not None  # noqa: S101  # set_up_server started it
    say(f"the server is up with two approvers' keys, 2 of 2 must sign; the broker is {stage.broker.kind}")
    say(f"watch the fleet at {stage.api_url} with the token in {stage.admin / 'token'}")
    stage.start_devices()
    workshop.release_ahead("2.0.0", "3.0.0", "4.0.0")
    workshop.convert_ahead("5.0.0")
    say(f"{len(AGENTS)} agents in processes of their own and {stage.simulated} simulated devices are enrolled")


def _start_applications(stage: Stage) -> list[Application]:
    return [
        Application(
            agent.device,
            agent.socket,
            LiveStream(stage.examples / "digits.npz", seed=stage.seed * 100 + number, blank_within=_BLANK_WITHIN),
            requests_per_s=_REQUESTS_PER_S,
        )
        for number, agent in enumerate(stage.agents)
    ]


def _tell_stories(teller: Teller) -> tuple[StoryReport, ...]:
    teller.first_release()
    return (
        teller.worse_on_live_data(),
        teller.nan_on_some_inputs(),
        teller.one_signature_of_two(),
        *teller.flipped_byte_and_good_release(),
    )


def _go_on(stage: Stage, say: Narrator) -> None:
    say(f"the fleet goes on: look at {stage.api_url} with the token in {stage.admin / 'token'}; Ctrl-C ends it")
    try:
        while True:
            time.sleep(3600.0)
    except KeyboardInterrupt:
        say("ending")


def _report(
    stage: Stage,
    stories: tuple[StoryReport, ...],
    applications: list[Application],
    found: list[ListenerReport],
    seconds: float,
) -> DemoReport:
    requests = RequestReport(
        served=sum(a.served for a in applications),
        failed=sum(a.failed for a in applications),
        failures=tuple(why for a in applications for why in a.failures),
        over_200_ms=sum(a.over_200_ms for a in applications),
        slowest_ms=round(max(a.slowest_s for a in applications) * 1000.0, 1),
        simulated_served=stage.totals.served,
        simulated_failed=stage.totals.failed,
    )
    on_loopback = bool(found) and all(listener.on_loopback for listener in found)
    return DemoReport(
        seed=stage.seed,
        seconds=round(seconds, 1),
        broker=stage.broker.kind if stage.broker else "",
        devices=len(AGENTS) + stage.simulated,
        time_scale=TIME_SCALE,
        stories=stories,
        requests=requests,
        listeners=tuple(found),
        all_as_told=on_loopback and all(story.as_told for story in stories),
    )
