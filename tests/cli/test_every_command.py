# SPDX-License-Identifier: Apache-2.0
"""Every installed verb loads, and every command of it has help with an example and ``--json``."""

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest
import typer

from edgefleet.cli.main import GROUP, verbs
from edgefleet.cli.typer_adapter import command_of


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", {})
    if not children:
        yield words, command
    for name, child in children.items():
        yield from _commands(child, (*words, name))


@pytest.mark.parametrize("verb", verbs())
def test_a_verb_is_a_typer_application_with_one_sentence_of_help(verb: str) -> None:
    app = verbs()[verb].load()
    assert isinstance(app, typer.Typer)
    assert command_of(app).get_short_help_str(limit=90).endswith(".")


@pytest.mark.parametrize("verb", verbs())
def test_every_command_has_an_example_and_json(verb: str) -> None:
    for words, command in _commands(command_of(verbs()[verb].load()), (verb,)):
        path = " ".join(words)
        assert command.help, f"edgefleet {path} has no help"
        assert command.epilog, f"edgefleet {path} has no example"
        assert f"edgefleet {path}" in command.epilog, f"the example of 'edgefleet {path}' is not one of it"
        options = {option for parameter in command.params for option in parameter.opts}
        assert "--json" in options, f"edgefleet {path} has no --json"


@pytest.mark.parametrize("verb", verbs())
def test_every_option_says_what_it_is_for(verb: str) -> None:
    silent = [
        f"edgefleet {' '.join(words)} {parameter.opts[0]}"
        for words, command in _commands(command_of(verbs()[verb].load()), (verb,))
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.help
    ]
    assert silent == []


@pytest.mark.parametrize("verb", verbs())
def test_no_verb_offers_to_install_completion_that_it_does_not_have(verb: str) -> None:
    options = {option for parameter in command_of(verbs()[verb].load()).params for option in parameter.opts}
    assert "--install-completion" not in options


def test_no_two_rooms_claim_one_verb() -> None:
    names = [point.name for point in entry_points(group=GROUP)]
    assert sorted(names) == sorted(set(names))
