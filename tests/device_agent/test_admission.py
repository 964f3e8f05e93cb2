# SPDX-License-Identifier: Apache-2.0
"""What admission refuses, and the child process that it runs in."""

import os
import subprocess
import sys
import tempfile

import msgspec
import pytest

from device_agent.adapters.admission_process import AdmissionProcess
from device_agent.admission.checks import InProcessAdmission
from device_agent.core.serving import AdmissionRequest, ModelRef
from edgefleet.contracts.errors import StorageError
from edgefleet.contracts.messages import RunningRelease


def test_admission_in_a_child_agrees_with_admission_in_this_process(agent_bundles, tmp_path, agent_tools):
    for made, expected in [
        (agent_bundles.v1, ("passed", "all-checks")),
        (agent_bundles.wrong_parity, ("refused", "parity-reference")),
    ]:
        path = tmp_path / f"{made.sha256}.bundle"
        path.write_bytes(made.data)
        release = RunningRelease(name=made.name, version=made.version, bundle_sha256=made.sha256)
        request = AdmissionRequest(
            model=ModelRef(path=str(path), release=release),
            profile=agent_tools.PROFILE,
            compat_hash=agent_tools.COMPAT,
            acceptance_sha256=made.manifest.acceptance.sha256,
            acceptance_minimum=0.9,
        )
        for admission in (AdmissionProcess(deadline_s=60.0), InProcessAdmission()):
            verdict = admission.admit(request)
            assert (verdict.kind, verdict.cause) == expected


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"profile": "raspberry-pi-4"}, "wrong-profile"),
        ({"compat_hash": "d" * 64}, "mismatch"),
        ({"acceptance_sha256": "e" * 64}, "acceptance-examples"),
        ({"acceptance_minimum": 1.0}, "acceptance"),
    ],
    ids=["profile", "compat_hash", "other examples", "too low a score"],
)
def test_admission_refuses_what_the_signed_release_does_not_say(agent_bundles, tmp_path, agent_tools, changes, cause):
    made = agent_bundles.v1
    path = tmp_path / "slot.bundle"
    path.write_bytes(made.data)
    release = RunningRelease(name=made.name, version=made.version, bundle_sha256=made.sha256)
    request = AdmissionRequest(
        model=ModelRef(path=str(path), release=release),
        profile=agent_tools.PROFILE,
        compat_hash=agent_tools.COMPAT,
        acceptance_sha256=made.manifest.acceptance.sha256,
    )
    verdict = InProcessAdmission().admit(msgspec.structs.replace(request, **changes))
    assert (verdict.kind, verdict.cause) == ("refused", cause)


def test_an_admission_that_hangs_is_ended_at_its_deadline(agent_bundles, tmp_path, monkeypatch):
    release = RunningRelease(name="digits", version="1.0.0", bundle_sha256=agent_bundles.v1.sha256)
    request = AdmissionRequest(model=ModelRef(path="slot", release=release), profile="p", compat_hash="c" * 64)
    hang = "import sys, threading\n'-m' in sys.orig_argv and threading.Event().wait()"
    (tmp_path / "sitecustomize.py").write_text(hang)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    verdict = AdmissionProcess(deadline_s=1.0).admit(request)
    assert (verdict.kind, verdict.cause, verdict.detail) == ("refused", "deadline", "admission took longer than 1 s")


def test_an_admission_without_room_for_its_folder_is_a_disk_that_says_no(tmp_path, monkeypatch):
    release = RunningRelease(name="digits", version="1.0.0", bundle_sha256="b" * 64)
    request = AdmissionRequest(model=ModelRef(path="slot", release=release), profile="p", compat_hash="c" * 64)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(StorageError) as raised:
        AdmissionProcess(deadline_s=1.0).admit(request)
    assert raised.value.message == "cannot start the admission: No such file or directory"


def test_the_admission_child_has_no_network_writes_no_files_and_has_bounded_memory(tmp_path):
    script = (
        "import os, signal, socket, sys\n"
        "from device_agent.process_bounds import leave_network, limit_resources\n"
        "left = leave_network()\n"
        "limit_resources(cpu_s=10, open_files=64, memory_bytes=256 << 20)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
        "try:\n    wrote = os.write(file, b'x')\nexcept OSError as error:\n    wrote = error.strerror\n"
        "try:\n    bytearray(300 << 20)\nexcept MemoryError:\n    wrote += ', out of memory'\n"
        "print(left, [name for _, name in socket.if_nameindex() if name != 'lo'], wrote)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path / "file")], capture_output=True, text=True)
    if ran.stdout.startswith("False"):
        pytest.skip("this kernel lets the test make no network namespace")
    assert ran.stdout == "True [] File too large, out of memory\n"
