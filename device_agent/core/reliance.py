# SPDX-License-Identifier: Apache-2.0
"""What applications on this device rely on: the interfaces that they were built for, remembered while they are used.

A release that does not offer what an application needs is refused before it runs. An application that has not asked
for a month is held to be gone.
"""

from collections.abc import Iterable

from edgefleet.contracts.interface import Declaration
from edgefleet.contracts.manifest import Fact

RELIANCE_LIMIT = 64
HEARD_AGAIN_S = 86_400.0
FORGOTTEN_AFTER_S = 30 * 86_400.0


class Reliance(Fact, frozen=True, kw_only=True):
    """A declaration, and when it was heard last (Unix seconds)."""

    declaration: Declaration
    at: float


Reliances = tuple[Reliance, ...]


def heard(known: Reliances, declarations: Iterable[Declaration], now: float) -> Reliances:
    """Return what is relied on after declarations were heard: one for each application and model, the newest kept."""
    by_application = {_key(one.declaration): one for one in known if now - one.at < FORGOTTEN_AFTER_S}
    for declaration in declarations:
        by_application.pop(_key(declaration), None)
        by_application[_key(declaration)] = Reliance(declaration=declaration, at=now)
    return tuple(by_application.values())[-RELIANCE_LIMIT:]


def all_fresh(known: Reliances, declarations: Iterable[Declaration], now: float) -> bool:
    """Tell whether all declarations were heard within a day: then there is nothing to write down."""
    fresh = [one.declaration for one in known if 0.0 <= now - one.at < HEARD_AGAIN_S]
    return all(declaration in fresh for declaration in declarations)


def in_force(known: Reliances, model: str, now: float) -> tuple[Declaration, ...]:
    """Return what applications that still ask need of a model; one that names no model needs it of each."""
    return tuple(
        one.declaration for one in known if now - one.at < FORGOTTEN_AFTER_S and one.declaration.model in (None, model)
    )


def needed(known: Reliances, settled: Iterable[Declaration], model: str, now: float) -> tuple[Declaration, ...]:
    """Return what a release of a model has to offer to applications that asked, or that the settings name."""
    named = tuple(declaration for declaration in settled if declaration.model in (None, model))
    return (*named, *in_force(known, model, now))


def _key(declaration: Declaration) -> tuple[str, str | None]:
    return declaration.application, declaration.model
