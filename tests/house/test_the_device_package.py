# SPDX-License-Identifier: Apache-2.0
"""What a device installs: a wheel with its rooms only, and a Debian package that comes, is renewed, and goes.

Packages here are real ones around a few small files; `make package` builds the whole with the same functions.
"""

import base64
import csv
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = ROOT / "deploy" / "agent" / "debian"
SCRIPTS = ("edgefleet-agent", "postinst", "prerm", "postrm")


@pytest.fixture(scope="module", name="maker")
def _maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_device_package", ROOT / "scripts" / "build_device_package.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(name="debian")
def _debian() -> str:
    if shutil.which("dpkg-deb") is None or shutil.which("dpkg") is None:
        pytest.skip("dpkg is not installed")
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()


def _package(maker: ModuleType, folder: Path, architecture: str, version: str = "1.2.3") -> Path:
    """A package around one module."""
    libraries = folder / "libraries"
    (libraries / "device_agent").mkdir(parents=True)
    (libraries / "device_agent" / "__init__.py").touch()
    (libraries / "device_agent" / "__main__.py").write_text("import sys\nprint('agent', *sys.argv[1:])\n")
    tree = maker.stage(libraries, folder / "tree", version=version, architecture=architecture)
    out = folder / f"edgefleet-agent_{version}_{architecture}.deb"
    return Path(maker.build(tree, out))


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_one_for_a_plain_shell(script: str) -> None:
    assert subprocess.run(["sh", "-n", str(DEBIAN / script)], capture_output=True, check=False).stderr == b""


def test_the_same_files_give_the_same_bytes(maker: ModuleType, debian: str, tmp_path: Path) -> None:
    first, second = (_package(maker, tmp_path / name, debian) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_files_lie_where_debian_wants_them_and_belong_to_root(maker: ModuleType, debian: str, tmp_path: Path) -> None:
    package = _package(maker, tmp_path, debian)
    listing = subprocess.run(["dpkg-deb", "-c", str(package)], capture_output=True, text=True, check=True).stdout
    files = {line.split()[5]: line.split()[:2] for line in listing.splitlines() if not line.endswith("/")}
    assert files == {
        "./etc/edgefleet/agent.toml": ["-rw-r--r--", "root/root"],
        "./lib/systemd/system/edgefleet-agent.service": ["-rw-r--r--", "root/root"],
        "./usr/bin/edgefleet-agent": ["-rwxr-xr-x", "root/root"],
        "./usr/lib/edgefleet/device_agent/__init__.py": ["-rw-r--r--", "root/root"],
        "./usr/lib/edgefleet/device_agent/__main__.py": ["-rw-r--r--", "root/root"],
        "./usr/share/doc/edgefleet-agent/changelog.gz": ["-rw-r--r--", "root/root"],
        "./usr/share/doc/edgefleet-agent/copyright": ["-rw-r--r--", "root/root"],
        "./usr/share/lintian/overrides/edgefleet-agent": ["-rw-r--r--", "root/root"],
        "./usr/share/man/man8/edgefleet-agent.8.gz": ["-rw-r--r--", "root/root"],
    }


def test_lintian_has_nothing_to_say(maker: ModuleType, debian: str, tmp_path: Path) -> None:
    lintian = shutil.which("lintian")
    if lintian is None:
        pytest.skip("lintian is not installed")
    command = [lintian, "--allow-root", "--fail-on", "error,warning", str(_package(maker, tmp_path, debian))]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == ""


class System:
    """A folder that dpkg takes for a whole system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("updates", "info"):
            (root / "var" / "lib" / "dpkg" / name).mkdir(parents=True)
        for name in ("status", "available"):
            (root / "var" / "lib" / "dpkg" / name).touch()

    def dpkg(self, *arguments: object) -> None:
        forced = "--force-not-root,script-chrootless,depends,bad-path"
        command = ["dpkg", f"--root={self.root}", forced, "--log=/dev/null", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def files(self) -> set[str]:
        """What lies there beside dpkg's own records."""
        found = (path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file())
        return {str(path) for path in found if not str(path).startswith("var/lib/dpkg/")}


@pytest.fixture(name="system")
def _system(debian: str, tmp_path: Path) -> System:
    if os.geteuid() != 0:
        pytest.skip("dpkg installs into a folder as root only")
    return System(tmp_path / "system")


def test_it_is_installed_renewed_removed_and_purged_and_only_the_last_forgets(
    maker: ModuleType, debian: str, system: System, tmp_path: Path
) -> None:
    system.dpkg("--install", _package(maker, tmp_path / "1", debian, "1.0.0"))
    agent = system.root / "usr" / "bin" / "edgefleet-agent"
    environment = {"EDGEFLEET_LIB": str(system.root / "usr/lib/edgefleet"), "EDGEFLEET_PYTHON": sys.executable}
    ran = subprocess.run([agent, "status"], capture_output=True, text=True, env={**os.environ, **environment})
    assert ran.stdout == "agent status\n"
    data = system.root / "var" / "lib" / "edgefleet"
    assert oct(data.stat().st_mode & 0o777) == "0o750"
    (data / "state.db").write_text("what the device knows")
    (system.root / "etc" / "edgefleet" / "agent.toml").write_text("poll_s = 60\n")
    system.dpkg("--force-confold", "--install", _package(maker, tmp_path / "2", debian, "2.0.0"))
    assert (system.root / "etc" / "edgefleet" / "agent.toml").read_text() == "poll_s = 60\n"
    system.dpkg("--remove", "edgefleet-agent")
    assert system.files() == {"etc/edgefleet/agent.toml", "var/lib/edgefleet/state.db"}
    system.dpkg("--purge", "edgefleet-agent")
    assert system.files() == set()


def test_every_requirement_of_the_device_has_one_exact_version() -> None:
    import importlib.metadata

    lines = (ROOT / "deploy" / "agent" / "requirements.txt").read_text().splitlines()
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines if "==" in line}
    stated = importlib.metadata.requires("edgefleet") or []
    wanted = {
        re.sub(r"[-_.]+", "-", found[0]).lower()
        for line in stated
        if ("extra" not in line or "extra == 'device'" in line) and (found := re.match(r"[A-Za-z0-9._-]+", line))
    }
    assert wanted - pinned == set()
    assert all(re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[0-9A-Za-z.]+|", line) for line in lines)


@pytest.mark.wheel
def test_the_wheel_of_a_device_has_its_rooms_and_no_others(maker: ModuleType, tmp_path: Path) -> None:
    made = [maker.device_wheel(maker.project_wheel(tmp_path / name), tmp_path / name) for name in ("a", "b")]
    assert made[0].read_bytes() == made[1].read_bytes()
    with zipfile.ZipFile(made[0]) as archive:
        names = archive.namelist()
        record = archive.read("edgefleet_device-" + made[0].name.split("-")[1] + ".dist-info/RECORD").decode()
        for path, digest, size in csv.reader(record.splitlines()):
            if digest:
                data = archive.read(path)
                encoded = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                assert (digest, int(size)) == (f"sha256={encoded}", len(data)), path
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"device_agent", "edgefleet"}
    assert not [name for name in names if name.startswith(("edgefleet/boards", "edgefleet/cli", "edgefleet/firmware"))]
    environment = tmp_path / "environment"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(environment), str(made[0])]
    subprocess.run(pip, check=True)
    told = subprocess.run(
        [sys.executable, "-m", "device_agent", "--help"],
        capture_output=True,
        text=True,
        cwd=environment,
        env={**os.environ, "PYTHONPATH": str(environment)},
    )
    assert "edgefleet-agent" in told.stdout
