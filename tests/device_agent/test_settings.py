# SPDX-License-Identifier: Apache-2.0
"""The settings file and the command line: what is wrong is said in one sentence."""

import json
from pathlib import Path

import pytest

from device_agent.cli import main
from device_agent.settings import AgentSettings, read_settings
from edgefleet.contracts.errors import SettingError

DEPLOY = Path(__file__).parents[2] / "deploy" / "agent"


def test_the_settings_that_are_shipped_are_the_defaults():
    assert read_settings(DEPLOY / "agent.toml") == AgentSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("polls = 3", "Object contains unknown field `polls`"),
        ("poll_s = 0.0", "Expected `float` > 0.0 - at `$.poll_s`"),
        ("poll_s = 'often'", "Expected `float`, got `str` - at `$.poll_s`"),
        ("[broker]\nhost = 'a'", "Object missing required field `port` - at `$.broker`"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, text, message):
    path = tmp_path / "agent.toml"
    path.write_text(text)
    with pytest.raises(SettingError) as raised:
        read_settings(path)
    assert raised.value.message == f"{path}: {message}"


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
        (["dance"], 2, "argument VERB: invalid choice: 'dance' (choose from 'enrol', 'run', 'status', 'feedback')"),
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


@pytest.mark.parametrize("verb", ["enrol", "run", "status", "feedback"])
def test_every_verb_has_help_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as raised:
        main([verb, "--help"])
    assert raised.value.code == 0
    shown = capsys.readouterr().out
    assert f"example: edgefleet-agent {verb} --" in shown
    assert "--json" in shown
