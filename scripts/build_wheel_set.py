# SPDX-License-Identifier: Apache-2.0
"""Packs wheels into a wheel set: the agent's own software as one file, to be signed and tried like a model.

    python scripts/build_wheel_set.py --name edgefleet-agent --version 1.2.0 --machine aarch64 --python 3.11 \\
        --out edgefleet-agent-1.2.0-aarch64.wheels WHEEL…

Wheels as ``pip download --platform … --only-binary=:all:`` leaves them. The same wheels give the same bytes.
"""

import argparse
import hashlib
import io
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from edgefleet.contracts.canonical import canonical_json
from edgefleet.contracts.software import WHEEL_SET_FACTS, WHEEL_SET_VERSION, WheelFile, WheelSet


def main() -> None:
    """Pack the wheels and print the set's SHA-256."""
    options = _options()
    write_wheel_set(
        options.wheel,
        options.out,
        name=options.name,
        version=options.version,
        machine=options.machine,
        python=options.python,
    )
    sys.stdout.write(f"{hashlib.sha256(options.out.read_bytes()).hexdigest()}  {options.out}\n")


def write_wheel_set(wheels: Sequence[Path], out: Path, *, name: str, version: str, machine: str, python: str) -> None:
    """Write a wheel set."""
    contents = {path.name: path.read_bytes() for path in sorted(wheels, key=lambda path: path.name)}
    listed = tuple(
        WheelFile(name=wheel, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        for wheel, data in contents.items()
    )
    facts = WheelSet(
        format_version=WHEEL_SET_VERSION, name=name, version=version, machine=machine, python=python, wheels=listed
    )
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as archive:
        for member, data in {WHEEL_SET_FACTS: canonical_json(facts), **contents}.items():
            info = tarfile.TarInfo(member)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--name", "--version", "--machine", "--python"):
        parser.add_argument(option, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("wheel", type=Path, nargs="+")
    return parser.parse_args()


if __name__ == "__main__":
    main()
