# SPDX-License-Identifier: Apache-2.0
"""``edgefleet doctor``: what this machine can do, and what to install for the rest."""

import platform
import shutil
import sys
from importlib.util import find_spec
from typing import Literal

import msgspec
import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit

app = typer.Typer(add_completion=False)

#: Each extra, and packages that only it (or one that contains it) brings.
_EXTRAS = {
    "converter": ("ai_edge_quantizer", "PIL"),
    "device": ("ai_edge_litert", "tuf", "paho.mqtt"),
    "server": ("fastapi", "sqlalchemy", "uvicorn"),
    "demo": ("amqtt",),
    "tensorflow": ("tensorflow",),
}
#: Programs that something is better with: name, Debian package, what for.
_PROGRAMS = (
    ("mosquitto", "mosquitto", "a broker for more than a demo"),
    ("chromium", "chromium", "the browser tests"),
    ("qemu-system-arm", "qemu-system-arm", "emulated microcontrollers"),
)
_SYSTEM_PATH = "/usr/sbin:/usr/local/sbin:/sbin"


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at; ``hint`` says how to get it where it is missing."""

    name: str
    state: Literal["ok", "missing"]
    detail: str
    hint: str = ""


@app.command(epilog="Example: edgefleet doctor --json")
def doctor(json_output: JsonOption = False) -> None:
    """Say what this machine can do, and what to install for the rest."""
    checks = [_python(), *map(_extra, _EXTRAS), *(_program(*row) for row in _PROGRAMS)]
    emit({"checks": checks}, as_json=json_output, human=lambda: "\n".join(map(_line, checks)))


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} on {platform.machine()} ({sys.executable})")


def _extra(name: str) -> Check:
    missing = [package for package in _EXTRAS[name] if not _installed(package)]
    if missing:
        return Check(f"extra {name}", "missing", f"without {', '.join(missing)}", f"pip install 'edgefleet[{name}]'")
    return Check(f"extra {name}", "ok", "installed")


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the package above it is missing
        return False


def _program(name: str, package: str, purpose: str) -> Check:
    path = shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH)
    if path is None:
        return Check(name, "missing", f"for {purpose}", f"apt-get install {package}")
    return Check(name, "ok", path)


def _line(check: Check) -> str:
    hint = f"  → {check.hint}" if check.hint else ""
    return f"{check.state:8} {check.name:18} {check.detail}{hint}"
