# SPDX-License-Identifier: Apache-2.0
"""Writes docs/reference/command-line.md from the command lines themselves.

Run it with ``python scripts/write_command_line_reference.py``. A test compares the page with what it would write.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from device_agent import cli as agent_cli
from edgefleet.cli.main import verbs
from edgefleet.cli.typer_adapter import command_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "command-line.md"
INTRODUCTION = """\
# Command line

This page is made from the commands themselves by `scripts/write_command_line_reference.py`.

Two programs: `edgefleet` for people and their machines, `edgefleet-agent` for a device. Every command has `--help`
with an example, and `--json` for one JSON document on standard output; progress goes to standard error.
[Exit statuses and errors](exit-status-and-errors.md) are the same everywhere. A command whose Python extra is not
installed says which one it needs.
"""
_STANDARD = {"--help", "--json"}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")


def page() -> str:
    """Return the whole page as Markdown."""
    parts = [INTRODUCTION]
    for name, point in verbs().items():
        parts.append(f"## edgefleet {name}\n")
        parts += [_typer_section(words, command) for words, command in _commands(command_of(point.load()), (name,))]
    parts.append("## edgefleet-agent\n")
    parts += [_argparse_section(name, parser) for name, parser in _agent_commands(agent_cli._parser(), "")]
    return "\n".join(parts)


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", {})
    if not children:
        yield words, command
    for name, child in children.items():
        yield from _commands(child, (*words, name))


def _typer_section(words: tuple[str, ...], command: Any) -> str:
    rows = [_typer_row(parameter) for parameter in command.params if not set(parameter.opts) & _STANDARD]
    arguments = " ".join(_shown(p) for p in command.params if p.param_type_name == "argument")
    required = " ".join(f"{p.opts[0]} {_value(p)}" for p in command.params if _is_option(p) and p.required)
    usage = " ".join(part for part in (f"edgefleet {' '.join(words)}", arguments, required, "[OPTIONS]") if part)
    heading = f"### edgefleet {' '.join(words)}\n\n" if len(words) > 1 else ""
    return heading + _section(usage, command.help or "", rows, command.epilog or "")


def _typer_row(parameter: Any) -> tuple[str, str]:
    if not _is_option(parameter):
        return _shown(parameter), getattr(parameter, "help", "") or ""
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    shown = names if parameter.is_flag else f"{names} {_value(parameter)}"
    text = parameter.help or ""
    if parameter.required:
        text += " Required."
    elif parameter.default not in (None, False, True, (), []) and not callable(parameter.default):
        text += f" Default: `{parameter.default}`."
    if parameter.multiple:
        text += " May be given more than once."
    return shown, text.strip()


def _is_option(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "option")


def _shown(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return f"{name}..." if parameter.nargs == -1 else str(name)


def _value(parameter: Any) -> str:
    return str(parameter.metavar or parameter.opts[0].strip("-").replace("-", "_").upper())


def _agent_commands(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield name, parser
    for group in groups:
        for word, child in group.choices.items():
            yield from _agent_commands(child, f"{name} {word}".strip())


def _argparse_section(name: str, parser: argparse.ArgumentParser) -> str:
    rows, required = [], []
    for action in parser._actions:
        if set(action.option_strings) & _STANDARD:
            continue
        value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
        shown = " ".join(part for part in (", ".join(action.option_strings), value) if part)
        rows.append((shown, f"{_sentence(action.help or '')}{' Required.' if action.required else ''}"))
        if action.required:
            required.append(shown)
    usage = " ".join([f"edgefleet-agent {name}", *required, "[OPTIONS]"])
    text = _section(usage, _sentence(parser.description or ""), rows, _sentence(parser.epilog or "", stop=""))
    return f"### edgefleet-agent {name}\n\n{text}"


def _sentence(text: str, *, stop: str = ".") -> str:
    return text[:1].upper() + text[1:] + (stop if text and not text.endswith(".") else "")


def _section(usage: str, text: str, rows: list[tuple[str, str]], example: str) -> str:
    lines = ["```text", usage, "```", "", " ".join(text.split()), ""]
    if rows:
        lines += ["| | |", "|---|---|"]
        lines += [f"| `{_cell(shown)}` | {_cell(meaning)} |" for shown, meaning in rows]
        lines.append("")
    return "\n".join([*lines, _example(example), ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _example(epilog: str) -> str:
    return re.sub(r"^Example: (.+)$", r"Example: `\1`", " ".join(epilog.split()))


if __name__ == "__main__":
    main()
