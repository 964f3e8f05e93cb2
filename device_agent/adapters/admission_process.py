# SPDX-License-Identifier: Apache-2.0
"""Admission in a child process: what it breaks, it breaks alone."""

import os
import signal
import subprocess
import sys
import time

import msgspec

from device_agent.core.serving import AdmissionRequest, AdmissionVerdict
from device_agent.errors import storage_failed
from device_agent.process_bounds import ONE_THREAD


class AdmissionProcess:
    """Runs one child a bundle, without a folder of its own, so that nothing of it stays behind; it has a deadline."""

    def __init__(self, *, deadline_s: float) -> None:
        self._deadline_s = deadline_s

    def admit(self, request: AdmissionRequest) -> AdmissionVerdict:
        """Return the child's verdict; a child that dies or takes too long refuses.

        Raises:
            StorageError: the child cannot be started.
        """
        started = time.monotonic()
        try:
            child = self._run(request)
        except subprocess.TimeoutExpired:
            detail = f"admission took longer than {self._deadline_s:g} s"
            return AdmissionVerdict(kind="refused", cause="deadline", detail=detail, seconds=self._deadline_s)
        except OSError as error:
            raise storage_failed("start the admission", error) from error
        seconds = time.monotonic() - started
        if child.returncode < 0:
            return _died(-child.returncode, seconds)
        return _read(child, seconds)

    def _run(self, request: AdmissionRequest) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "device_agent.admission.main", str(os.getpid()), self._cpu_s()],
            input=msgspec.json.encode(request),
            capture_output=True,
            cwd="/",
            env=os.environ | ONE_THREAD,
            timeout=self._deadline_s,
            check=False,
        )

    def _cpu_s(self) -> str:
        return str(max(round(self._deadline_s * (os.cpu_count() or 1)), 1))


def _died(number: int, seconds: float) -> AdmissionVerdict:
    name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
    detail = f"the model ended its admission with the signal {name}"
    if number in (signal.SIGKILL, signal.SIGTERM):
        return AdmissionVerdict(kind="postponed", cause="killed", detail=detail, seconds=seconds)
    return AdmissionVerdict(kind="refused", cause="crash", detail=detail, seconds=seconds)


def _read(child: subprocess.CompletedProcess[bytes], seconds: float) -> AdmissionVerdict:
    try:
        return msgspec.json.decode(child.stdout, type=AdmissionVerdict)
    except msgspec.DecodeError:
        lines = child.stderr.decode("utf-8", "replace").strip().splitlines()
        detail = f"admission ended with status {child.returncode}: {lines[-1] if lines else 'no message'}"
        return AdmissionVerdict(kind="postponed", cause="admission-failed", detail=detail[:1000], seconds=seconds)
