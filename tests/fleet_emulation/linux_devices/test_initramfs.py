# SPDX-License-Identifier: Apache-2.0
"""The initial RAM disk is what the kernel's documentation calls "newc"."""

import stat

from hypothesis import given
from hypothesis import strategies as st

from fleet_emulation.linux_devices.initramfs import Entry, archive

_HEADER_BYTES = 110
NAMES = st.from_regex(r"[a-z][a-z0-9/._-]{0,30}", fullmatch=True)
ENTRIES = st.builds(Entry, NAMES, st.sampled_from([stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644]), st.binary(max_size=40))


def read(data: bytes) -> list[tuple[str, int, bytes]]:
    """Read an archive as the kernel does: hexadecimal fields, names and contents on multiples of four."""
    found = []
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[start : start + 8], 16) for start in range(at + 6, at + _HEADER_BYTES, 8)]
        size, name_size = fields[6], fields[11]
        name = data[at + _HEADER_BYTES : at + _HEADER_BYTES + name_size]
        assert name.endswith(b"\0")
        content = (at + _HEADER_BYTES + name_size + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            return found
        found.append((name[:-1].decode(), fields[1], data[content : content + size]))
        at = (content + size + 3) // 4 * 4


@given(st.lists(ENTRIES, max_size=6))
def test_what_is_put_in_is_read_back(entries: list[Entry]) -> None:
    assert read(archive(entries)) == [tuple(entry) for entry in entries]


def test_every_entry_has_a_number_of_its_own() -> None:
    """Equal numbers would be links to one file."""
    data = archive([Entry("a", stat.S_IFREG, b"1"), Entry("b", stat.S_IFREG, b"2")])
    numbers = [data[start + 6 : start + 14] for start in range(len(data)) if data[start : start + 6] == b"070701"]
    assert len(set(numbers)) == len(numbers) == 3
