# SPDX-License-Identifier: Apache-2.0
"""What secrets are called in settings, environments and logs; and an environment without any."""

import re
from collections.abc import Mapping

NAMES = r"pass(?:word|wd|phrase)?|secret|token|authorization|cookie|credentials?|(?:api|access|account|private)[_-]?key"
SECRET_NAME = re.compile(rf"(?i)(?:{NAMES})")


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a child that runs models: without what is called a secret, and without proxies."""
    return {
        name: value
        for name, value in environment.items()
        if not (SECRET_NAME.search(name) or name.lower().endswith("_proxy"))
    }
