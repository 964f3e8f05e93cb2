# SPDX-License-Identifier: Apache-2.0
"""The value of the fixture ``edgefleet``."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

from edgefleet.contracts.errors import EdgeFleetError, InputError, MissingProgramError
from edgefleet.contracts.manifest import Numerics
from edgefleet.contracts.profile import Profile
from firmware_profiles.loader import load_profile
from fleet_emulation.testing.baseline import UPDATE, BaselineFile, compare, read_baselines
from fleet_emulation.testing.boards import Board, ModelBoard, SourcesBoard
from fleet_emulation.testing.fleet import Fleet, shares
from fleet_emulation.testing.measured import FIGURES, Comparison, Record
from fleet_emulation.testing.network import Network
from fleet_emulation.testing.power import Power
from fleet_emulation.testing.result import Array, Result
from fleet_emulation.testing.workshop import BoardOptions, Workshop, load

if TYPE_CHECKING:
    from fleet_emulation.linux_devices.device import LinuxDevice


class Run(Protocol):
    """The test run that the fixture belongs to: pytest's side."""

    @property
    def test(self) -> str:
        """The test that runs."""

    def add_finalizer(self, close: Callable[[], object]) -> None:
        """Call ``close`` when the fixture or test that runs now has ended."""

    def record(self, record: Record) -> None:
        """Keep what was measured."""

    def warn(self, sentence: str) -> None:
        """Tell what was not checked."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where baselines are stored, and whether this run stores new ones."""

    baseline: Path
    update: bool = False


class EdgeFleet:
    """Boards, devices, fleets, power, network and baselines for tests.

    What a test starts here ends with the test; what a fixture of yours starts ends with that fixture. Images are built
    once for each profile, model and compiler.
    """

    def __init__(self, settings: Settings, run: Run) -> None:
        self._settings = settings
        self._run = run
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def board(
        self,
        profile: str | Profile,
        *,
        model: Path | str | bytes | None = None,
        bundle: Path | str | None = None,
        sources: Sequence[Path | str] = (),
        includes: Sequence[Path | str] = (),
        defines: Mapping[str, str] | None = None,
        name: str | None = None,
        numerics: Numerics | None = None,
        updatable: bool = False,
        compiler: Literal["gcc", "zig"] | None = None,
        timeout_s: float = 60.0,
    ) -> Board:
        """Return an emulated board with an int8 model, the model of a bundle, or C sources of your own.

        ``profile`` is a board's id, or the path of a TOML file. Nothing is built or started before it is needed.

        Raises:
            InputError: there is no such profile, compiler or numerics; or not exactly one of model, bundle and sources
                is given.
        """
        options = BoardOptions(
            numerics=numerics,
            updatable=updatable,
            compiler=compiler,
            timeout_s=timeout_s,
            includes=tuple(map(Path, includes)),
            defines=dict(defines or {}),
        )
        facts = load_profile(profile) if isinstance(profile, str) else profile
        if not sources:
            board: Board = ModelBoard(facts, load(model, bundle, name), self._workshop, options)
        elif model is None and bundle is None:
            board = SourcesBoard(
                facts, tuple(map(Path, sources)), name or Path(sources[0]).stem, self._workshop, options
            )
        else:
            raise InputError(
                "a board runs a model or C sources, not both", hint="write the model's call into the sources"
            )
        board.follow(self._record_run)
        self._run.add_finalizer(board.close)
        return board

    def linux_device(
        self, profile: str | Profile = "raspberry-pi-4", *, folder: Path | None = None, reach: Sequence[int] = ()
    ) -> "LinuxDevice":
        """Return an emulated arm64 Linux device that is on; ``reach`` lists ports of this machine that it may use.

        Raises:
            MissingProgramError: QEMU is not installed, or there is no root file system and no way to make one.
            EdgeFleetError: the profile is of no such device, or it does not come up.
        """
        from fleet_emulation.linux_devices.device import linux_device, missing

        reason = missing()
        if reason is not None:
            raise MissingProgramError(
                f"an emulated Linux device cannot be made: {reason}",
                hint="install what is missing, or leave these tests out with --edgefleet-missing=skip",
            )
        opened = ExitStack()
        self._run.add_finalizer(opened.close)
        return opened.enter_context(linux_device(profile, folder=folder, reach=reach))

    def fleet(
        self,
        count: int,
        mix: Mapping[str, float] | Sequence[str],
        *,
        model: Path | str | bytes | None = None,
        bundle: Path | str | None = None,
        compiler: Literal["gcc", "zig"] | None = None,
    ) -> Fleet:
        """Return ``count`` boards and Linux devices that all run one model; they start when they are first used.

        ``mix`` says how many are of each profile: a mapping from id to its number or share, or ids in equal parts.

        Raises:
            InputError: the mix is empty, or of nothing.
        """
        fleet = Fleet(
            self._workshop,
            shares(count, mix),
            model=load(model, bundle),
            options=BoardOptions(compiler=compiler),
            linux_device=self.linux_device,
        )
        self._run.add_finalizer(fleet.close)
        return fleet

    @cached_property
    def power(self) -> Power:
        """The plug of every device: cut it, give it back, or have it cut at a time or at an event."""
        power = Power()
        self._closing.callback(power.close)
        return power

    @cached_property
    def network(self) -> Network:
        """Faulty links between devices and servers on 127.0.0.1."""
        network = Network()
        self._closing.callback(network.close)
        return network

    def baseline(
        self,
        name: str,
        *,
        tolerance_percent: float | Mapping[str, float] = 0.0,
        figures: Sequence[str] | None = None,
    ) -> "Baseline":
        """Return what a result is held against: the figures that are stored under a name.

        ``tolerance_percent`` is how much more a figure may be, for all or by figure; ``figures`` compares only some.

        Raises:
            InputError: there is no such figure.
        """
        by_figure = dict.fromkeys(FIGURES, tolerance_percent) if isinstance(tolerance_percent, int | float) else None
        tolerances = by_figure if by_figure is not None else dict(tolerance_percent)  # type: ignore[arg-type]
        for figure in (*tolerances, *(figures or ())):
            if figure not in FIGURES:
                raise InputError(f"there is no figure '{figure}'", hint=f"the figures are: {', '.join(FIGURES)}")
        return Baseline(name, self._settings, self._run, tolerances, figures)

    def reference(self, model: Path | str | bytes, inputs: Array, *, numerics: Numerics = "tflm/1") -> Array:
        """Return what the reference interpreter answers on this machine to a batch, bit for bit what a board must say.

        Raises:
            MissingExtraError: the interpreter is not installed.
            EdgeFleetError: it refuses the model, or the batch does not fit.
        """
        from fleet_emulation.testing.reference import answers

        return answers(model, inputs, numerics)

    @cached_property
    def _workshop(self) -> Workshop:
        folder = self._closing.enter_context(tempfile.TemporaryDirectory(prefix="edgefleet-"))
        return Workshop(Path(folder))

    def _record_run(self, result: Result) -> None:
        self._run.record(Record(test=self._run.test, label=result.label, measured=result.measured))


class Baseline:
    """The figures that are stored under one name; see :meth:`EdgeFleet.baseline`."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        run: Run,
        tolerance_percent: Mapping[str, float],
        only: Sequence[str] | None,
    ) -> None:
        self._name = name
        self._settings = settings
        self._run = run
        self._tolerance_percent = tolerance_percent
        self._only = only

    def check(self, result: Result) -> Comparison:
        """Fail if a result costs more than what is stored; with ``--edgefleet-update-baseline``, store it.

        Figures of another compiler, version or flags cannot be compared: that is a warning and no failure.

        Raises:
            SettingError: nothing is stored under the name for this profile, or the file cannot be read.
        """
        if self._settings.update:
            told = Comparison(name=self._name, verdict="updated")
        else:
            told = self._compared(read_baselines(self._settings.baseline), result)
        self._run.record(Record(test=self._run.test, label=result.label, measured=result.measured, comparison=told))
        sentence = f"{result.label} {told.sentence}"
        if told.verdict == "other-key":
            self._run.warn(sentence)
        if told.verdict == "worse":
            failure = AssertionError(sentence)
            failure.add_note(UPDATE)
            raise failure
        return told

    def _compared(self, stored: BaselineFile, result: Result) -> Comparison:
        try:
            return compare(self._name, stored, result.measured, self._tolerance_percent, only=self._only)
        except EdgeFleetError as error:
            raise type(error)(f"{error.message} in {self._settings.baseline}", hint=error.hint) from None
