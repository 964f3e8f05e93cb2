# SPDX-License-Identifier: Apache-2.0
"""The settings file and the command line: what is wrong is said in one sentence."""

import argparse
import json
import os
import tomllib
from pathlib import Path

import msgspec
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from device_agent.cli import _parser, main
from device_agent.core.settings.remote_settings import merged
from device_agent.settings import AgentSettings, decode_settings, read_settings
from edgefleet.contracts.device_settings import RemoteSettings, read_remote_settings
from edgefleet.contracts.errors import FileMissingError, SettingError, TrustError
from edgefleet.contracts.files import read_file

DEPLOY = Path(__file__).parents[2] / "deploy" / "agent"


def test_the_settings_that_are_shipped_are_the_defaults():
    assert read_settings(DEPLOY / "agent.toml") == AgentSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("polls = 3", "there is no setting 'polls'; the nearest is 'poll_s'"),
        ("Outbox-Bytes = 3", "there is no setting 'Outbox-Bytes'; the nearest is 'outbox_bytes'"),
        ("zzz = 3", "there is no setting 'zzz'"),
        (
            "polls = 3\n[broker]\nhots = 'a'",
            "there is no setting 'polls'; the nearest is 'poll_s'; "
            "there is no setting 'broker.hots'; the nearest is 'broker.host'",
        ),
        (
            "[[applications]]\napplication = 'gate'\n[applications.interface]\nlabel = ['a']\n"
            "[[applications.interface.inputs]]\nname = 'x'\n[[applications.interface.inputs]]\nshaep = [1]",
            "there is no setting 'applications[0].interface.label'; the nearest is 'applications[0].interface.labels'; "
            "there is no setting 'applications[0].interface.inputs[1].shaep'; "
            "the nearest is 'applications[0].interface.inputs[1].shape'",
        ),
        ("[[applications]]\napplication = ''", "'applications[0].application': expected `str` of length >= 1"),
        ("poll_s = 0.0", "'poll_s': expected `float` > 0.0, got 0.0"),
        ("poll_s = inf", "'poll_s': expected `float` <= 604800.0, got inf"),
        ("poll_s = nan", "'poll_s': expected `float` > 0.0, got nan"),
        ("poll_s = 'often'", "'poll_s': expected `float`, got `str`"),
        ("broker = 3", "'broker': expected `object | null`, got `int`"),
        ("[broker]\nhost = 'a'", "'broker': object missing required field `port`"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, text, message):
    path = tmp_path / "agent.toml"
    path.write_text(text)
    with pytest.raises(SettingError) as raised:
        read_settings(path)
    assert raised.value.message == f"{path}: {message}"


def test_what_is_no_file_or_without_end_is_not_read(tmp_path, capsys):
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    large.touch()
    os.truncate(large, 10 << 30)
    for path, why in (
        (pipe, "it is a device or a pipe, expected a file"),
        (Path("/dev/zero"), "it is a device or a pipe, expected a file"),
        (large, "it has 10737418240 bytes, over the limit of 1048576"),
        (tmp_path, "Is a directory"),
    ):
        assert main(["config", "check", str(path)]) == 2
        told = capsys.readouterr().err
        assert told == f"error: cannot read the settings '{path}': {why}\nhint: check the path given to --config\n"
        assert main(["enrol", "--data", str(tmp_path / "device"), "--ticket", str(path)]) == 2
        assert capsys.readouterr().err.startswith(f"error: cannot read the ticket '{path}': {why}\n")
        output = tmp_path / "diagnosis.tar.gz"
        assert main(["diagnose", "--data", str(tmp_path), "--config", str(path), "--output", str(output)]) == 0
        capsys.readouterr()


@pytest.mark.parametrize(("limit_bytes", "why"), [(3, ""), (2, "it has more than 2 bytes")])
def test_a_pipe_that_the_process_was_given_is_read_up_to_the_limit(limit_bytes, why):
    ours, theirs = os.pipe()
    os.write(theirs, b"abc")
    os.close(theirs)
    path = Path(f"/dev/fd/{ours}")
    try:
        if not why:
            assert read_file(path, "the ticket", limit_bytes=limit_bytes) == b"abc"
            return
        with pytest.raises(FileMissingError) as raised:
            read_file(path, "the ticket", limit_bytes=limit_bytes)
        assert raised.value.message == f"cannot read the ticket '{path}': {why}"
    finally:
        os.close(ours)


def test_a_user_who_may_not_look_is_told_so(enrolled, capsys):
    root = str(enrolled.root)
    commands = (["status"], ["software", "status"], ["hold", "arm", "--for", "5"])
    for words in commands:  # what they import is not this test's matter
        assert main([*words, "--data", root]) == 0
    capsys.readouterr()
    is_root = os.geteuid() == 0
    enrolled.root.chmod(0o700 if is_root else 0)
    if is_root:
        os.seteuid(65534)
    try:
        for words in commands:
            assert main([*words, "--data", root]) == 4
    finally:
        if is_root:
            os.seteuid(0)
        enrolled.root.chmod(0o700)
    hint = "hint: run it as root, or as the agent's user\n"
    assert capsys.readouterr().err == f"error: '{root}' may not be read by this user\n{hint}" * 3


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "--data", "{0}"], 2, "'{0}' holds no enrolled device"),
        (["status", "--data", "{0}"], 2, "'{0}' holds no enrolled device"),
        (
            ["run", "--data", "{0}", "--config", "{0}/none.toml"],
            2,
            "cannot read the settings '{0}/none.toml': No such file or directory",
        ),
        (
            ["enrol", "--data", "{0}", "--ticket", "{0}/none.json"],
            2,
            "cannot read the ticket '{0}/none.json': No such file or directory",
        ),
        (
            ["run", "--data", "{0}", "--time-scale", "0"],
            2,
            "argument --time-scale: '0' is not a number greater than zero",
        ),
        (["config", "dance"], 2, "argument VERB: invalid choice: 'dance' (choose from 'check', 'schema')"),
        (
            ["config", "check", "{0}/none.toml"],
            2,
            "cannot read the settings '{0}/none.toml': No such file or directory",
        ),
        (
            ["feedback", "--data", "{0}", "1", "cat"],
            1,
            "the agent does not answer on '{0}/inference.sock': No such file or directory",
        ),
    ],
)
def test_wrong_usage_is_one_sentence_and_a_hint(tmp_path, capsys, arguments, status, message):
    filled = [argument.format(tmp_path) for argument in arguments]
    assert main([*filled, "--json"]) == status
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["message"] == message.format(tmp_path)
    assert error["exit_status"] == status
    assert main(filled) == status
    assert capsys.readouterr().err == f"error: {error['message']}\nhint: {error['hint']}\n"


def _leaves(parser, words=()):
    """Every command with all its words."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    found = [
        leaf for group in groups for word, child in group.choices.items() for leaf in _leaves(child, (*words, word))
    ]
    return found if groups else [words]


@pytest.mark.parametrize("words", _leaves(_parser()), ids=" ".join)
def test_every_verb_has_help_with_an_example(words, capsys):
    with pytest.raises(SystemExit) as raised:
        main([*words, "--help"])
    assert raised.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"example: edgefleet-agent {' '.join(words)} " in shown
    assert "--json" in shown


def test_a_good_file_is_checked_and_shown_with_all_defaults(tmp_path, capsys):
    path = tmp_path / "agent.toml"
    path.write_text("poll_s = 60\n")
    assert main(["config", "check", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["settings"]
    assert shown == json.loads(msgspec.json.encode(AgentSettings(poll_s=60.0)))
    assert main(["config", "check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path} can be used\n"


def test_the_schema_bounds_and_describes_every_setting(capsys):
    assert main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    settings = schema["$defs"]["AgentSettings"]
    assert settings["additionalProperties"] is False
    assert set(settings["properties"]) == {field.name for field in msgspec.structs.fields(AgentSettings)}
    assert [name for name, facts in settings["properties"].items() if not facts.get("description")] == []
    assert settings["properties"]["poll_s"]["exclusiveMinimum"] == 0.0


@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_is_in_the_file_is_settings_or_one_sentence(data):
    told = _refusal(data)
    assert told is None or told.startswith("agent.toml")


def _refusal(data):
    """What is said of a file; None where it can be used."""
    try:
        decode_settings(data, source="agent.toml")
    except SettingError as error:
        return error.message
    return None


_VALUES = st.booleans() | st.integers(-3, 10**6) | st.floats(allow_nan=False) | st.text(max_size=5)
_KEYS = st.sampled_from([field.name for field in msgspec.structs.fields(AgentSettings)]) | st.text(max_size=12)


@given(document=st.dictionaries(_KEYS, _VALUES | st.dictionaries(_KEYS, _VALUES, max_size=3), max_size=5))
def test_every_wrong_key_of_a_document_is_named(document):
    text = tomli_w.dumps(document)
    written = tomllib.loads(text)
    wrong = [key for key in written if key not in {field.name for field in msgspec.structs.fields(AgentSettings)}]
    told = _refusal(text.encode())
    assert [key for key in wrong if told is None or f"there is no setting '{key}'" not in told] == []


def test_what_is_set_from_afar_replaces_the_few_settings_that_it_may():
    own = AgentSettings(poll_s=60.0, capture_bytes=1000, socket="/run/a.sock")
    assert merged(own, None) == own
    assert merged(own, RemoteSettings()) == own
    remote = RemoteSettings(poll_s=20.0, telemetry_s=30.0, compare_share=0.1, capture=False)
    changed = AgentSettings(poll_s=20.0, telemetry_s=30.0, compare_share=0.1, capture_bytes=0, socket="/run/a.sock")
    assert merged(own, remote) == changed


def test_capture_cannot_be_switched_on_where_the_device_allows_none():
    assert merged(AgentSettings(), RemoteSettings(capture=True)).capture_bytes == 0
    assert merged(AgentSettings(capture_bytes=9), RemoteSettings(capture=True)).capture_bytes == 9


_REMOTE = st.builds(
    RemoteSettings,
    poll_s=st.none() | st.floats(10.0, 86400.0),
    telemetry_s=st.none() | st.floats(10.0, 86400.0),
    compare_share=st.none() | st.floats(0.0, 1.0),
    capture=st.none() | st.booleans(),
)
_FROM_AFAR = {"poll_s", "telemetry_s", "compare_share", "capture_bytes"}


@given(remote=_REMOTE, capture_bytes=st.integers(0, 1 << 30))
def test_whatever_is_signed_changes_nothing_else_and_captures_no_more(remote, capture_bytes):
    own = AgentSettings(capture_bytes=capture_bytes, factory_model="/a", socket="/b", threads=2)
    now = merged(own, remote)
    differing = {name for name in own.__struct_fields__ if getattr(own, name) != getattr(now, name)}
    assert differing <= _FROM_AFAR
    assert now.capture_bytes <= own.capture_bytes
    assert merged(now, remote) == now
    assert decode_settings(tomli_w.dumps(_written(now)).encode(), source="x") == now  # it stays within every bound


def _written(settings):
    return {key: value for key, value in msgspec.to_builtins(settings).items() if value is not None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('socket = "/tmp/x"', "the signed settings: Object contains unknown field `socket`"),
        ("poll_s = 1.0", "the signed settings: Expected `float` >= 10.0 - at `$.poll_s`"),
        ("[broker]", "the signed settings: Object contains unknown field `broker`"),
        (" " * 5000, "the signed settings have 5000 bytes, the limit is 4096"),
    ],
)
def test_settings_from_afar_that_reach_too_far_are_refused(text, message):
    with pytest.raises(TrustError) as raised:
        read_remote_settings(text.encode())
    assert raised.value.message == message
