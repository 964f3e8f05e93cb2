# SPDX-License-Identifier: Apache-2.0
"""The Python of the page on emulated Linux devices runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

from fleet_emulation.linux_devices.user_mode import ArmPython

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "emulate-a-linux-device.md"
LIMIT_S = 600.0


def test_the_page_on_linux_devices_runs(can_boot: None, arm: ArmPython, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    command = [sys.executable, "-c", "\n".join(blocks)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert (done.returncode, done.stdout) == (0, "aarch64\n\nsettings\naarch64\n\n"), done.stderr
