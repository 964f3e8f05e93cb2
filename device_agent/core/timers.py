# SPDX-License-Identifier: Apache-2.0
"""What is due when: named moments on a clock that comes in as an argument."""


class Timers:
    """Named moments (seconds on the caller's clock); each is set, becomes due, and is taken once."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}

    def set(self, name: str, at: float) -> None:
        """Let ``name`` become due at a moment, whatever was set before."""
        self._at[name] = at

    def sooner(self, name: str, at: float) -> None:
        """Let ``name`` become due at a moment, unless it does so earlier."""
        self._at[name] = min(at, self._at.get(name, at))

    def cancel(self, name: str) -> None:
        """Forget ``name``."""
        self._at.pop(name, None)

    def is_set(self, name: str) -> bool:
        """Tell whether ``name`` will become due."""
        return name in self._at

    def take(self, name: str, now: float) -> bool:
        """Tell whether ``name`` is due, and forget it if so."""
        if name in self._at and self._at[name] <= now:
            del self._at[name]
            return True
        return False

    def wait_s(self, now: float, limit_s: float) -> float:
        """Return the seconds until the next moment, at most ``limit_s``."""
        return max(0.0, min([limit_s, *(at - now for at in self._at.values())]))
