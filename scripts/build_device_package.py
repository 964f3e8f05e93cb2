# SPDX-License-Identifier: Apache-2.0
"""Builds what a device installs: a wheel with the device's rooms only, and Debian packages with all that they need.

    python scripts/build_device_package.py [--architecture amd64 --architecture arm64] [--out dist]

``edgefleet_device-VERSION-py3-none-any.whl`` is cut out of the project's wheel. ``edgefleet-agent_VERSION_ARCH.deb``
holds it with its wheels (deploy/agent/requirements.txt) below /usr/lib/edgefleet, for Python 3.11. The same inputs give
the same bytes: files are sorted and dated by SOURCE_DATE_EPOCH, or by the wheel format's usual first day.
"""

import argparse
import base64
import configparser
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy" / "agent"
#: Debian's names, and the machines of wheels.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
PYTHON = "3.11"
#: What a device runs; it converts nothing and serves no fleet.
_ROOMS = re.compile(
    r"(device_agent/|edgefleet/(__init__|version)\.py|edgefleet/(contracts|runtimes)/|edgefleet/py\.typed)"
)
#: Parts of packages that no device needs: their own tests, and compilers that prepare models elsewhere.
_NOT_NEEDED = (
    *("**/tests", "**/testing/tests", "bin", "share", "numpy/f2py", "numpy/_core/include", "numpy/random/_examples"),
    *("ai_edge_litert/tools", "ai_edge_litert/aot", "ai_edge_litert/vendors/*/compiler", "pycparser/_c_ast.cfg"),
    *("**/*.pyi", "**/*.pxd", "**/*.a", "**/*.h", "**/*.sh", "**/.gitignore", "google/protobuf/compiler"),
    "numpy/_core/*_tests.*.so",
)
_GLIBC = range(17, 37)
#: The first day of ZIP's calendar that build tools use, 2020-02-02.
_EPOCH = 1580601600
_LIMIT_S = 900


def main() -> None:
    """Build the wheel and the packages, and name them."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgefleet-package-") as name:
        folder = Path(name)
        wheel = device_wheel(project_wheel(folder), options.out)
        sys.stdout.write(f"{wheel}\n")
        for architecture in options.architecture or MACHINES:
            libraries = folder / architecture
            install(wheel, libraries, MACHINES[architecture])
            tree = stage(libraries, folder / f"{architecture}-tree", version=_version(wheel), architecture=architecture)
            made = build(tree, options.out / f"edgefleet-agent_{_version(wheel)}_{architecture}.deb")
            sys.stdout.write(f"{made}\n")


def project_wheel(folder: Path) -> Path:
    """Build the project's own wheel."""
    _run(sys.executable, "-m", "build", "--wheel", "--outdir", folder / "wheel", ROOT)
    (wheel,) = (folder / "wheel").glob("*.whl")
    return wheel


def device_wheel(project: Path, out: Path) -> Path:
    """Cut the wheel of the device's rooms out of the project's wheel."""
    version = _version(project)
    name = f"edgefleet_device-{version}"
    with zipfile.ZipFile(project) as archive:
        files = {path: archive.read(path) for path in archive.namelist()}
    old = f"edgefleet-{version}.dist-info"
    kept = {path: data for path, data in files.items() if _ROOMS.match(path)}
    kept[f"{name}.dist-info/METADATA"] = _device_metadata(files[f"{old}/METADATA"].decode()).encode()
    kept[f"{name}.dist-info/WHEEL"] = files[f"{old}/WHEEL"]
    kept[f"{name}.dist-info/entry_points.txt"] = _device_scripts(files[f"{old}/entry_points.txt"].decode()).encode()
    kept[f"{name}.dist-info/licenses/LICENSE"] = files[f"{old}/licenses/LICENSE"]
    kept[f"{name}.dist-info/RECORD"] = _record(kept, f"{name}.dist-info/RECORD").encode()
    path = out / f"{name}-py3-none-any.whl"
    _write_zip(path, kept)
    return path


def _device_metadata(text: str) -> str:
    """Return the metadata with the extra ``device`` as plain requirements, under the device's name."""
    head, _, _ = text.partition("\n\n")
    lines = []
    for line in head.splitlines():
        requirement, _, marker = line.partition(";")
        if line.startswith(("Provides-Extra:", "License-File:", "Description-Content-Type:")):
            continue
        if line.startswith("Requires-Dist:") and marker.strip() not in ("", "extra == 'device'"):
            continue
        lines.append("Name: edgefleet-device" if line == "Name: edgefleet" else requirement)
    return "\n".join(lines) + "\n\nThe device's part of EdgeFleet; not to be installed beside the whole of it.\n"


def _device_scripts(text: str) -> str:
    points = configparser.ConfigParser(delimiters=("=",))
    points.read_string(text)
    return f"[console_scripts]\nedgefleet-agent = {points['console_scripts']['edgefleet-agent']}\n"


def _record(files: Mapping[str, bytes], own: str) -> str:
    def line(path: str, data: bytes) -> str:
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        return f"{path},sha256={digest},{len(data)}\n"

    return "".join(line(path, files[path]) for path in sorted(files)) + f"{own},,\n"


def _write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files, key=lambda name: (".dist-info/" in name, name)):
            member = zipfile.ZipInfo(name, date_time=(2020, 2, 2, 0, 0, 0))
            member.external_attr = 0o100644 << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, files[name])


def install(wheel: Path, folder: Path, machine: str) -> None:
    """Unpack the wheel and its requirements for a machine, without what no device needs."""
    _pip("install", "--no-compile", "--target", folder, *_for(machine), wheel)
    trim(folder)


def download(wheel: Path, folder: Path, machine: str) -> list[Path]:
    """Fetch the wheels of a device for a machine, the given one among them."""
    _pip("download", "--dest", folder, *_for(machine), wheel)
    return sorted(folder.glob("*.whl"))


def _for(machine: str) -> list[str]:
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC] + [f"manylinux2014_{machine}"]
    chosen = [word for name in platforms for word in ("--platform", name)]
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON, *chosen]


def _pip(verb: str, *words: str | Path) -> None:
    constraint = DEPLOY / "requirements.txt"
    _run(
        sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check", "--constraint", constraint, *words
    )


def trim(folder: Path) -> None:
    """Take away what no device needs."""
    for pattern in _NOT_NEEDED:
        for path in sorted(folder.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    for path in sorted(folder.glob("*.dist-info/RECORD")) + sorted(folder.glob("*.dist-info/direct_url.json")):
        path.unlink()  # it names files that are gone, and places on the machine that built this


def stage(libraries: Path, tree: Path, *, version: str, architecture: str) -> Path:
    """Lay out a package's files and its control folder."""
    lib = tree / "usr" / "lib" / "edgefleet"
    shutil.copytree(libraries, lib, ignore=shutil.ignore_patterns("__pycache__"))
    _place(DEPLOY / "debian" / "edgefleet-agent", tree / "usr" / "bin" / "edgefleet-agent", mode=0o755)
    _place(DEPLOY / "edgefleet-agent.service", tree / "lib" / "systemd" / "system" / "edgefleet-agent.service")
    _place(DEPLOY / "agent.toml", tree / "etc" / "edgefleet" / "agent.toml")
    documents = tree / "usr" / "share" / "doc" / "edgefleet-agent"
    _place(DEPLOY / "debian" / "copyright", documents / "copyright")
    values = {"VERSION": version, "ARCHITECTURE": architecture, "DATE": formatdate(_epoch())}
    changelog = _filled(DEPLOY / "debian" / "changelog", values)
    (documents / "changelog.gz").write_bytes(_gzipped(changelog.encode()))
    overrides = tree / "usr" / "share" / "lintian" / "overrides" / "edgefleet-agent"
    _place(DEPLOY / "debian" / "lintian-overrides", overrides)
    manual = tree / "usr" / "share" / "man" / "man8" / "edgefleet-agent.8.gz"
    manual.parent.mkdir(parents=True)
    manual.write_bytes(_gzipped((DEPLOY / "debian" / "edgefleet-agent.8").read_bytes()))
    control = tree / "DEBIAN"
    for script in ("postinst", "prerm", "postrm"):
        _place(DEPLOY / "debian" / script, control / script, mode=0o755)
    (control / "conffiles").write_text("/etc/edgefleet/agent.toml\n")
    files = [path for path in _files(tree) if control not in path.parents]
    size_kib = sum((path.stat().st_size + 1023) // 1024 for path in files)
    (control / "control").write_text(_filled(DEPLOY / "debian" / "control", {**values, "SIZE_KIB": str(size_kib)}))
    sums = (f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in files)  # noqa: S324
    (control / "md5sums").write_text("".join(sums))
    return tree


def build(tree: Path, out: Path) -> Path:
    """Make the package; the same tree gives the same bytes."""
    epoch = _epoch()
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            executable = path.is_dir() or (os.access(path, os.X_OK) and path.parent.name in ("bin", "DEBIAN"))
            path.chmod(0o755 if executable else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "LC_ALL": "C.UTF-8"}
    _run("dpkg-deb", "--root-owner-group", "-Zxz", "-z6", "--build", tree, out, environment=environment)
    return out


def _epoch() -> int:
    return int(os.environ.get("SOURCE_DATE_EPOCH", _EPOCH))


def _filled(template: Path, values: Mapping[str, str]) -> str:
    return re.sub(r"@(\w+)@", lambda found: values[found[1]], template.read_text())


def _place(source: Path, target: Path, *, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    target.chmod(mode)


def _gzipped(data: bytes) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0, compresslevel=9) as stream:
        stream.write(data)
    return packed.getvalue()


def _files(tree: Path) -> Iterator[Path]:
    yield from sorted(path for path in tree.rglob("*") if path.is_file())


def _version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def _run(*command: str | Path, environment: Mapping[str, str] | None = None) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_LIMIT_S, env=environment)
    if done.returncode:
        sys.exit(f"{words[0]} failed: {_tail(done.stdout)}{_tail(done.stderr)}")


def _tail(text: str) -> str:
    return text[-2000:]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", action="append", choices=sorted(MACHINES))
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    return parser.parse_args()


if __name__ == "__main__":
    main()
