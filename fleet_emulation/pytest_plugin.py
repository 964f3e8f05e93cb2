# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: one fixture, ``edgefleet``, for tests of models and firmware on boards that nobody needs to own.

Installed everywhere that EdgeFleet is, so it costs nothing where it is not used: it imports pytest and the standard
library only, until a test asks for the fixture.
"""

import sys
import sysconfig
import warnings
from collections.abc import Generator, Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fleet_emulation.testing.fixture import EdgeFleet
    from fleet_emulation.testing.measured import Record

_SESSION = pytest.StashKey["_Session"]()
#: Where a record lies in a report; pytest-xdist carries it from its workers as it is.
_ATTRIBUTE = "edgefleet_records"
_LIBRARIES = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")} | {"<"})
_OWN_PACKAGES = ("fleet_emulation", "edgefleet", "converter", "device_agent", "firmware_profiles")


class EdgeFleetWarning(UserWarning):
    """Something that a test did not check, and why."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options."""
    group = parser.getgroup("edgefleet", "models and firmware on emulated boards")
    group.addoption(
        "--edgefleet-update-baseline",
        action="store_true",
        help="store the figures of this run as the new baselines, instead of comparing",
    )
    group.addoption(
        "--edgefleet-baseline",
        metavar="FILE",
        type=Path,
        help="where baselines are stored (default: edgefleet-baseline.json in pytest's root folder)",
    )
    group.addoption("--edgefleet-html", metavar="FILE", type=Path, help="write the figures as one HTML page")
    group.addoption(
        "--edgefleet-missing",
        choices=("fail", "skip"),
        default="fail",
        help="what becomes of a test for which QEMU, a compiler or a package is missing (default: fail)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Follow this run."""
    session = _Session(config)
    config.stash[_SESSION] = session
    config.pluginmanager.register(session, "edgefleet-session")


@pytest.fixture(scope="session")
def edgefleet(request: pytest.FixtureRequest) -> "Iterable[EdgeFleet]":
    """Emulated boards and Linux devices, fleets of them, baselines of what they cost, power cuts and faulty networks.

    What a test starts ends with the test, and what a fixture starts ends with that fixture.
    """
    from fleet_emulation.testing.fixture import EdgeFleet, Settings

    session = request.config.stash[_SESSION]
    settings = Settings(baseline=session.baseline, update=session.update)
    with EdgeFleet(settings, session) as fleet:
        yield fleet


class _Session:
    """One run: whose turn it is, and what was measured."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._item: pytest.Item | None = None
        self._fixtures: list[Any] = []  # pytest's FixtureDef has no public type
        self._pending: list[Record] = []
        self._records: list[Record] = []
        self._updates: list[Record] = []
        self._left_out: list[str] = []
        self._said: list[str] = []
        self._failure = ""
        self._is_worker = hasattr(config, "workerinput")

    @property
    def baseline(self) -> Path:
        """The file with the stored figures."""
        named: Path | None = self._config.getoption("--edgefleet-baseline")
        return (
            self._config.invocation_params.dir / named if named else self._config.rootpath / "edgefleet-baseline.json"
        )

    @property
    def update(self) -> bool:
        """Whether figures are stored instead of compared."""
        return bool(self._config.getoption("--edgefleet-update-baseline"))

    @property
    def test(self) -> str:
        """The test that runs, by its node id."""
        return self._item.nodeid if self._item is not None else ""

    def add_finalizer(self, close: Any) -> None:
        """Call ``close`` when what runs now has ended: the fixture that is being set up, or else the test."""
        owner = self._fixtures[-1] if self._fixtures else self._item
        assert owner is not None  # noqa: S101  # a fixture's user is a test
        owner.addfinalizer(close)

    def record(self, record: "Record") -> None:
        """Keep what a test measured: for the summary, the page, the baselines and the JUnit report."""
        self._pending.append(record)
        if self._item is not None and record.comparison is None:
            for figure, value in record.measured.figures.items():
                self._set_property(f"{record.label}: {figure}", value)

    def warn(self, sentence: str) -> None:
        """Tell what a test did not check; it is no failure, whatever the filters of warnings say."""
        try:
            warnings.warn(sentence, EdgeFleetWarning, stacklevel=2)
        except EdgeFleetWarning:
            self._said.append(sentence)

    def _set_property(self, name: str, value: int) -> None:
        """Set a JUnit property of the running test; the largest value counts where there are several."""
        assert self._item is not None  # noqa: S101  # record() looked
        properties = self._item.user_properties
        for place, (known, before) in enumerate(properties):
            if known == name:
                properties[place] = (name, max(value, int(str(before))))
                return
        properties.append((name, value))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Know which test runs."""
        __tracebackhide__ = True
        self._item = item
        try:
            return (yield)
        finally:
            self._item = None

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        """Know which fixture is being set up."""
        __tracebackhide__ = True
        self._fixtures.append(fixturedef)
        try:
            return (yield)
        finally:
            self._fixtures.pop()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Generator[None, object, object]:
        """Skip a test whose fixtures miss a program, where that was asked for."""
        __tracebackhide__ = True
        return (yield from self._skipping())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Skip a test that misses a program, where that was asked for."""
        __tracebackhide__ = True
        return (yield from self._skipping())

    def _skipping(self) -> Generator[None, object, object]:
        __tracebackhide__ = True
        try:
            return (yield)
        except Exception as error:
            if self._config.getoption("--edgefleet-missing") == "skip" and _is_missing(error):
                pytest.skip(str(error))
            raise

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, object]:
        """Show failures of ours as a sentence at the test's own line, and hang what was measured on the report."""
        if call.excinfo is not None:
            _shorten(call.excinfo)
        report = yield
        if self._pending:
            from fleet_emulation.testing.reporting import to_plain

            setattr(report, _ATTRIBUTE, to_plain(self._pending))
            self._pending = []
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather what was measured, from this process or from the workers of pytest-xdist."""
        plain = getattr(report, _ATTRIBUTE, None)
        if plain is None or self._is_worker:
            return
        from fleet_emulation.testing.reporting import from_plain

        records = from_plain(plain)
        self._records += records
        updates = [record for record in records if record.comparison and record.comparison.verdict == "updated"]
        if report.failed and updates:
            self._left_out.append(report.nodeid)
        else:
            self._updates += updates

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write baselines and page, once, in the process that started the run."""
        if not self._records:
            return
        from fleet_emulation.testing.reporting import finish

        html = self._config.getoption("--edgefleet-html")
        page = self._config.invocation_params.dir / html if html else None
        outcome = finish(self._records, self._updates, self.baseline, page, left_out=self._left_out)
        self._said += outcome.said
        self._failure = outcome.failure
        if outcome.failure and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print what was measured, and how it compares."""
        if not self._records:
            return
        from fleet_emulation.testing.reporting import summary

        terminalreporter.section("edgefleet")
        for line in summary(self._records):
            terminalreporter.write_line(line)
        for line in self._said:
            terminalreporter.write_line(line)
        if self._failure:
            terminalreporter.write_line(f"ERROR {self._failure}", red=True)


def _is_missing(error: BaseException) -> bool:
    """Tell whether a program or a package is not installed; the errors' module need not be loaded for that."""
    errors = sys.modules.get("edgefleet.contracts.errors")
    return errors is not None and isinstance(error, (errors.MissingProgramError, errors.MissingExtraError))


def _shorten(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Let a failure that says what is wrong in a sentence end at the test's own line, with what to do about it."""
    errors = sys.modules.get("edgefleet.contracts.errors")
    error = excinfo.value
    if errors is None or not isinstance(error, (errors.EdgeFleetError, AssertionError)):
        return
    frames = [entry.frame.raw.f_locals for entry in excinfo.traceback]
    theirs = [place for place, entry in enumerate(excinfo.traceback) if not _is_library(entry.frame.raw)]
    if not theirs or not _is_own(excinfo.traceback[-1].frame.raw):
        return
    for names in frames[theirs[-1] + 1 :]:
        names["__tracebackhide__"] = True  # pytest's mark for frames that are of no interest
    error.__cause__, error.__suppress_context__ = None, True
    if isinstance(error, errors.EdgeFleetError) and not hasattr(error, "__notes__"):
        error.add_note(f"hint: {error.hint}")


def _is_library(frame: FrameType) -> bool:
    """Tell whether a frame is ours, Python's or a package's, and not of the tests."""
    return _is_own(frame) or frame.f_code.co_filename.startswith(_LIBRARIES)


def _is_own(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _OWN_PACKAGES
