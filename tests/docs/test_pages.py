# SPDX-License-Identifier: Apache-2.0
"""Links lead somewhere, examples fit their schema, and every command in the documents is one that exists."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from converter.core.recipe import read_recipe
from device_agent import cli as agent_cli
from device_agent.settings import AgentSettings
from edgefleet.cli.main import verbs
from edgefleet.cli.typer_adapter import command_of
from edgefleet.contracts.decoding import decode_toml
from edgefleet.contracts.manifest import Preprocessing
from edgefleet.contracts.policy import read_policy
from edgefleet.contracts.profile import Profile
from firmware_profiles.rules import broken_rules

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*.md"), *ROOT.glob("examples/*/*.md")]
)
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
#: Commands of the documented shape that later issues bring; nothing in the documents may use them before.
_PLACEHOLDERS = {"COMMAND", "VERB"}


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_internal_link_leads_somewhere(page: Path) -> None:
    text = _without_code(page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in _anchors(found), f"{target} has no such heading"


def test_every_page_of_the_documents_is_linked_from_another() -> None:
    linked = set()
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                linked.add((page.parent / target).resolve())
    lonely = [str(page.relative_to(ROOT)) for page in ROOT.glob("docs/**/*.md") if page not in linked]
    assert lonely == []


def _blocks(page: str, language: str) -> list[bytes]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE).encode() for indent, block in found]


def test_the_examples_of_policies_are_policies() -> None:
    blocks = _blocks("reference/policy.md", "toml")
    assert blocks
    for block in blocks:
        read_policy(block, source="the example")


@pytest.mark.parametrize("page", ["reference/profiles.md", "how-to/add-a-board.md"])
def test_the_examples_of_profiles_are_profiles(page: str) -> None:
    blocks = _blocks(page, "toml")
    assert blocks
    for block in blocks:
        assert broken_rules(decode_toml(block, Profile, source="the example")) == []


def test_the_example_of_agent_settings_is_one() -> None:
    (block,) = _blocks("reference/agent-configuration.md", "toml")
    decode_toml(block, AgentSettings, source="the example")


def test_the_examples_of_preprocessing_and_recipe_are_such() -> None:
    preprocessing, recipe = _blocks("how-to/convert-a-model.md", "toml")
    decode_toml(preprocessing, Preprocessing, source="the example")
    read_recipe(recipe, source="the example")


def test_the_how_to_converts_as_the_example_board_says() -> None:
    (block,) = _blocks("how-to/add-a-board.md", "toml")
    assert decode_toml(block, Profile, source="the example").id == "kiosk-a55"


def _command_lines(page: Path) -> Iterator[str]:
    """Yield every command line of ours that stands at the start of a line of code, continuations joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^(?: {4,}|)(edgefleet(?:-agent)? .+)$", text, re.MULTILINE):
        yield re.sub(r"\s[>|&].*$", "", line)


def _typer_options(words: list[str]) -> set[str]:
    command: Any = command_of(verbs()[words[0]].load())
    options = {"--help"}
    for word in words[1:]:
        children = getattr(command, "commands", {})
        if not children:
            break
        command = children[word]
    assert not getattr(command, "commands", {}), f"'{' '.join(words)}' names no command"
    return options | {option for parameter in command.params for option in parameter.opts}


def _agent_options(words: list[str]) -> set[str]:
    parser: Any = agent_cli._parser()
    for word in words:
        groups = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
        if not groups:
            break
        parser = groups[0][word]
    return {option for action in parser._actions for option in action.option_strings}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_in_the_documents_exists_with_its_options(page: Path) -> None:
    for line in _command_lines(page):
        program, *words = shlex.split(line, comments=True)
        if not words or words[0].startswith("-") or words[0] in _PLACEHOLDERS:
            continue
        known = _typer_options(words) if program == "edgefleet" else _agent_options(words)
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= known, f"{line}: {sorted(used - known)}"
