# SPDX-License-Identifier: Apache-2.0
"""Inputs of which a model was unsure: drawn, redacted before the disk, bounded, delivered, and off by default."""

import json

import msgspec
import numpy as np
import pytest

from device_agent.adapters.storage.capture_folder import CaptureFolder
from device_agent.client import InferenceClient
from device_agent.core.serving import CapturePlan
from device_agent.core.settings.capture import DAY_S, Budget, admitted
from device_agent.worker.unsure import UnsureInputs
from edgefleet.contracts.capture import CapturedInput, CapturedTensor, read_captured
from edgefleet.contracts.errors import MessageError
from edgefleet.contracts.messages import RunningRelease

RELEASE = RunningRelease(name="digits", version="1.0.0", bundle_sha256="b" * 64)
SECRET = b"SECRET-FACE-0123"

REDACTIONS = """
import os, socket, subprocess

def blank(inputs):
    inputs[0][:16] = 0
    return inputs

def nothing(inputs):
    return None

def crash(inputs):
    raise ValueError("no")

def leak(inputs):
    try:
        open(os.environ["LEAK"], "wb").write(bytes(inputs[0]))
    except OSError:
        pass
    try:
        socket.create_connection(("127.0.0.1", int(os.environ["LEAK_PORT"])), 2.0).sendall(bytes(inputs[0]))
    except OSError:
        pass
    return inputs
"""


def captured(size_bytes: int = 64) -> CapturedInput:
    data = SECRET + bytes(size_bytes - len(SECRET))
    tensor = CapturedTensor(shape=(size_bytes,), dtype="uint8", data=data)
    return CapturedInput(v=1, release=RELEASE, confidence=0.3, captured_at=1.0, inputs=(tensor,))


@pytest.fixture
def redactions(tmp_path, monkeypatch):
    folder = tmp_path / "redactions"
    folder.mkdir()
    (folder / "site_redactions.py").write_text(REDACTIONS)
    monkeypatch.setenv("PYTHONPATH", f"{folder}")
    return folder


def folder(tmp_path, redaction=None, **bounds):
    limits = {"limit_bytes": 1 << 20, "bytes_per_day": 1 << 20} | bounds
    return CaptureFolder(tmp_path / "captures", redaction=redaction, **limits)


def on_disk(tmp_path) -> bytes:
    return b"".join(path.read_bytes() for path in (tmp_path / "captures").rglob("*") if path.is_file())


def test_what_the_redaction_takes_out_never_reaches_the_disk(tmp_path, redactions):
    captures = folder(tmp_path, "site_redactions:blank")
    assert captures.keep(captured(), 0.0)
    [path] = captures.files()
    kept = read_captured(path.read_bytes())
    assert kept.inputs[0].data == bytes(64)
    assert msgspec.structs.replace(kept, inputs=()) == msgspec.structs.replace(captured(), inputs=())
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("function", ["nothing", "crash", "missing"])
def test_a_redaction_that_gives_nothing_or_fails_keeps_nothing(tmp_path, redactions, function):
    captures = folder(tmp_path, f"site_redactions:{function}")
    assert not captures.keep(captured(), 0.0)
    assert captures.files() == []


def test_a_redaction_can_write_no_file_and_open_no_connection(tmp_path, redactions, monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        monkeypatch.setenv("LEAK", str(tmp_path / "leaked"))
        monkeypatch.setenv("LEAK_PORT", str(listener.getsockname()[1]))
        folder(tmp_path, "site_redactions:leak").keep(captured(), 0.0)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert not (tmp_path / "leaked").exists()


def test_the_folder_and_the_day_have_bounds_and_the_oldest_go_first(tmp_path):
    size = len(msgspec.json.encode(captured()))
    captures = folder(tmp_path, limit_bytes=3 * size + 50, bytes_per_day=5 * size + 50)
    for second in range(8):
        kept = captures.keep(msgspec.structs.replace(captured(), captured_at=float(second)), float(second))
        assert kept == (second < 5)
    assert [read_captured(path.read_bytes()).captured_at for path in captures.files()] == [2.0, 3.0, 4.0]
    assert captures.keep(captured(), DAY_S)
    assert not captures.keep(captured(4 * size), DAY_S)


def test_a_days_budget_begins_again_the_next_day():
    budget = admitted(Budget(0.0, 0), 60, 1.0, bytes_per_day=100)
    assert budget == Budget(0.0, 60)
    assert admitted(budget, 60, DAY_S - 1, bytes_per_day=100) is None
    assert admitted(budget, 60, DAY_S, bytes_per_day=100) == Budget(DAY_S, 60)
    assert admitted(Budget(0.0, 0), 101, 1.0, bytes_per_day=100) is None


def test_the_worker_draws_a_share_and_only_what_can_be_said():
    drawn = UnsureInputs(lambda: 0.4)
    picture = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    drawn.offer(RELEASE, [picture], 0.2)
    assert (drawn.below, drawn.take_reports()) == (0.0, [])
    drawn.follow(CapturePlan(confidence_below=0.5, share=0.3))
    drawn.offer(RELEASE, [picture], 0.2)
    assert (drawn.below, drawn.take_reports()) == (0.5, [])
    drawn.follow(CapturePlan(confidence_below=0.5, share=0.5, limit_bytes=24))
    drawn.offer(RELEASE, [picture.astype(np.float64)], 0.2)
    drawn.offer(RELEASE, [np.zeros(25, np.uint8)], 0.2)
    assert drawn.take_reports() == []
    drawn.offer(RELEASE, [picture], 0.2)
    drawn.offer(RELEASE, [picture], 0.2)  # too soon
    [report] = drawn.take_reports()
    assert report.captured.inputs == (CapturedTensor(shape=(1, 2, 3), dtype="float32", data=picture.tobytes()),)


def test_a_malformed_or_large_document_is_refused():
    with pytest.raises(MessageError, match="over the limit of 1048576"):
        read_captured(b" " * ((1 << 20) + 1))
    with pytest.raises(MessageError, match="the captured input"):
        read_captured(b"{}")


def config_of(tmp_path, text: str) -> str:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("opted_in", [True, False])
def test_a_running_agent_captures_what_it_was_unsure_of_if_both_settings_say_so(
    tmp_path, agent_process, device_side, enrolled, agent_tools, agent_bundles, digits_live, opted_in
):
    bundle = tmp_path / "factory.bundle"
    bundle.write_bytes(agent_bundles.v1.data)
    text = f"factory_model = {json.dumps(str(bundle))}\n[capture]\nconfidence_below = 1.0\nshare = 1.0\n"
    config = config_of(tmp_path, f"capture_bytes = {1 << 20 if opted_in else 0}\n{text}")
    _, ready = agent_process("--config", config)
    pictures, _ = digits_live
    captures = CaptureFolder(enrolled.captures)
    with InferenceClient(ready["socket"], timeout_s=agent_tools.limit_s) as client:
        noise = np.full_like(pictures[:1], 7.0)

        def asked():
            assert client.infer(noise).status == "ok"
            return captures.files()

        if not opted_in:
            for _ in range(20):
                assert asked() == []
            return
        [path, *_] = agent_tools.wait_until(asked, "a captured input")
    kept = read_captured(path.read_bytes())
    assert kept.release.bundle_sha256 == agent_bundles.v1.sha256
    assert kept.inputs[0].data == noise.tobytes()
    assert kept.confidence < 1.0
