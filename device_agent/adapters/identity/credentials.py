# SPDX-License-Identifier: Apache-2.0
"""The device's key as a credential of the service manager (systemd.exec(5), LoadCredentialEncrypted).

It lies on the disk sealed for this machine, and the manager shows it to the agent in memory only.
"""

import os
from collections.abc import Mapping
from pathlib import Path

#: The credential's name, as in the unit and in ``systemd-creds encrypt --name=…``.
DEVICE_KEY = "edgefleet-device-key"


def device_key(default: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the device's private key is: what the service manager handed over, else ``default``."""
    folder = environment.get("CREDENTIALS_DIRECTORY", "")
    handed = Path(folder) / DEVICE_KEY
    return handed if folder and handed.is_file() else default
