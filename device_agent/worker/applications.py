# SPDX-License-Identifier: Apache-2.0
"""What applications say of themselves: the interface that each was built for, against what answers it."""

import msgspec

from device_agent.core.serving import Declared
from device_agent.worker.engine import Engine, Reply
from device_agent.worker.sessions import Session
from edgefleet.contracts.interface import Declaration, differences

#: Applications that are remembered; the one that declared itself longest ago is forgotten first.
_KNOWN_LIMIT = 64
_DOCUMENT_LIMIT_BYTES = 1 << 20


class Applications:
    """The declarations of all applications since the worker's start, by application and model."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[tuple[str, str | None], Declaration] = {}
        self._changed = False

    def declare(self, session: Session, document: bytes) -> Reply:
        """Take a declaration, and say whether what answers now fits it."""
        try:
            if len(document) > _DOCUMENT_LIMIT_BYTES:
                return Reply("bad-input", detail=f"a declaration has at most {_DOCUMENT_LIMIT_BYTES} bytes")
            declaration = msgspec.json.decode(document, type=Declaration)
        except msgspec.DecodeError as error:
            return Reply("bad-input", detail=f"the declaration cannot be read: {error}")
        key = (declaration.application, declaration.model)
        self._changed |= self._known.pop(key, None) != declaration
        self._known[key] = declaration
        if len(self._known) > _KNOWN_LIMIT:
            del self._known[next(iter(self._known))]
        session.declaration, session.fits = declaration, ""
        return self.misfit(session, declaration.model or "") or self._engine.info(declaration.model or "")

    def misfit(self, session: Session, model: str) -> Reply | None:
        """Return the refusal of a request whose application was built for another interface than the model's."""
        declaration = session.declaration
        resident = self._engine.resident(model)
        if declaration is None or resident is None or session.fits == resident.sha256:
            return None
        if declaration.model not in (None, resident.release.name):
            return None
        wrong = differences(declaration.interface, resident.model.manifest.interface)
        if not wrong:
            session.fits = resident.sha256
            return None
        return Reply("incompatible", release=resident.name, detail="; ".join(wrong))

    def take_reports(self) -> list[Declared]:
        """Return all declarations, if one is new."""
        if not self._changed:
            return []
        self._changed = False
        return [Declared(declarations=tuple(self._known.values()))]
