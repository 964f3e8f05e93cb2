# SPDX-License-Identifier: Apache-2.0
"""Stored figures, and what a run may cost against them.

The rules:

1. Figures are compared with those that were stored under the same name for the same profile, compiler, version and
   flags. Others cannot be compared, which is told and does not fail: a machine with another compiler is no regression.
2. Counts are exact and the same in every run, so the tolerance is 0 % unless a test says otherwise. Less is reported.
3. What is measured (the model, its inputs, the numerics, EdgeFleet's release) is no part of the key: a new model that
   costs more must be seen. The message says that it is another one.
4. No stored figures at all under a name and profile, or a file that cannot be read, fail: a rule that cannot be read
   stops. So does a figure that is stored and was not measured any more.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from edgefleet.contracts.errors import ConflictError, SettingError, StorageError
from edgefleet.contracts.manifest import Fact, Natural
from fleet_emulation.testing.measured import FIGURES, Change, Comparison, Key, Measured, Origin

FILE_NAME = "edgefleet-baseline.json"
_WORDS = {"worse": "costs more than", "better": "costs less than", "within-tolerance": "is within the tolerance of"}
UPDATE = "run 'pytest --edgefleet-update-baseline' and commit the file, if this is meant"


class Entry(Fact, frozen=True, kw_only=True):
    """The figures of one key, and what they were measured from."""

    key: Key
    origin: Origin
    figures: Mapping[str, Natural]


class BaselineFile(Fact, frozen=True, kw_only=True):
    """A project's stored figures: by the name that tests use, sorted by key."""

    format_version: Literal[1] = 1
    baselines: Mapping[str, tuple[Entry, ...]] = {}


def read_baselines(path: Path) -> BaselineFile:
    """Read a baseline file; one that is not there is empty.

    Raises:
        SettingError: it cannot be read, or is not a baseline file.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=BaselineFile)
    except FileNotFoundError:
        return BaselineFile()
    except OSError as error:
        raise SettingError(
            f"cannot read the baseline file '{path}': {error.strerror}", hint="check its permissions"
        ) from error
    except ValueError as error:  # msgspec's errors derive from it
        raise SettingError(
            f"'{path.name}' is not a baseline file: {error}",
            hint="restore it from version control, or remove it and run 'pytest --edgefleet-update-baseline'",
        ) from error


def compare(
    name: str,
    stored: BaselineFile,
    measured: Measured,
    tolerance_percent: Mapping[str, float],
    *,
    only: Sequence[str] | None = None,
) -> Comparison:
    """Compare a run with the figures that are stored under a name, all or ``only`` some of them.

    ``tolerance_percent`` is by figure; 0 where it names none.

    Raises:
        SettingError: nothing is stored under this name for the profile.
    """
    same_board = [entry for entry in stored.baselines.get(name, ()) if entry.key.profile == measured.key.profile]
    if not same_board:
        raise SettingError(
            f"there is no baseline '{name}' for {measured.key.profile} yet",
            hint="run 'pytest --edgefleet-update-baseline' and commit the file",
        )
    entry = next((entry for entry in same_board if entry.key == measured.key), None)
    if entry is None:
        return _other_key(name, same_board, measured.key)
    looked_at = {figure: value for figure, value in entry.figures.items() if only is None or figure in only}
    changes = tuple(
        Change(figure=figure, before=looked_at[figure], after=measured.figures[figure])
        for figure in FIGURES
        if figure in looked_at and figure in measured.figures and looked_at[figure] != measured.figures[figure]
    )
    over = [change for change in changes if _is_over(change, tolerance_percent.get(change.figure, 0.0))]
    unseen = [figure for figure in FIGURES if figure in looked_at and figure not in measured.figures]
    lost = [figure for figure in unseen if figure not in measured.missing]
    verdict = _verdict(changes, over, lost)
    told = [str(change) for change in (over if verdict == "worse" else changes)]
    told += [f"{figure} was {looked_at[figure]:,} and is not measured any more" for figure in lost]
    costs = f"{_WORDS.get(verdict)} the baseline '{name}': {', '.join(told)}{_since(entry.origin, measured.origin)}"
    reasons = [f"{figure} is not compared: {measured.missing[figure]}" for figure in unseen if figure not in lost]
    sentence = "; ".join(([costs] if told else []) + reasons)
    return Comparison(name=name, verdict=verdict, changes=changes, sentence=sentence)


def _is_over(change: Change, tolerance_percent: float) -> bool:
    return change.after > change.before and change.after * 100 > change.before * (100 + tolerance_percent)


def _verdict(
    changes: Sequence[Change], over: Sequence[Change], lost: Sequence[str]
) -> Literal["same", "better", "within-tolerance", "worse"]:
    if over or lost:
        return "worse"
    if not changes:
        return "same"
    return "better" if all(change.after < change.before for change in changes) else "within-tolerance"


def _since(before: Origin, after: Origin) -> str:
    """Say what was measured that the baseline was not measured from."""
    named = {
        "model_sha256": "the model",
        "inputs_sha256": "its inputs",
        "numerics": "the numerics",
        "build": "the build",
        "edgefleet": "EdgeFleet",
    }
    other = [words for field, words in named.items() if getattr(before, field) != getattr(after, field)]
    return f"; since then {' and '.join(other)} changed" if other else ""


def _other_key(name: str, stored: Sequence[Entry], key: Key) -> Comparison:
    same_compiler = next((entry.key for entry in stored if str(entry.key) == str(key)), None)
    if same_compiler is not None:
        why = f"as {_flags_told(same_compiler.flags, key.flags)}"
    else:
        why = f"which is of {' and '.join(dict.fromkeys(str(entry.key) for entry in stored))}, and this is {key}"
    return Comparison(name=name, verdict="other-key", sentence=f"is not compared with the baseline '{name}', {why}")


def _flags_told(before: str, after: str) -> str:
    gone = [flag for flag in before.split() if flag not in after.split()]
    new = [flag for flag in after.split() if flag not in before.split()]
    told = [f"{' '.join(flags)} {what}" for flags, what in ((gone, "went"), (new, "came")) if flags]
    return f"its compiler's flags changed: {', '.join(told) or 'their order'}"


def merge(stored: BaselineFile, updates: Sequence[tuple[str, Measured]]) -> BaselineFile:
    """Return the file with new figures in the place of those of the same name and key; all others stay.

    Raises:
        ConflictError: two tests measured different figures under one name and key.
    """
    found: dict[str, dict[Key, Entry]] = {
        name: {entry.key: entry for entry in entries} for name, entries in stored.baselines.items()
    }
    new: dict[tuple[str, Key], Entry] = {}
    for name, measured in updates:
        entry = Entry(key=measured.key, origin=measured.origin, figures=dict(measured.figures))
        if new.setdefault((name, measured.key), entry) != entry:
            raise ConflictError(
                f"two tests measured different figures under the baseline '{name}' for {measured.key.profile}, "
                f"{measured.key}",
                hint="give each its own name",
            )
        found.setdefault(name, {})[measured.key] = entry
    return BaselineFile(
        baselines={
            name: tuple(sorted(entries.values(), key=lambda entry: msgspec.structs.astuple(entry.key)))
            for name, entries in sorted(found.items())
        }
    )


def write_baselines(path: Path, baselines: BaselineFile) -> bool:
    """Write the file, all of it or not at all, and tell whether that changed anything.

    Raises:
        StorageError: it cannot be written.
    """
    text = msgspec.json.format(msgspec.json.encode(baselines, order="deterministic"), indent=2) + b"\n"
    temporary = None
    try:
        if path.exists() and path.read_bytes() == text:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
            temporary = Path(stream.name)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
            os.fchmod(stream.fileno(), 0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write the baseline file '{path}': {error.strerror}", hint="check the folder and its permissions"
        ) from error
    return True
