# SPDX-License-Identifier: Apache-2.0
"""A program for an environment that has tflite-runtime: admit a bundle, serve it, prove it, and say what came."""

import json
import select
import sys
import time
from pathlib import Path

import numpy as np

from device_agent.adapters.children.admission_process import AdmissionProcess
from device_agent.adapters.children.worker_process import WorkerProcess
from device_agent.adapters.system.hardware import hardware_facts
from device_agent.adapters.system.local_socket import listen
from device_agent.adapters.system.software import installed_software
from device_agent.client import InferenceClient
from device_agent.core.serving import (
    AdmissionRequest,
    LoadFailed,
    ModelRef,
    PlannedModel,
    Serving,
    ServingPlan,
    Verified,
)
from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.messages import RunningRelease

_LIMIT_S = 120.0


def report(worker, channels, *kinds):
    """Return the next report of these kinds; ``channels`` ends with the worker's control socket."""
    until = time.monotonic() + _LIMIT_S
    while (left_s := until - time.monotonic()) > 0.0:
        for one in worker.reports():
            if isinstance(one, kinds):
                return one
        if channels[-1] is None:
            raise RuntimeError("the worker is gone")
        select.select([channels[-1]], [], [], left_s)
    raise TimeoutError(kinds)


def main(folder, bundle, pictures):
    opened = open_bundle(Path(bundle))
    manifest = opened.manifest
    release = RunningRelease(name=manifest.name, version=manifest.version, bundle_sha256=opened.sha256)
    ref = ModelRef(path=bundle, release=release)
    profile = manifest.profile
    admission = AdmissionProcess(deadline_s=_LIMIT_S)
    verdict = admission.admit(AdmissionRequest(model=ref, profile=profile.id, compat_hash=profile.compat_hash))
    listener = listen(Path(folder) / "worker.sock")
    worker = WorkerProcess(listener, readable=[Path(bundle).parent])
    channels = [None]
    worker.watch(channels.append)
    worker.start()
    worker.serve(ServingPlan(number=1, models=(PlannedModel(primary=ref),)))
    served = report(worker, channels, Serving, LoadFailed)
    answers = []
    if isinstance(served, Serving):
        with InferenceClient(Path(folder) / "worker.sock", timeout_s=_LIMIT_S) as client:
            answers = [client.infer(picture).top_class for picture in np.load(pictures)]
    worker.verify(ref)
    verified = report(worker, channels, Verified)
    worker.stop()
    came = {
        "admission": [verdict.kind, verdict.cause, verdict.detail],
        "served": [type(served).__name__, getattr(served, "detail", "")],
        "answers": answers,
        "verified": verified.passed,
        "software": installed_software().runtime,
        "facts": hardware_facts().runtime,
    }
    sys.stdout.write(json.dumps(came))


if __name__ == "__main__":
    main(*sys.argv[1:])
