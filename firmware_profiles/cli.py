# SPDX-License-Identifier: Apache-2.0
"""``edgefleet profiles``: list, show and validate the facts about boards."""

from pathlib import Path
from typing import Annotated

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit
from edgefleet.contracts.errors import InputError
from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.profile import Profile, compat_hash
from firmware_profiles.loader import list_profiles, load_profile

app = typer.Typer(help="The facts about boards: list them, show one, check your own.", no_args_is_help=True)


class ProfileSummary(Fact, frozen=True, kw_only=True):
    """One line of the list."""

    id: str
    title: str
    architecture: str
    runtime: str
    precisions: tuple[str, ...]


class ProfileDocument(Fact, frozen=True, kw_only=True):
    """A whole profile and the hash that decides what runs on it."""

    profile: Profile
    compat_hash: str


@app.command("list", epilog="Example: edgefleet profiles list --json")
def list_(as_json: JsonOption = False) -> None:
    """List the boards that EdgeFleet knows."""
    rows = [_summary(profile) for profile in list_profiles()]
    emit(rows, as_json=as_json, human=lambda: _table(rows))


@app.command(epilog="Example: edgefleet profiles show raspberry-pi-4")
def show(
    profile: Annotated[str, typer.Argument(help="A profile's id, or a file of your own.", metavar="ID|FILE.toml")],
    as_json: JsonOption = False,
) -> None:
    """Show all facts of one board, and the hash that decides what runs on it."""
    found = load_profile(profile)
    document = ProfileDocument(profile=found, compat_hash=compat_hash(found))
    emit(document, as_json=as_json, human=lambda: _facts(document))


@app.command(epilog="Example: edgefleet profiles validate my-board.toml")
def validate(
    file: Annotated[Path, typer.Argument(help="A board's TOML file.", metavar="FILE.toml")],
    as_json: JsonOption = False,
) -> None:
    """Check a board's file: the schema, and the rules between its fields."""
    if file.suffix != ".toml":
        raise InputError(f"'{file}' is not a .toml file", hint="name the board's TOML file")
    found = load_profile(str(file))
    document = ProfileDocument(profile=found, compat_hash=compat_hash(found))
    emit(document, as_json=as_json, human=f"{file.name} is a valid profile: {found.id} ({found.title})")


def _summary(profile: Profile) -> ProfileSummary:
    return ProfileSummary(
        id=profile.id,
        title=profile.title,
        architecture=profile.cpu.architecture,
        runtime=f"{profile.runtime.kind} {profile.runtime.version}",
        precisions=profile.precisions,
    )


def _table(rows: list[ProfileSummary]) -> str:
    width = max(len(row.id) for row in rows)
    return "\n".join(f"{row.id:<{width}}  {row.title}, {row.runtime}: {', '.join(row.precisions)}" for row in rows)


def _facts(document: ProfileDocument) -> str:
    profile = document.profile
    cpu = profile.cpu
    regions = [f"  {r.name}: {r.size_bytes} bytes at 0x{r.origin:08x}" for r in profile.memory.regions]
    budgets = [
        f"  {name}: {value}"
        for name in profile.budgets.__struct_fields__
        if (value := getattr(profile.budgets, name)) is not None
    ]
    return "\n".join(
        [
            f"{profile.id}: {profile.title}",
            f"cpu: {cpu.architecture}, {cpu.cores} × {cpu.core} {' '.join(cpu.features)}".rstrip(),
            f"memory: {profile.memory.ram_bytes} bytes of RAM",
            *regions,
            f"runtime: {profile.runtime.kind} {profile.runtime.version}, {profile.runtime.numerics}",
            *_accelerator(profile),
            f"precisions: {', '.join(profile.precisions)}",
            f"operators: {', '.join(profile.operators) or 'all that the runtime has'}",
            "budgets:" if budgets else "budgets: none",
            *budgets,
            f"swap: {profile.swap}",
            f"compat_hash: {document.compat_hash}",
        ]
    )


def _accelerator(profile: Profile) -> list[str]:
    npu = profile.accelerator
    return [] if npu is None else [f"npu: {npu.id}, for {npu.minimum_npu_share:.0%} of the operators or more"]
