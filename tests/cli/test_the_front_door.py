# SPDX-License-Identifier: Apache-2.0
"""The front door: help, errors and exit statuses are the same behind every verb."""

import inspect
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgefleet.contracts import errors
from edgefleet.contracts.errors import EdgeFleetError

FrontDoor = Callable[[Sequence[str]], Any]
ERRORS = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, EdgeFleetError) and kind.__module__ == errors.__name__
}
STATUSES = {
    "EdgeFleetError": 1, "InputError": 2, "FileMissingError": 2, "SettingError": 2, "RefusedError": 3,
    "BundleError": 3, "ProfileError": 3, "IncompatibleError": 3, "UnsupportedModelError": 3, "SampleError": 3,
    "ModelFailedError": 3, "BudgetError": 3, "TrustError": 3, "MessageError": 3, "PolicyError": 3,
    "CertificateRetiredError": 4, "CertificateLapsedError": 4, "DeviceDecommissionedError": 4, "PossessionError": 4,
    "NotAllowedError": 4, "RolledBackError": 5, "UnreachableError": 1, "StorageError": 1, "PortInUseError": 1,
    "MissingExtraError": 1, "MissingProgramError": 1, "BuildError": 1, "BoardError": 1,
    "ConflictError": 1, "NotFoundError": 1,
}  # fmt: skip


def test_every_error_class_has_a_documented_exit_status() -> None:
    assert {name: int(kind.exit_status) for name, kind in ERRORS.items()} == STATUSES


def test_every_error_class_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in ERRORS.values()]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", STATUSES)
def test_an_error_is_two_lines_on_standard_error(front_door: FrontDoor, kind: str) -> None:
    status, out, err = front_door(["try", "fail", kind])
    assert (status, out) == (STATUSES[kind], "")
    assert err == "error: got 1, expected 2 (a.b)\nhint: make it 2\n"


@pytest.mark.parametrize("kind", STATUSES)
def test_an_error_is_one_json_document_where_json_was_asked_for(front_door: FrontDoor, kind: str) -> None:
    status, out, err = front_door(["try", "fail", kind, "--json"])
    assert (status, err) == (STATUSES[kind], "")
    assert json.loads(out) == {
        "error": {
            "code": ERRORS[kind].code,
            "message": "got 1, expected 2 (a.b)",
            "hint": "make it 2",
            "exit_status": STATUSES[kind],
        }
    }


@pytest.mark.parametrize("status", [0, 1, 3, 5])
def test_a_verb_exits_with_the_status_it_chose(front_door: FrontDoor, status: int) -> None:
    assert front_door(["try", "leave", str(status)]) == (status, "", "")


def test_a_result_is_text_for_people_and_json_for_programs(front_door: FrontDoor) -> None:
    assert front_door(["try", "show"]) == (0, "two\n", "")
    assert front_door(["try", "show", "--json"]) == (0, '{\n  "count": 2\n}\n', "")


WRONG = {
    "an unknown verb": (
        ["convrt"],
        "error: 'convrt' is not a command of edgefleet\nhint: see: edgefleet --help\n",
    ),
    "an unknown option": (
        ["try", "leave", "0", "--loud"],
        "error: edgefleet try: No such option: --loud\nhint: see: edgefleet try --help\n",
    ),
    "a missing argument": (
        ["try", "leave"],
        "error: edgefleet try: Missing argument 'status'.\nhint: see: edgefleet try --help\n",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_is_told_in_one_sentence(front_door: FrontDoor, case: str) -> None:
    arguments, told = WRONG[case]
    assert front_door(arguments) == (2, "", told)


def test_what_the_system_refuses_and_no_room_foresaw_is_told_in_one_sentence(
    front_door: FrontDoor, tmp_path: Path
) -> None:
    assert front_door(["try", "read", str(tmp_path)]) == (
        1,
        "",
        f"error: the system refuses '{tmp_path}': Is a directory\nhint: check paths, permissions and free space\n",
    )


STRANGE = {
    "a name with a line break": ("a\nb", "a\\nb"),
    "a name that steers the terminal": ("\x1b[2Ja\x07", "\\x1b[2Ja\\x07"),
    "a name that is no UTF-8": ("a\udcff", "a\\udcff"),
    "a name in another script": ("Tür→门", "Tür→门"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_an_error_is_two_lines_whatever_it_quotes(front_door: FrontDoor, case: str) -> None:
    name, told = STRANGE[case]
    assert front_door(["try", "quote", name, "--fails"]) == (
        3, "", f"error: '{told}' is no bundle\nhint: look at {told}\n"
    )  # fmt: skip


@pytest.mark.parametrize("case", STRANGE)
def test_json_is_one_document_whatever_it_quotes(front_door: FrontDoor, case: str) -> None:
    name, _ = STRANGE[case]
    sayable = name.replace("\udcff", "\\udcff")  # JSON has no half of a surrogate pair
    status, out, err = front_door(["try", "quote", name, "--fails", "--json"])
    assert (status, err) == (3, "")
    assert json.loads(out)["error"]["message"] == f"'{sayable}' is no bundle"
    assert json.loads(front_door(["try", "quote", name, "--json"]).out) == {"text": sayable}


def test_a_result_does_not_steer_the_terminal(front_door: FrontDoor) -> None:
    assert front_door(["try", "quote", "\x1b[2Ja\n\tb"]) == (0, "\\x1b[2Ja\n\tb\n", "")


def test_a_wrong_value_is_told_with_the_name_of_its_argument(front_door: FrontDoor) -> None:
    status, out, err = front_door(["try", "leave", "soon"])
    assert (status, out) == (2, "")
    assert re.fullmatch(r"error: edgefleet try: Invalid value for 'status': .+\nhint: see: edgefleet try --help\n", err)


def test_a_question_without_an_answer_is_wrong_usage(front_door: FrontDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", open("/dev/null", encoding="utf-8"))  # noqa: SIM115, PTH123  # closed with pytest
    status, _, err = front_door(["try", "ask"])
    assert status == 2
    assert err.endswith(
        "error: edgefleet try: stopped, nothing was confirmed\nhint: answer the question with y, or use --yes\n"
    )


def test_being_stopped_by_hand_is_no_stack_trace(front_door: FrontDoor) -> None:
    status, _, err = front_door(["try", "interrupt"])
    assert status == 130
    assert "Traceback" not in err


def test_help_lists_the_verbs_and_says_what_is_missing_for_the_rest(front_door: FrontDoor) -> None:
    status, out, err = front_door(["--help"])
    assert (status, err) == (0, "")
    assert "  try   Try things." in out
    assert "  away  (pip install 'edgefleet[demo]')" in out
    assert out.endswith("Example: edgefleet demo\n")


def test_no_verb_at_all_shows_the_help_and_is_wrong_usage(front_door: FrontDoor) -> None:
    assert front_door([]) == (2, front_door(["--help"]).out, "")


def test_a_missing_package_is_one_sentence_that_names_the_extra(front_door: FrontDoor) -> None:
    assert front_door(["away"]) == (
        1,
        "",
        "error: 'edgefleet away' needs the Python package 'no_such_package_at_all', which is not installed\n"
        "hint: run: pip install 'edgefleet[demo]'\n",
    )


def test_every_verb_that_rooms_hang_on_the_door_is_known_to_the_order_of_help() -> None:
    from edgefleet.cli.main import _ORDER, verbs

    assert set(verbs()) <= set(_ORDER)
