# SPDX-License-Identifier: Apache-2.0
"""Taking secrets out of text: those that are known in every usual form, and what looks like one."""

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote

from device_agent.core.secret_names import NAMES

TAKEN_OUT = "[taken out]"
#: Shorter ones would take ordinary words out with them.
_SHORTEST = 4
_PATTERNS = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), TAKEN_OUT),
    (re.compile(r"(?<=://)(?:[^/\s\"':@]*:[^\s\"']*|[^/\s\"']*)@"), f"{TAKEN_OUT}@"),
    (re.compile(r"\b[\w.%+-]+:[^\s\"'/:@]+@(?=[\w.-]+:\d)"), f"{TAKEN_OUT}@"),
    (re.compile(r"(?i)([?&][\w.-]*(?:sig|signature)=)[^&\s\"']+"), rf"\g<1>{TAKEN_OUT}"),
    (re.compile(r"(?i)\b((?:basic|bearer)\s+)[A-Za-z0-9+/_=.~-]{4,}"), rf"\g<1>{TAKEN_OUT}"),
    (
        re.compile(rf"(?i)([\"']?\b[\w.-]*(?:{NAMES})\b[\"']?\s*[:=]\s*)(\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,;}}]+)"),
        rf'\g<1>"{TAKEN_OUT}"',
    ),
)


def forms(secret: bytes) -> set[str]:
    """Return how a secret may stand in a text: as it is, escaped, quoted, in hexadecimal, and inside any base64."""
    if len(secret) < _SHORTEST:
        return set()
    found = {quote(secret), quote(secret, safe=""), secret.hex(), secret.hex().upper()}
    for text in (secret.decode("utf-8", errors="replace"), secret.decode("latin-1")):
        found |= {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
    for offset in range(3):  # wherever it begins in what was encoded
        encoded = base64.b64encode(bytes(offset) + secret)
        sure = encoded[(0, 2, 3)[offset] : len(encoded) - (0, 3, 2)[(offset + len(secret)) % 3]].decode()
        found |= {sure, sure.replace("+", "-").replace("/", "_")}
    return {form for form in found if len(form) >= _SHORTEST}


class Secrets:
    """What must not be told."""

    def __init__(self, known: Iterable[bytes]) -> None:
        every = sorted({form for secret in known for form in forms(secret)}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, every))) if every else None

    def scrub(self, text: str) -> str:
        """Return the text without secrets."""
        if self._known is not None:
            text = self._known.sub(TAKEN_OUT, text)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return text
