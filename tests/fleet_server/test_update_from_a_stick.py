# SPDX-License-Identifier: Apache-2.0
"""An update that a person carries: exported by a real server, taken in by the agent's own code without a network."""

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.identity.enrolment import enrol, read_ticket
from device_agent.adapters.verification.importing import import_update
from device_agent.adapters.verification.inbox import Inbox
from device_agent.errors import CorruptDownloadError, TrustRefusedError
from device_agent.repositories.in_process import InProcessRepositories
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.errors import EdgeFleetError, FileMissingError, RefusedError, StorageError, UnreachableError
from edgefleet.contracts.update_file import MEMBERS_LIMIT, open_update, write_update

DEVICES = ("s1", "s2")
NO_PATH = ", which no update file has"
DESCRIPTION = b'{"format_version":1,"tenant":"acme","devices":["s1"],"made_at":1}'


class Site:
    """A fleet whose devices enrolled and then lost the network: the server is stopped where a test needs no more."""

    def __init__(self, server: Any, cli: Any) -> None:
        self.server = server
        self._cli = cli
        self.folders = {name: self._enrolled(name) for name in DEVICES}

    def _enrolled(self, name: str) -> DataFolder:
        ticket = self.server.folder / f"{name}.ticket.json"
        invited = ("devices", "invite", name, "--profile", "linux-x86_64", "--output", ticket)
        self._cli(*invited, "--home", self.server.admin)
        folder = DataFolder(self.server.folder / "boards" / name)
        enrol(read_ticket(ticket), folder)
        return folder

    def roll_out(self, version: str) -> None:
        self._cli("rollouts", "create", "digits", version, "--home", self.server.admin)

    def export(self, file: str, *devices: str, days: float = 30.0, expect: int = 0) -> Any:
        named = [part for device in devices for part in ("--device", device)]
        output = self.server.folder / file
        command = ("releases", "export", *named, "--output", output, "--expires", days, "--home", self.server.admin)
        result = self._cli(*command, expect=expect)
        return output if expect == 0 else result


@pytest.fixture(name="site")
def _site(new_server: Callable[..., Any], released: Path, cli: Any) -> Site:
    site = Site(new_server(released, time_scale=100.0), cli)
    site.roll_out("1.0.0")
    return site


def taken_in(folder: DataFolder, file: Path) -> list[str]:
    order = import_update(folder, file, reserve_bytes=0)
    return [f"{one.release.name} {one.release.version}" for one in order.wanted]


def ordered_devices(site: Site) -> list[str]:
    """Devices that the rollout has reached by now (the holdout comes last)."""
    found = [device["name"] for device in site.server.call("devices") if device["ordered"]]
    return [name for name in found if name in DEVICES]


def test_a_device_without_a_network_installs_what_a_person_brought(site: Site, wait_for: Any) -> None:
    wait_for(lambda: ordered_devices(site), "an order")
    (name, *_) = ordered_devices(site)
    folder = site.folders[name]
    file = site.export("right.update", *DEVICES, days=400.0)
    site.server.stop()
    repositories = InProcessRepositories(folder, reserve_bytes=0)
    with pytest.raises(UnreachableError):
        repositories.check(0)

    assert taken_in(folder, file) == ["digits 1.0.0"]
    order = repositories.check(0)
    (wanted,) = order.wanted
    fetched = repositories.fetch(wanted.target, lambda: False)
    assert sha256_hex(fetched.read_bytes()) == wanted.target.sha256
    assert repositories.check(order.counter) == order  # and again at each poll, without a network
    assert not list(folder.root.glob("import-*"))
    assert not (folder.root / "inbox.new").exists()

    site.server.start()  # the server has the last word, and nothing that it says looks older than the stick
    assert repositories.check(order.counter).wanted == order.wanted
    assert not Inbox(folder.root).present


def test_another_devices_stick_is_refused_before_anything_is_written(site: Site) -> None:
    file = site.export("other.update", "s1")
    with pytest.raises(RefusedError) as raised:
        taken_in(site.folders["s2"], file)
    assert raised.value.message == "'other.update' is for s1 of acme, not for 's2' of acme"
    assert not (site.folders["s2"].root / "inbox.new").exists()


def test_an_older_stick_is_a_rollback_attack(site: Site) -> None:
    old = site.export("old.update", "s1")
    new = site.export("new.update", "s1")
    assert taken_in(site.folders["s1"], new) is not None
    repositories = InProcessRepositories(site.folders["s1"], reserve_bytes=0)
    repositories.check(0)
    with pytest.raises(TrustRefusedError) as raised:
        taken_in(site.folders["s1"], old)
    assert raised.value.cause == "metadata-rollback"


def test_a_stick_that_is_too_old_blocks_like_the_network_does(site: Site, wait_for: Any) -> None:
    file = site.export("brief.update", "s1", days=2e-5)  # not two seconds
    wait_for(lambda: _refusal(site.folders["s1"], file) == "metadata-expired", "the end of the stick's time")


def _refusal(folder: DataFolder, file: Path) -> str:
    try:
        import_update(folder, file, reserve_bytes=0)
    except TrustRefusedError as error:
        return error.cause
    return ""


def test_an_export_lives_as_long_as_was_asked_for_and_not_for_ever(site: Site) -> None:
    assert site.export("long.update", "s1", days=1095.0).exists()
    refused = site.export("ever.update", "s1", days=1100.0, expect=2)
    assert refused.err.startswith("error: 1100 days is no lifetime\n")
    unknown = site.export("none.update", "nobody", expect=1)
    assert unknown.err.startswith("error: device 'nobody' is not known\n")
    assert not (site.server.folder / "none.update").exists()
    assert ("update-exported", "s1") in [(e["action"], e["subject"]) for e in site.server.call("audit")]
    assert not list((site.server.data / "staging").glob("*.update"))


def test_a_stick_that_was_tampered_with_cut_short_or_filled_up_is_refused(site: Site, wait_for: Any) -> None:
    wait_for(lambda: ordered_devices(site), "an order")
    (name, *_) = ordered_devices(site)
    folder, file = site.folders[name], site.export("whole.update", *DEVICES)
    data, update = file.read_bytes(), open_update(file)
    bad = file.with_name("bad.update")

    def refused(content: bytes) -> EdgeFleetError:
        bad.write_bytes(content)
        with pytest.raises(EdgeFleetError) as raised:
            taken_in(folder, bad)
        assert not Inbox(folder.root).present
        assert not (folder.root / "inbox.new").exists()
        return raised.value

    def flipped(path: str, at: int = 40) -> bytes:
        offset = update.members[path].offset + at
        return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]

    (bundle,) = (path for path in update.members if path.startswith("targets/"))
    assert isinstance(refused(flipped(bundle)), CorruptDownloadError)
    for path in update.members:
        if path.endswith("timestamp.json") and name in path:
            assert isinstance(refused(flipped(path)), TrustRefusedError)
    for length in (0, 511, 512, 5000, len(data) // 2, len(data) - 512, len(data) - 1):
        assert isinstance(refused(data[:length]), RefusedError), length
    assert isinstance(refused(data + b"x"), RefusedError)

    def without(path: str) -> bytes:
        stream = io.BytesIO()
        write_update(
            stream, ((m.path, m.size_bytes, update.pieces(m)) for m in update.members.values() if m.path != path)
        )
        return stream.getvalue()

    assert refused(without(bundle)).message == "the update file lacks the bundle of digits 1.0.0"
    assert refused(without("image/timestamp.json")).message == "the update file lacks metadata that this device needs"
    with pytest.raises(StorageError, match="cannot take the update in: "):
        import_update(folder, file, reserve_bytes=1 << 60)
    assert taken_in(folder, file) == ["digits 1.0.0"]


def tar(*members: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        described = tarfile.TarInfo("update.json")
        described.size = len(DESCRIPTION)
        archive.addfile(described, io.BytesIO(DESCRIPTION))
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)) if member.isreg() else None)
    return stream.getvalue()


def member(name: str, size: int = 1, **changed: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size = size
    for field, value in changed.items():
        setattr(made, field, value)
    return made


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (tar(member("../../etc/cron.d/x")), "has a member with the path '../../etc/cron.d/x'" + NO_PATH),
        (tar(member("/etc/passwd")), "has a member with the path '/etc/passwd'" + NO_PATH),
        (tar(member("image/../../x.json")), "has a member with the path 'image/../../x.json'" + NO_PATH),
        (tar(member("image/x.json", 0, type=tarfile.SYMTYPE, linkname="/etc/passwd")),
         "has attributes for the member 'image/x.json' that an update file may not have"),
        (tar(member("image/x.json", mode=0o4755)),
         "has attributes for the member 'image/x.json' that an update file may not have"),
        (tar(member("image/x.json"), member("image/x.json")), "has the member 'image/x.json' twice"),
        (tar(member("image/x.json", (8 << 20) + 1)),
         "has a member 'image/x.json' of 8388609 bytes, over the limit of 8388608"),
        (tar(*(member(f"image/{n}.json", 0) for n in range(MEMBERS_LIMIT + 1))),
         f"has more than {MEMBERS_LIMIT} members"),
        (b"PK\x03\x04" + bytes(2000), "is no update file: it is no ustar file"),
        (tar()[512:], "is no update file: it is no ustar file"),
    ],
)  # fmt: skip
def test_the_form_of_a_file_is_checked_before_anything_is_written(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    file = tmp_path / "x.update"
    file.write_bytes(content)
    with pytest.raises(RefusedError) as raised:
        open_update(file)
    assert raised.value.message == f"'x.update' {expected}"


def test_a_size_beyond_the_file_is_no_reason_to_read_or_write_so_much(tmp_path: Path) -> None:
    file = tmp_path / "x.update"
    huge = member("targets/" + "0" * 64, 0)
    huge.size = 400 << 20
    file.write_bytes(tar()[:1024] + huge.tobuf(tarfile.USTAR_FORMAT).replace(b"0000644", b"0000644") + bytes(1024))
    with pytest.raises(RefusedError, match=r"is truncated: the member 'targets/0+' ends behind the end of the file"):
        open_update(file)
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileMissingError):
            open_update(path)


@given(st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=8))
def test_no_bytes_whatever_break_the_reader(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(tar(member("image/1.root.json", 600), member("targets/" + "a" * 64, 700)))
    for at, value in changes:
        data[at % len(data)] = value
    file = tmp_path_factory.mktemp("mutated") / "x.update"
    file.write_bytes(data)
    try:
        update = open_update(file)
    except RefusedError:
        return
    for one in update.members.values():
        assert sum(len(piece) for piece in update.pieces(one)) == one.size_bytes


def test_the_command_hands_the_update_to_an_agent_that_runs(site: Site, wait_for: Any) -> None:
    wait_for(lambda: ordered_devices(site), "an order")
    (name, *_) = ordered_devices(site)
    folder, file = site.folders[name], site.export("told.update", name)
    site.server.stop()
    run = [sys.executable, "-m", "device_agent", "run", "--data", str(folder.root), "--poll", "1000"]
    agent = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert agent.stdout is not None
        assert agent.stderr is not None
        assert "socket" in agent.stdout.readline()
        command = [sys.executable, "-m", "device_agent", "import", str(file), "--data", str(folder.root), "--json"]
        said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        assert said == {"counter": 1, "releases": ["digits 1.0.0"], "agent_running": True}
        lines = iter(agent.stderr.readline, "")
        found = next(line for line in lines if "update-found" in line or "admission-refused" in line)
        assert "(ordered)" in found
    finally:
        agent.terminate()
        agent.communicate(timeout=120)
