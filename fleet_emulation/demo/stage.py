# SPDX-License-Identifier: Apache-2.0
"""The stage: a testbed with four agents, and the simulated fleet beside them."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from fleet_emulation.broker import BrokerKind
from fleet_emulation.demo.report import ListenerReport
from fleet_emulation.processes import Program
from fleet_emulation.simulated_fleet import SimulationConfig, SimulationReady, SimulationTotals
from fleet_emulation.testbed import Testbed, module

AGENTS = ("agent-1", "agent-2", "agent-3", "agent-4")
#: The policy's production hours become seconds; the policy file itself is not touched.
TIME_SCALE = 4800
_SIMULATED_RATE = 50.0
#: Hints tell devices of news at once; polling is their safety net.
_POLL_S = 40.0


class Stage(Testbed):
    """Everything that runs during the demo. ``folder`` holds all of it; ``examples`` is the digits example."""

    def __init__(
        self, folder: Path, examples: Path, *, seed: int, simulated: int, broker_kind: BrokerKind | None = None
    ) -> None:
        super().__init__(folder, examples, time_scale=TIME_SCALE, poll_s=_POLL_S, broker_kind=broker_kind)
        self.seed = seed
        self.simulated = simulated
        self.simulation: Program | None = None
        self._simulation_is_ready = False
        self.totals = SimulationTotals(served=0, failed=0)

    def start_devices(self) -> None:
        """Invite and enrol everybody; start four agents and the simulation."""
        simulated = [f"sim-{number:02d}" for number in range(1, self.simulated + 1)]
        tickets = self.invite([*AGENTS, *simulated])
        self.simulation = self._start_simulation(tickets[len(AGENTS) :])
        self.enrol_and_start(AGENTS, tickets[: len(AGENTS)])
        self.simulation.ready(SimulationReady)
        self._simulation_is_ready = True

    def programs(self) -> list[Program]:
        """Return the programs that were started, agents first."""
        return super().programs() + ([self.simulation] if self.simulation else [])

    def listening(self) -> list[ListenerReport]:
        """Return the TCP sockets that the demo's programs listen on, as the kernel says it."""
        return [
            ListenerReport(program=name, address=x.address, port=x.port, on_loopback=x.on_loopback)
            for name, x in self.sockets()
        ]

    def stop(self) -> None:
        """Stop everything, devices first; the simulation's last words are its totals."""
        try:
            self._stop_simulation()
        finally:
            super().stop()

    def _stop_simulation(self) -> None:
        if self.simulation is None:
            return
        self.simulation.process.terminate()
        # Before it is ready its first line still waits to be read, and there are no totals worth a word.
        if self._simulation_is_ready:
            self.totals = self.simulation.ready(SimulationTotals)
        self.simulation.stop()

    def _start_simulation(self, tickets: Sequence[Path]) -> Program:
        config = SimulationConfig(
            tickets=tuple(map(str, tickets)),
            folder=str(self.folder / "devices"),
            digits=str(self.examples / "digits.npz"),
            seed=self.seed,
            requests_per_s=_SIMULATED_RATE,
            time_scale=TIME_SCALE,
            settings=self.settings,
        )
        path = self.folder / "simulation.json"
        path.write_bytes(msgspec.json.encode(config))
        command = module("fleet_emulation.simulated_fleet", path)
        return Program("the simulated fleet", command, log=self.logs / "simulated_fleet.log")
