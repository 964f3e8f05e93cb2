# SPDX-License-Identifier: Apache-2.0
"""Modules come after what they depend on, whatever a release of Debian builds in or compresses."""

import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet.contracts.errors import EdgeFleetError
from fleet_emulation.linux_devices.kernel_modules import dependencies, load_order


def _module(needs: str) -> bytes:
    return b"\x7fELF..license=GPL\0depends=" + needs.encode() + b"\0retpoline=Y\0name=x\0"


@pytest.fixture(name="release")
def _release(tmp_path: Path) -> Path:
    """A kernel's modules: one built in, one compressed, one with a dash in its file's name."""
    folder = tmp_path / "6.1.0-cloud-arm64"
    (folder / "kernel/net").mkdir(parents=True)
    (folder / "kernel/net/virtio_net.ko").write_bytes(_module("virtio_ring,net-failover,virtio"))
    (folder / "kernel/net/net-failover.ko.xz").write_bytes(lzma.compress(_module("failover")))
    (folder / "kernel/net/failover.ko").write_bytes(_module(""))
    (folder / "kernel/net/virtio_ring.ko").write_bytes(_module(""))
    (folder / "modules.builtin").write_text("kernel/drivers/virtio/virtio.ko\nkernel/fs/ext4/ext4.ko\n")
    return folder


def test_what_a_module_needs_comes_before_it_and_what_is_built_in_is_left_out(release: Path) -> None:
    found = load_order(["ext4", "virtio_net"], release)
    assert [module.name for module in found] == ["virtio_ring", "failover", "net_failover", "virtio_net"]
    assert found[2].content == _module("failover"), "it was compressed"


def test_a_module_that_a_kernel_lacks_is_named(release: Path) -> None:
    with pytest.raises(EdgeFleetError) as raised:
        load_order(["virtio_blk"], release)
    assert raised.value.message == "the kernel in '6.1.0-cloud-arm64' has no module 'virtio_blk'"


@given(st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True), max_size=5), st.binary(max_size=30))
def test_dependencies_are_read_wherever_they_stand(names: list[str], before: bytes) -> None:
    section = b"\0depends=" + ",".join(names).encode() + b"\0intree=Y\0"
    assert dependencies(before.replace(b"depends=", b"") + section) == names
