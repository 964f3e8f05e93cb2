# SPDX-License-Identifier: Apache-2.0
"""A release that cannot run on a device is not ordered for it, and the server says by name why not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgefleet.contracts.enrolment import EnrolmentTicket, HardwareFacts
from edgefleet.contracts.fit import Needs, read_needs

BOARD = HardwareFacts(
    architecture="x86_64", kernel="6", cpu_count=2, memory_bytes=1 << 33, python="3.11", runtime="ai-edge-litert 2.3.0"
)
WHY = "runtimes are tflite-runtime 2.14.0, needed ai-edge-litert 1.0"


def enrolled(server: Any, cli: Any, device: Callable[..., Any], name: str, runtime: str) -> Any:
    ticket = server.folder / f"{name}.ticket.json"
    cli("devices", "invite", name, "--profile", "linux-x86_64", "--output", ticket, "--home", server.admin)
    made = device(msgspec.json.decode(ticket.read_bytes(), type=EnrolmentTicket), server.folder / "dev" / name)
    assert made.enrol(made.request(facts=msgspec.structs.replace(BOARD, runtime=runtime))).status == 200
    return made


def test_what_a_bundle_needs_is_signed_and_an_unfit_device_is_left_out_by_name(
    new_server: Callable[..., Any], released: Path, cli: Any, wait_for: Any
) -> None:
    server = new_server(released, time_scale=100.0)
    kind = type(server.enrol("template"))
    cli("devices", "decommission", "template", "--yes", "--home", server.admin)
    old = enrolled(server, cli, kind, "old", "tflite-runtime 2.14.0")
    create = ("rollouts", "create", "digits", "1.0.0", "--home", server.admin)
    refused = cli(*create, expect=3)
    assert refused.err == (
        f"error: release digits 1.0.0 cannot run on any device; old: {WHY}\n"
        "hint: convert for a profile that is true of the boards, or correct the boards\n"
    )

    good = enrolled(server, cli, kind, "good", "ai-edge-litert 2.3.0")
    made = cli(*create, "--json").document
    assert (made["covered"], made["unfit"]) == (1, {"old": [WHY]})
    assert f"old cannot run it: {WHY}" in cli("rollouts", "status", made["id"], "--home", server.admin).out
    assert old.order()[1] == []
    (target,) = wait_for(lambda: good.order()[1], "the first wave")
    listed = good.target(target.path)
    assert read_needs(listed.unrecognized_fields["custom"]) == Needs(runtime="ai-edge-litert", runtime_minimum="1.0")
