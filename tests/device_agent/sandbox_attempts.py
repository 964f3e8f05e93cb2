# SPDX-License-Identifier: Apache-2.0
"""Start as the worker or the admission child does, and then try what a model must not: a program of the tests.

``python sandbox_attempts.py worker|admission KEY_FILE SLOT PORT`` prints what each attempt came to, as JSON.
"""

import ctypes
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
X86_64 = {"keyctl": 250, "bpf": 321, "io_uring_setup": 425, "ptrace": 101, "mount": 165, "clone3": 435}
AARCH64 = {"keyctl": 219, "bpf": 280, "io_uring_setup": 425, "ptrace": 117, "mount": 40, "clone3": 435}


def raw(name):
    number = (X86_64 if os.uname().machine == "x86_64" else AARCH64)[name]
    if LIBC.syscall(number, 0, 0, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), name)


def connect(port):
    with socket.socket() as connection:
        connection.connect(("127.0.0.1", port))


def signal_the_parent():
    os.kill(os.getppid(), 0)


def leave_by_a_child():
    if os.fork() == 0:
        os._exit(0)


def infer(slot):
    from device_agent.core.serving import ModelRef
    from device_agent.worker.residents import verify
    from edgefleet.contracts.bundle import open_bundle
    from edgefleet.contracts.messages import RunningRelease

    bundle = open_bundle(Path(slot))
    release = RunningRelease(name=bundle.manifest.name, version=bundle.manifest.version, bundle_sha256=bundle.sha256)
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(verify(ModelRef(path=slot, release=release))))
    thread.start()
    thread.join()
    if not outcome[0].passed:
        raise RuntimeError(outcome[0].detail)


def attempts(key, slot, port):
    beside = Path(slot).with_name("planted")
    return {
        "read the key": lambda: Path(key).read_bytes(),
        "read a file of the system": lambda: Path("/etc/passwd").read_bytes(),
        "read the supervisor's environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
        "write beside the slot": lambda: beside.write_bytes(b"x"),
        "write into the slot": lambda: os.close(os.open(slot, os.O_WRONLY)),
        "write for all to read": lambda: Path("/tmp/edgefleet-planted").write_bytes(b"x"),
        "delete the slot": Path(slot).unlink,
        "rename the slot": lambda: Path(slot).rename(beside),
        "change the slot's mode": lambda: Path(slot).chmod(0o600),
        "open a TCP connection": lambda: connect(port),
        "make a Unix socket": lambda: socket.socket(socket.AF_UNIX),
        "make a pair of sockets": socket.socketpair,
        "start a program": lambda: subprocess.run(["true"], check=True),
        "fork": leave_by_a_child,
        "signal the supervisor": signal_the_parent,
        "use the kernel's keys": lambda: raw("keyctl"),
        "load a BPF program": lambda: raw("bpf"),
        "use io_uring": lambda: raw("io_uring_setup"),
        "trace": lambda: raw("ptrace"),
        "mount": lambda: raw("mount"),
        "clone by the newer call": lambda: raw("clone3"),
        "infer": lambda: infer(slot),
    }


def outcomes(key, slot, port):
    come = {}
    for name, attempt in attempts(key, slot, port).items():
        try:
            attempt()
            come[name] = "done"
        except OSError as error:
            come[name] = errno.errorcode[error.errno]
        except Exception as error:  # noqa: BLE001  whatever it was, the test shall see it
            come[name] = repr(error)
    return come


def main(role, key, slot, port):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if role == "worker":
        from device_agent.worker import main as worker

        worker.Worker.run = lambda self: sys.stdout.write(json.dumps(outcomes(key, slot, int(port))))
        mine, its = socket.socketpair()
        passed = [mine.detach(), its.detach()]
        if "mark_fd" in worker.main.__code__.co_varnames:
            passed.append(os.memfd_create("mark"))
            os.ftruncate(passed[-1], 4096)
        return worker.main([str(n) for n in (*passed, os.getppid(), 1)] + [str(Path(slot).parent)])
    from device_agent.admission import checks
    from device_agent.admission import main as admission
    from device_agent.core.serving import AdmissionVerdict

    def admit(request):
        return AdmissionVerdict(kind="passed", cause="x", detail=json.dumps(outcomes(key, slot, int(port))))

    checks.admit = admit
    return admission.main([str(os.getppid()), "60"])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
