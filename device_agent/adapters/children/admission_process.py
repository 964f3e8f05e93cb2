# SPDX-License-Identifier: Apache-2.0
"""Admission in a child process: what it breaks, it breaks alone.

The child is ended after the time that it could have used itself (:mod:`device_agent.core.evidence.silence`): it hangs,
or its model takes for ever, and it refuses. A child that the machine kept from its work is ended after longer, and
postpones.
"""

import os
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import msgspec

from device_agent.core.evidence.silence import STARVED_TIMES, Silence
from device_agent.core.secret_names import without_secrets
from device_agent.core.serving import AdmissionRequest, AdmissionVerdict
from device_agent.errors import storage_failed
from device_agent.exertion import exertion_of
from device_agent.process_bounds import ONE_THREAD

_LOOK_S = 0.25


class _Ended(NamedTuple):
    """How a child ended, and what it said."""

    status: int
    said: bytes
    complained: bytes
    seconds: float


class _OutOfTimeError(Exception):
    """A child did not come to an end; the verdict says why it was ended."""

    def __init__(self, verdict: AdmissionVerdict) -> None:
        super().__init__(verdict.detail)
        self.verdict = verdict


class AdmissionProcess:
    """Runs one child a bundle, without a folder of its own, so that nothing of it stays behind.

    ``deadline_s`` is what it may use itself; a child that is kept from its work is ended after ``starved_s``.
    """

    def __init__(self, *, deadline_s: float, starved_s: float | None = None) -> None:
        self._deadline_s = deadline_s
        self._starved_s = STARVED_TIMES * deadline_s if starved_s is None else starved_s

    def admit(self, request: AdmissionRequest) -> AdmissionVerdict:
        """Return the child's verdict; a child that dies or takes too long refuses.

        Raises:
            StorageError: the child cannot be started.
        """
        try:
            ended = self._run(msgspec.json.encode(request))
        except _OutOfTimeError as end:
            return end.verdict
        except OSError as error:
            raise storage_failed("start the admission", error) from error
        return self._died(ended) if ended.status < 0 else _read(ended)

    def _run(self, request: bytes) -> _Ended:
        command = [sys.executable, "-P", "-m", "device_agent.admission.main", str(os.getpid()), self._cpu_s()]
        pipe, environment = subprocess.PIPE, without_secrets(os.environ) | ONE_THREAD
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd="/", env=environment) as child:
            try:
                return self._watched(child, request)
            finally:
                child.kill()

    def _watched(self, child: subprocess.Popen[bytes], request: bytes) -> _Ended:
        """Wait for a child's end, and look meanwhile at what keeps it from that."""
        silence = Silence(time.monotonic(), exertion_of(child.pid))
        unsent: bytes | None = request
        while True:
            try:
                said, complained = child.communicate(unsent, timeout=_LOOK_S)
            except subprocess.TimeoutExpired:
                unsent = None
                self._look(silence, child.pid)
            else:
                return _Ended(child.returncode, said, complained, silence.lasted_s(time.monotonic()))

    def _look(self, silence: Silence, pid: int) -> None:
        now = time.monotonic()
        own_s, seconds = silence.look(now, exertion_of(pid)), silence.lasted_s(now)
        if own_s >= self._deadline_s:
            raise _OutOfTimeError(self._too_long(seconds))
        if seconds >= self._starved_s:
            detail = f"of {seconds:.0f} s the admission could use {own_s:.0f} s: the machine kept it from its work"
            verdict = AdmissionVerdict(kind="postponed", cause="starved", detail=detail, seconds=seconds)
            raise _OutOfTimeError(verdict)

    def _too_long(self, seconds: float) -> AdmissionVerdict:
        detail = f"admission took longer than {self._deadline_s:g} s of its own"
        return AdmissionVerdict(kind="refused", cause="deadline", detail=detail, seconds=seconds)

    def _cpu_s(self) -> str:
        return str(max(round(self._deadline_s * (os.cpu_count() or 1)), 1))

    def _died(self, ended: _Ended) -> AdmissionVerdict:
        number = -ended.status
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        detail = f"the model ended its admission with the signal {name}"
        if number in (signal.SIGKILL, signal.SIGTERM):
            return AdmissionVerdict(kind="postponed", cause="killed", detail=detail, seconds=ended.seconds)
        if number == signal.SIGXCPU:
            return self._too_long(ended.seconds)
        return AdmissionVerdict(kind="refused", cause="crash", detail=detail, seconds=ended.seconds)


def _read(ended: _Ended) -> AdmissionVerdict:
    try:
        return msgspec.json.decode(ended.said, type=AdmissionVerdict)
    except msgspec.DecodeError:
        lines = ended.complained.decode("utf-8", "replace").strip().splitlines()
        detail = f"admission ended with status {ended.status}: {lines[-1] if lines else 'no message'}"
        return AdmissionVerdict(kind="postponed", cause="admission-failed", detail=detail[:1000], seconds=ended.seconds)
