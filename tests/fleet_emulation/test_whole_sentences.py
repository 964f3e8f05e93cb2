# SPDX-License-Identifier: Apache-2.0
"""What a person does wrong, or the world does to them, against a whole fleet: one sentence, a remedy, nothing changed.

The rooms' own tests prove most refusals; here are those that need several rooms, or every verb.
"""

import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from device_agent.adapters.state_file import read_record
from device_agent.client import InferenceClient, RawTensor
from edgefleet.cli.main import run, verbs
from edgefleet.contracts.bundle import BUNDLE_LIMIT_BYTES, open_bundle, pack
from edgefleet.contracts.manifest import ProfileReference
from fleet_emulation.broker import free_port
from fleet_emulation.live_stream import LiveStream
from fleet_emulation.processes import Program
from fleet_emulation.rehearsal import POLICY, Rehearsal, wait_until
from fleet_emulation.testbed import APPROVERS, RealAgent, ServerReady, Testbed, module
from fleet_server.adapters.api_client import ApiClient
from fleet_server.adapters.home import Home, Login

HashOf = Callable[[Path], str]
Tell = Callable[..., tuple[int, str]]
BUNDLE_HINT = "use a bundle written by 'edgefleet convert', and fetch it again if it was copied"
LIMIT_S = 60.0
FULL = re.compile(rb"No space left|disk is full|disk-full")


class Said(NamedTuple):
    status: int
    err: str


def edgefleet(*arguments: object) -> Said:
    """Run ``edgefleet`` through its front door, in this process."""
    err = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(err):
        status = run([str(argument) for argument in arguments], verbs())
    return Said(status, err.getvalue())


def sentence(message: str, hint: str) -> str:
    return f"error: {message}\nhint: {hint}\n"


def _entry(name: str, data: bytes = b"", **changes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    for field, value in changes.items():
        setattr(info, field, value)
    return info, data


def _with(path: Path, *more: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return a bundle with further members at its end."""
    out = io.BytesIO()
    with tarfile.open(path) as whole:
        for info in whole.getmembers():
            source = whole.extractfile(info)
            assert source is not None
            out.write(info.tobuf(tarfile.USTAR_FORMAT) + _padded(source.read()))
    for info, data in more:
        out.write(info.tobuf(tarfile.USTAR_FORMAT) + _padded(data))
    return out.getvalue() + bytes(1024)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


FILES: dict[str, tuple[Callable[[Path], bytes | int | None], str]] = {
    "missing": (lambda good: None, ""),
    "empty": (lambda good: b"", "is empty, not a bundle"),
    "truncated": (
        lambda good: good.read_bytes()[:-1024],
        "is truncated or damaged: a member's header or the end of the file is missing",
    ),
    "oversized": (
        lambda good: BUNDLE_LIMIT_BYTES + 1,
        f"is {BUNDLE_LIMIT_BYTES + 1} bytes, over the limit of {BUNDLE_LIMIT_BYTES}",
    ),
    "not a bundle": (lambda good: b"PK\3\4" * 512, "is not a bundle: it does not start with a ustar header"),
    "climbing out": (
        lambda good: _with(good, _entry("../x", b"evil")),
        "has a member with the path '../x'; paths are relative, plain and without '..'",
    ),
    "with a link": (
        lambda good: _with(good, _entry("model/link", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "has a symbolic link ('model/link'); a bundle holds plain files only",
    ),
    "with a duplicate": (
        lambda good: _with(good, _entry("model/model.tflite", b"other")),
        "has the member 'model/model.tflite' twice",
    ),
    "with an unlisted member": (
        lambda good: _with(good, _entry("model/zz", b"other")),
        "has the member 'model/zz', which its manifest does not list",
    ),
}


@pytest.fixture(scope="module", name="bed")
def _bed(rehearsal: Rehearsal) -> Testbed:
    return rehearsal.bed


@pytest.mark.parametrize("verb", ["verify", "publish"])
@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_good_bundle(case: str, verb: str, bed: Testbed, tmp_path: Path, hash_of: HashOf) -> None:
    make, message = FILES[case]
    path = tmp_path / "b.bundle"
    content = make(bed.folder / "bundles" / "digits-1.0.0-linux-x86_64.bundle")
    if isinstance(content, int):
        path.touch()
        os.truncate(path, content)  # sparse: takes no room
    elif content is not None:
        path.write_bytes(content)
    expected = (3, sentence(f"'b.bundle' {message}", BUNDLE_HINT))
    if content is None:
        reason = f"cannot read the bundle '{path}': No such file or directory"
        expected = (2, sentence(reason, "check the path and its permissions"))
    before = (bed.api.get("releases"), hash_of(bed.server_data / "staging"), hash_of(bed.server_data / "targets"))
    publish = ("releases", "publish", path, "--policy", bed.folder / "policy.toml", "--home", bed.admin)
    said = edgefleet(*(publish if verb == "publish" else ("verify", path)))
    assert said == expected
    after = (bed.api.get("releases"), hash_of(bed.server_data / "staging"), hash_of(bed.server_data / "targets"))
    assert after == before
    assert sorted(tmp_path.iterdir()) == ([] if content is None else [path])


def server_verbs(bed: Testbed, folder: Path) -> dict[str, tuple[object, ...]]:
    """Return a command for each verb that asks the server; outputs go to ``folder``."""
    bundle = bed.folder / "bundles" / "digits-1.0.0-linux-x86_64.bundle"
    return {
        "releases publish": (bundle, "--policy", bed.folder / "policy.toml"),
        "releases list": (),
        "releases show": ("digits", "1.0.0"),
        "releases approve": ("digits", "1.0.0", "--key", "alice", "--yes"),
        "devices invite": ("d9", "--profile", "linux-x86_64", "--output", folder / "ticket.json"),
        "devices list": (),
        "devices show": ("agent-1",),
        "rollouts create": ("digits", "1.0.0"),
        "rollouts list": (),
        "rollouts status": ("x",),
        "rollouts pause": ("x",),
        "rollouts resume": ("x",),
        "rollouts abort": ("x",),
        "rollouts undo": ("x",),
        "server token": ("eve", "--role", "admin", "--output", folder / "token"),
        "audit": (),
    }


@pytest.fixture(name="stranger")
def _stranger(tmp_path: Path) -> Path:
    """A home with a key and a login; where the login leads is each test's own matter."""
    assert edgefleet("keys", "create", "alice", "--home", tmp_path / "home").status == 0
    return tmp_path / "home"


def test_every_verb_that_asks_a_server_tells_when_there_is_none(
    bed: Testbed, stranger: Path, tmp_path: Path, hash_of: HashOf
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    Home(stranger).save_login(Login(server=url, token="ef_x"))
    before = hash_of(tmp_path)
    expected = sentence(
        f"the server at {url} does not answer: [Errno 111] Connection refused",
        "check the address, and that 'edgefleet server run' is running",
    )
    for verb, arguments in server_verbs(bed, tmp_path).items():
        assert edgefleet(*verb.split(), *arguments, "--home", stranger) == (1, expected), verb
    assert hash_of(tmp_path) == before


def test_every_verb_that_asks_a_server_tells_that_a_token_is_wrong(
    bed: Testbed, stranger: Path, tmp_path: Path, hash_of: HashOf
) -> None:
    Home(stranger).save_login(Login(server=bed.api_url, token="ef_wrong"))
    before = hash_of(tmp_path)
    releases, rollouts = bed.api.get("releases"), bed.api.get("rollouts")
    expected = sentence(
        "the API token is missing, wrong or expired",
        "run: edgefleet login --server URL --token-file FILE",
    )
    for verb, arguments in server_verbs(bed, tmp_path).items():
        assert edgefleet(*verb.split(), *arguments, "--home", stranger) == (4, expected), verb
    assert hash_of(tmp_path) == before
    assert (bed.api.get("releases"), bed.api.get("rollouts")) == (releases, rollouts)


def test_a_device_that_cannot_reach_its_server_does_not_enrol(
    bed: Testbed, tell: Tell, tmp_path: Path, hash_of: HashOf
) -> None:
    [ticket] = bed.invite(["agent-9"])
    port = free_port()
    elsewhere = msgspec.json.decode(ticket.read_bytes()) | {"server_url": f"https://127.0.0.1:{port}"}
    (tmp_path / "ticket.json").write_bytes(msgspec.json.encode(elsewhere))
    before = hash_of(tmp_path)
    data = tmp_path / "data"
    assert tell("device_agent", "enrol", "--ticket", tmp_path / "ticket.json", "--data", data) == (
        1,
        sentence(
            f"the server https://127.0.0.1:{port} does not answer: Connection refused",
            "check the network and the server, then enrol again; the ticket still holds",
        ),
    )
    assert not (data / "identity" / "device.json").exists()
    assert tell("device_agent", "enrol", "--ticket", ticket, "--data", data)[0] == 0, "the ticket still holds"
    shutil.rmtree(data)
    assert hash_of(tmp_path) == before


def frame_answer(socket_path: Path, digits: Path) -> str:
    """Return the status of one inference on an agent."""
    frame = next(iter(LiveStream(digits / "digits.npz", seed=0)))
    with InferenceClient(socket_path, timeout_s=20.0) as client:
        return client.infer(RawTensor(frame.pixels.tobytes(), str(frame.pixels.dtype), frame.pixels.shape)).status


def test_an_agent_starts_and_answers_without_server_and_broker_and_says_so(bed: Testbed, digits_example: Path) -> None:
    agent, port = bed.agents[1], free_port()
    agent.program.stop()
    settings, identity = agent.folder / "agent.toml", agent.files.identity
    kept = settings.read_text(), identity.read_bytes()
    settings.write_text(kept[0] + f'broker = {{ host = "127.0.0.1", port = {port}, tls = false }}\n')
    elsewhere = msgspec.json.decode(kept[1]) | {"server_url": f"https://127.0.0.1:{port}"}
    identity.write_bytes(msgspec.json.encode(elsewhere))
    agent.program.log.write_text("")
    try:
        agent = bed.restart_agent(1)
        assert frame_answer(agent.socket, digits_example) == "ok"
        told = [
            f"the broker at 127.0.0.1:{port} does not answer: [Errno 111] Connection refused; it is tried again",
            f"the server https://127.0.0.1:{port} does not answer: Connection refused",
        ]
        log = agent.program.log
        wait_until(lambda: all(line in log.read_text() for line in told), "both sentences", limit_s=LIMIT_S)
        assert "Traceback" not in agent.program.log.read_text()
        assert frame_answer(agent.socket, digits_example) == "ok"
    finally:
        agent.program.stop()
        settings.write_text(kept[0])
        identity.write_bytes(kept[1])
        bed.restart_agent(1)


def test_a_release_for_boards_that_the_fleet_does_not_have_is_not_rolled_out(bed: Testbed, tmp_path: Path) -> None:
    good = open_bundle(bed.folder / "bundles" / "digits-1.0.0-linux-x86_64.bundle")
    elsewhere = ProfileReference(id="raspberry-pi-4", compat_hash="0" * 64)
    manifest = msgspec.structs.replace(good.manifest, version="7.0.0", profile=elsewhere)
    bundle = tmp_path / "digits-7.0.0-raspberry-pi-4.bundle"
    bundle.write_bytes(pack(manifest, {path: good.read(path) for path in good.spans}))
    assert edgefleet("verify", bundle, "--profile", "linux-x86_64") == (
        3,
        sentence(
            "the bundle digits 7.0.0 is for profile 'raspberry-pi-4', not for 'linux-x86_64'",
            "use the release's bundle for 'linux-x86_64', or convert the model for it",
        ),
    )
    policy = ("--policy", bed.folder / "policy.toml", "--home", bed.admin)
    assert edgefleet("releases", "publish", bundle, *policy).status == 0
    for person in APPROVERS:
        home = bed.home(person)
        key = ("--key", person, "--passphrase-file", home / "passphrase", "--yes", "--home", home)
        assert edgefleet("releases", "approve", "digits", "7.0.0", *key).status == 0
    before = bed.api.get("rollouts")
    assert edgefleet("rollouts", "create", "digits", "7.0.0", "--home", bed.admin) == (
        3,
        sentence(
            "release digits 7.0.0 is for raspberry-pi-4, and no enrolled device has such a profile",
            "convert and publish a bundle for the fleet's profiles",
        ),
    )
    assert bed.api.get("rollouts") == before


class OwnServer(NamedTuple):
    """A server of a test's own, without approvers."""

    data: Path
    home: Path
    program: Program

    def api(self) -> ApiClient:
        return ApiClient(Home(self.home).login())


@pytest.fixture(name="own_server")
def _own_server(tmp_path: Path) -> Iterator[Callable[..., OwnServer]]:
    """Make and start a server in a folder, and log its administrator in."""
    started: list[Program] = []

    def start(data: Path, *more: object) -> OwnServer:
        home = tmp_path / "admin"
        assert edgefleet("server", "init", "--data", data, "--tenant", "acme", "--admin-home", home).status == 0
        ports = ("--listen", "127.0.0.1:0", "--device-listen", "127.0.0.1:0")
        command = module("edgefleet.cli", "server", "run", "--data", data, *ports, *more)
        started.append(Program("the fleet server", command, log=tmp_path / "server.log"))
        api = started[0].ready(ServerReady).api
        assert edgefleet("login", "--server", api, "--token-file", home / "token", "--home", home).status == 0
        return OwnServer(data, home, started[0])

    yield start
    for program in started:
        program.stop()


def test_a_server_starts_without_its_broker_says_so_and_goes_on(
    own_server: Callable[..., OwnServer], tmp_path: Path
) -> None:
    port = free_port()
    server = own_server(tmp_path / "srv", "--broker", f"mqtt://127.0.0.1:{port}")
    told = f"the broker at 127.0.0.1:{port} does not answer: [Errno 111] Connection refused"
    line = f"{told}; it is tried again, and everything else goes on"
    wait_until(lambda: line in server.program.last_words(), "the server to say so", limit_s=LIMIT_S)
    with server.api() as api:
        health = api.get("health")
        assert (health["status"], health["broker_connected"], health["broker"]) == ("ok", False, told)
        api.post("devices", {"name": "dev-1", "profile": "linux-x86_64"})
        assert [device["name"] for device in api.get("devices")] == ["dev-1"]


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
    bed: Testbed, small_disk: Callable[[Path, int], Path], tmp_path: Path, hash_of: HashOf
) -> None:
    disk = small_disk(tmp_path / "disk", 16)
    before = hash_of(disk)
    out = disk / "dist"
    said = edgefleet(
        "convert", bed.examples / "v1_float32.tflite", "--profile", "linux-x86_64", "--name", "digits",
        "--version", "1.0.0", "--calibration", bed.folder / "calibration.npz", "--out", out,
    )  # fmt: skip
    reason = f"cannot write '{out}/digits-1.0.0-linux-x86_64.bundle': No space left on device"
    assert said == (1, sentence(reason, "free space or choose another folder with --out"))
    assert hash_of(disk) == before


def test_a_server_made_on_a_full_disk_leaves_nothing_and_can_be_made_again(
    small_disk: Callable[[Path, int], Path], tmp_path: Path, hash_of: HashOf
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
    bed: Testbed,
    own_server: Callable[..., OwnServer],
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
    bed: Testbed, tell: Tell, small_disk: Callable[[Path, int], Path], tmp_path: Path
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
    rehearsal: Rehearsal, small_disk: Callable[[Path, int], Path], digits_example: Path
) -> None:
    bed, name = rehearsal.bed, "agent-7"
    disk = small_disk(bed.folder / "devices" / name, 6144)
    agent = bed.start_agent(name, bed.invite([name])[0])
    rehearsal.start_application(agent)
    wait_until(lambda: active_version(agent), "the newcomer's first release", limit_s=LIMIT_S)
    filler = fill(disk)
    before = active_version(agent)
    rollout_id = rehearsal.start_rollout()
    wait_until(lambda: name in assigned(rehearsal, rollout_id), "the device's turn", limit_s=LIMIT_S)
    seen_bytes = agent.program.log.stat().st_size
    wait_until(lambda: FULL.search(agent.program.log.read_bytes()[seen_bytes:]), "the sentence", limit_s=LIMIT_S)
    assert active_version(agent) == before
    assert frame_answer(agent.socket, digits_example) == "ok"
    assert agent.program.running
    assert "Traceback" not in agent.program.log.read_text()
    filler.unlink()
    assert rehearsal.wait_for_end(rollout_id)["state"] == "completed"
    assert frame_answer(agent.socket, digits_example) == "ok"
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
    return record.active.version if record is not None and record.active is not None else ""
