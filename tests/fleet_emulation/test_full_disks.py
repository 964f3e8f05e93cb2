# SPDX-License-Identifier: Apache-2.0
"""Disks that fill up, on the converting machine, the server and a device: one sentence, and nothing half-written."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device_agent.adapters.storage.state_file import read_record
from fleet_emulation.rehearsal import POLICY, Rehearsal, wait_until
from fleet_emulation.testbed import RealAgent, Testbed

HashOf = Callable[[Path], str]
Tell = Callable[..., tuple[int, str]]
Command = Callable[..., Any]
Sentence = Callable[[str, str], str]
FrameAnswer = Callable[[Path], str]
LIMIT_S = 300.0
FULL = re.compile(rb"No space left|disk is full|disk-full")


@pytest.fixture(name="small_disk")
def _small_disk() -> Iterator[Callable[[Path, int], Path]]:
    """Mount an empty file system of some KiB at a folder, where root may; it is taken away at the end."""
    mounted: list[Path] = []

    def mount(folder: Path, size_kib: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("mounting a small tmpfs needs root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        if folder.is_mount():
            subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write a file until the disk is full, and return it."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError:
            return path
    raise AssertionError("the loop above ends in an error")


def test_a_conversion_onto_a_full_disk_leaves_nothing(
    edgefleet: Command,
    sentence: Sentence,
    bed: Testbed,
    small_disk: Callable[[Path, int], Path],
    tmp_path: Path,
    hash_of: HashOf,
) -> None:
    disk = small_disk(tmp_path / "disk", 16)
    before = hash_of(disk)
    out = disk / "dist"
    said = edgefleet(
        "convert", bed.examples / "v1_float32.tflite", "--profile", "linux-x86_64", "--name", "digits",
        "--version", "1.0.0", "--calibration", bed.folder / "calibration.npz", "--out", out,
    )  # fmt: skip
    reason = f"cannot write '{out}/digits-1.0.0-linux-x86_64.bundle': No space left on device"
    assert said == (1, sentence(reason, "free space, or choose another place for the output"))
    assert hash_of(disk) == before


def test_a_server_made_on_a_full_disk_leaves_nothing_and_can_be_made_again(
    edgefleet: Command, small_disk: Callable[[Path, int], Path], tmp_path: Path, hash_of: HashOf
) -> None:
    disk = small_disk(tmp_path / "disk", 200)
    before = hash_of(tmp_path)
    init = ("server", "init", "--data", disk / "srv", "--tenant", "acme", "--admin-home", tmp_path / "admin")
    said = edgefleet(*init)
    assert said.status == 1
    assert said.err.splitlines()[-2].endswith((": No space left on device", "database or disk is full"))
    assert hash_of(tmp_path) == before
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    assert edgefleet(*init).status == 0


def test_a_server_whose_disk_fills_up_refuses_a_release_and_goes_on_when_there_is_room(
    edgefleet: Command,
    sentence: Sentence,
    bed: Testbed,
    own_server: Callable[..., Any],
    small_disk: Callable[[Path, int], Path],
    tmp_path: Path,
    hash_of: HashOf,
) -> None:
    server = own_server(small_disk(tmp_path / "disk", 4096) / "srv")
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    bundle = bed.folder / "bundles" / "digits-1.0.0-linux-x86_64.bundle"
    publish = ("releases", "publish", bundle, "--policy", policy, "--home", server.home)
    filler = fill(tmp_path / "disk")
    before = hash_of(server.data / "staging"), hash_of(server.data / "targets")
    said = edgefleet(*publish)
    assert said == (1, sentence("cannot store the upload: No space left on device", "check the server's free space"))
    assert (hash_of(server.data / "staging"), hash_of(server.data / "targets")) == before
    with server.api() as api:
        assert api.get("releases") == []
    filler.unlink()
    assert edgefleet(*publish).status == 0
    with server.api() as api:
        assert [release["version"] for release in api.get("releases")] == ["1.0.0"]


def test_a_device_with_a_full_disk_does_not_enrol(
    sentence: Sentence, bed: Testbed, tell: Tell, small_disk: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    [ticket] = bed.invite(["agent-8"])
    disk = small_disk(tmp_path / "disk", 16)
    filler = fill(disk)
    assert tell("device_agent", "enrol", "--ticket", ticket, "--data", disk / "data") == (
        1,
        sentence(f"cannot enrol into '{disk}/data': No space left on device", "free space or correct the permissions"),
    )
    filler.unlink()


@pytest.mark.slow
def test_a_device_whose_disk_fills_up_answers_on_and_takes_the_update_when_there_is_room(
    frame_answer: FrameAnswer, rehearsal: Rehearsal, small_disk: Callable[[Path, int], Path]
) -> None:
    bed, name = rehearsal.bed, "agent-7"
    disk = small_disk(bed.folder / "devices" / name, 6144)
    agent = bed.start_agent(name, bed.invite([name])[0])
    rehearsal.start_application(agent)
    wait_until(lambda: active_version(agent), "the newcomer's first release", limit_s=LIMIT_S)
    filler = fill(disk)
    before = active_version(agent)
    seen_bytes = agent.program.log.stat().st_size
    rollout_id = rehearsal.start_rollout()
    wait_until(lambda: name in assigned(rehearsal, rollout_id), "the device's turn", limit_s=LIMIT_S)
    wait_until(lambda: FULL.search(agent.program.log.read_bytes()[seen_bytes:]), "the sentence", limit_s=LIMIT_S)
    assert active_version(agent) == before
    assert frame_answer(agent.socket) == "ok"
    assert agent.program.running
    assert "Traceback" not in agent.program.log.read_text()
    filler.unlink()
    assert rehearsal.wait_for_end(rollout_id)["state"] == "completed"
    assert frame_answer(agent.socket) == "ok"
    assert active_version(agent) == active_version(bed.agents[0]) != before
    agent.program.stop()
    saved = bed.folder / "saved"
    shutil.copytree(disk, saved)  # the device goes on from another disk, for whatever rollout comes next
    subprocess.run(["umount", "-l", str(disk)], check=True)
    shutil.copytree(saved, disk, dirs_exist_ok=True)
    bed.restart_agent(2)


def assigned(rehearsal: Rehearsal, rollout_id: str) -> list[str]:
    """Return the devices that have their order in a rollout."""
    return [device["device"] for device in rehearsal.rollout(rollout_id)["devices"] if device["assigned"]]


def active_version(agent: RealAgent) -> str:
    """Return the version of an agent's good release, empty while it has none."""
    record = read_record(agent.files.state)
    return record.active[0].release.version if record is not None and record.active else ""
