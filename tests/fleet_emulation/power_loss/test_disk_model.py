# SPDX-License-Identifier: Apache-2.0
"""What the model says that a power cut may leave, and that it carries out what the kernel does."""

import os
from pathlib import Path

import pytest

from fleet_emulation.power_loss.changes import (
    Change,
    ChangeReader,
    Made,
    Removed,
    Renamed,
    Resized,
    Synced,
    Told,
    UnknownCallError,
    Written,
)
from fleet_emulation.power_loss.disk_model import DiskModel, Tree
from fleet_emulation.power_loss.lost_writes import read_tree, write_tree
from fleet_emulation.power_loss.tracing import record


def remains_of(before: Tree, *changes: Change) -> list[Tree]:
    model = DiskModel(before)
    for change in changes:
        model.carry_out(change)
    return [remains.tree for remains in model.remains()]


def test_what_was_synced_is_left_and_nothing_else() -> None:
    left = remains_of({}, Made("a"), Written("a", 0, b"12"), Synced("a"), Synced("."))
    assert left == [{"a": b"12"}] * len(left)


def test_a_name_without_a_sync_of_its_folder_may_be_lost() -> None:
    left = remains_of({}, Made("a"), Written("a", 0, b"12"), Synced("a"))
    assert {} in left
    assert {"a": b"12"} in left


def test_bytes_without_a_sync_of_their_file_may_be_lost_or_zeros() -> None:
    left = remains_of({}, Made("a"), Written("a", 0, b"1234"), Synced("."))
    assert [{"a": data} in left for data in (b"", bytes(4), b"1234", b"12")] == [True] * 4


def test_a_rename_before_the_bytes_are_synced_may_leave_an_empty_file_in_place_of_the_old_one() -> None:
    left = remains_of({"a": b"old"}, Made("b"), Written("b", 0, b"new"), Renamed("b", "a"), Synced("."))
    assert {"a": b""} in left
    assert {"a": b"old"} not in left, "the folder was synced"


def test_a_rename_done_right_leaves_the_old_or_the_new_file() -> None:
    steps: tuple[Change, ...] = (Made("b"), Written("b", 0, b"new"), Synced("b"), Renamed("b", "a"), Synced("."))
    for cut in range(len(steps) + 1):
        for tree in remains_of({"a": b"old"}, *steps[:cut]):
            assert tree["a"] in (b"old", b"new")
    assert tree["a"] == b"new"


def test_names_are_lost_from_the_newest_on() -> None:
    left = remains_of({}, Made("a"), Made("b"))
    assert {"a": b""} in left
    assert {"b": b""} not in left


def test_writes_come_in_any_order_and_torn() -> None:
    before = {"a": bytes(1024)}
    first, second = Written("a", 0, b"1" * 512), Written("a", 512, b"2" * 512)
    left = remains_of(before, first, second)
    assert {"a": bytes(512) + b"2" * 512} in left
    assert {"a": b"1" * 512 + bytes(512)} in left
    torn = remains_of({"a": bytes(1024)}, Written("a", 0, b"3" * 1024))
    assert {"a": b"3" * 512 + bytes(512)} in torn
    assert {"a": bytes(512) + b"3" * 512} in torn


def test_a_removed_file_comes_back_until_its_folder_is_synced() -> None:
    assert {"a": b"1"} in remains_of({"a": b"1"}, Removed("a"))
    assert {"a": b"1"} not in remains_of({"a": b"1"}, Removed("a"), Synced("."))


def test_promises_change_no_disk() -> None:
    assert remains_of({"a": b"1"}, Told(b"x")) == remains_of({"a": b"1"})


def test_a_cut_file_may_have_its_old_length() -> None:
    left = remains_of({"a": b"1234"}, Resized("a", 1))
    assert {"a": b"1234"} in left
    assert {"a": b"1"} in left


@pytest.mark.usefixtures("traced")
def test_the_model_ends_where_the_kernel_ends(scratch: Path) -> None:
    root, promises = scratch / "root", scratch / "promises"
    write_tree({"kept": b"old", "folder": None}, root)
    before = read_tree(root)

    def work() -> None:
        with (root / "kept").open("r+b") as stream:
            stream.seek(2)
            stream.write(b"wer")
            stream.truncate(4)
        with (root / "new").open("ab") as stream:
            stream.write(b"1")
            stream.flush()
            stream.write(b"2")
            os.fsync(stream.fileno())
        with promises.open("ab", buffering=0) as told:
            told.write(b"done\n")
        (root / "new").rename(root / "folder" / "moved")
        (root / "link").symlink_to("kept")
        (root / "made").mkdir()
        (root / "gone").touch()
        (root / "gone").unlink()

    calls = record(work, scratch / "log")
    reader = ChangeReader(str(root), str(promises), {"kept": 3})
    model = DiskModel(before)
    changes = [change for call in calls for change in reader.read(call)]
    for change in changes:
        model.carry_out(change)
    assert model.now() == read_tree(root)
    assert model.now() == {"kept": b"olwe", "folder": None, "folder/moved": b"12", "link": "kept", "made": None}
    assert Told(b"done") in changes


@pytest.mark.usefixtures("traced")
def test_a_call_that_is_not_modelled_is_named(scratch: Path) -> None:
    root = scratch / "root"
    write_tree({"a": b"1"}, root)
    calls = record(lambda: os.link(root / "a", root / "b"), scratch / "log")
    reader = ChangeReader(str(root), "", {"a": 1})
    with pytest.raises(UnknownCallError, match=r"the system call 'link(at)?' on '.*root/a' is not modelled"):
        list(map(reader.read, calls))
