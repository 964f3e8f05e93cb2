# SPDX-License-Identifier: Apache-2.0
"""The reference pages name every error, field, default and command that there is, and none that there is not."""

import importlib.util
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

import device_agent
from device_agent.core.settings.accelerator_settings import AcceleratorSettings
from device_agent.core.settings.agent_settings import CaptureSettings
from device_agent.settings import AgentSettings, settings_schema
from edgefleet.contracts import errors
from edgefleet.contracts.errors import EdgeFleetError, ExitStatus
from edgefleet.contracts.evidence import ConversionEvidence
from edgefleet.contracts.interface import Declaration
from edgefleet.contracts.manifest import Manifest
from edgefleet.contracts.messages import (
    Capabilities,
    DeviceStatus,
    Event,
    EventKind,
    Gap,
    Hint,
    Message,
    ModelWindow,
    RunningRelease,
    State,
    Telemetry,
    Watermark,
)
from edgefleet.contracts.policy import Policy
from edgefleet.contracts.profile import Profile
from edgefleet.contracts.topics import Channel

ROOT = Path(__file__).resolve().parents[2]
Read = Callable[[str], str]
Section = Callable[[str, str], str]
Table = Callable[[str], dict[str, list[str]]]
Fields = Callable[..., dict[str, str]]


def _error_classes(base: type[EdgeFleetError] = EdgeFleetError) -> Iterator[type[EdgeFleetError]]:
    yield base
    for child in base.__subclasses__():
        if child.__module__.partition(".")[0] in ("edgefleet", "device_agent"):
            yield from _error_classes(child)


def test_every_error_code_is_described_with_its_statuses(reference: Read, section: Section, table: Table) -> None:
    rows = table(section(reference("exit-status-and-errors"), "Codes"))
    known = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EdgeFleetError)]
    assert {code: cells[:2] for code, cells in rows.items()} == {
        kind.code: [str(int(kind.exit_status)), str(kind.http_status)] for kind in known
    }


def test_every_error_code_of_the_agent_is_described(reference: Read, section: Section, table: Table) -> None:
    for module in pkgutil.walk_packages(device_agent.__path__, "device_agent."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    rows = table(section(reference("exit-status-and-errors"), "Codes of the agent only"))
    common = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")}
    assert {code: cells[:2] for code, cells in rows.items()} == {
        kind.code: [str(int(kind.exit_status)), str(kind.http_status)]
        for kind in _error_classes()
        if kind.code not in common
    }


def test_every_exit_status_is_described(reference: Read, section: Section) -> None:
    listed = re.findall(r"^\| (\d+) \|", section(reference("exit-status-and-errors"), "Exit statuses"), re.MULTILINE)
    assert {int(status) for status in listed} == {*ExitStatus, 130}


FIELDS: dict[str, tuple[str, list[str], Any, tuple[Any, ...]]] = {
    "policy": ("policy", ["The device's part", "The rollout's part", "The gate's part"], Policy, ()),
    "profile": ("profiles", ["Fields"], Profile, ()),
    "manifest": ("bundle-format", ["Manifest"], Manifest, ()),
    "evidence": ("bundle-format", ["Evidence"], ConversionEvidence, ()),
    "agent settings": (
        "agent-configuration",
        ["Agent configuration"],
        AgentSettings,
        (AcceleratorSettings, CaptureSettings, Declaration),
    ),
    "accelerator": ("agent-configuration", ["Accelerator"], AcceleratorSettings, ()),
    "capture": ("agent-configuration", ["Capture"], CaptureSettings, ()),
    "applications": ("agent-configuration", ["Applications"], Declaration, ()),
    "message": ("messages", ["Message"], Message, (Telemetry, Event, Gap)),
    "telemetry": ("messages", ["Telemetry"], Telemetry, (ModelWindow,)),
    "model window": ("messages", ["ModelWindow"], ModelWindow, (RunningRelease,)),
    "release": ("messages", ["RunningRelease"], RunningRelease, ()),
    "event": ("messages", ["Event"], Event, (RunningRelease,)),
    "gap": ("messages", ["Gap"], Gap, ()),
    "state": ("messages", ["State"], State, (RunningRelease,)),
    "hint": ("messages", ["Hint"], Hint, ()),
    "capabilities": ("messages", ["Capabilities"], Capabilities, ()),
    "watermark": ("messages", ["Watermark"], Watermark, ()),
}


@pytest.mark.parametrize("case", FIELDS)
def test_every_field_is_described_with_its_default(
    case: str, reference: Read, section: Section, table: Table, fields: Fields
) -> None:
    page, headings, structure, apart = FIELDS[case]
    rows = table("".join(section(reference(page), heading) for heading in headings))
    assert {path: cells[0] for path, cells in rows.items()} == fields(structure, apart)
    assert all(cells[1] for cells in rows.values())


def test_every_channel_event_and_status_is_described(reference: Read, section: Section, table: Table) -> None:
    page = reference("messages")
    assert set(table(section(page, "Topics"))) == set(get_args(Channel))
    kinds = section(page, "Event").partition("Kinds:")[2]
    assert set(re.findall(r"`([a-z-]+)`", kinds)) == set(get_args(EventKind))
    statuses = section(page, "State").partition("Statuses:")[2]
    assert set(re.findall(r"`([a-z-]+)`", statuses)) == set(get_args(DeviceStatus))


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_line_page_is_what_the_commands_say(reference: Read) -> None:
    module = _script("write_command_line_reference")
    assert reference("command-line") == module.page(), "run: python scripts/write_command_line_reference.py"


def test_the_diagram_of_the_life_cycle_is_what_its_table_says() -> None:
    module = _script("write_life_cycle")
    text = module.PAGE.read_text(encoding="utf-8")
    assert text == module.page(text), "run: python scripts/write_life_cycle.py"


def test_the_meaning_of_every_agent_setting_is_the_schemas(reference: Read, section: Section, table: Table) -> None:
    rows = table(section(reference("agent-configuration"), "Agent configuration"))
    described = settings_schema()["$defs"]["AgentSettings"]["properties"]
    assert {path: cells[1] for path, cells in rows.items() if "." not in path} == {
        name: facts["description"] for name, facts in described.items() if f"{name}.host" not in rows
    }
