# SPDX-License-Identifier: Apache-2.0
"""The how-to's own program is found out as the page says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "cut-the-power.md"


@pytest.mark.usefixtures("traced")
def test_the_program_of_the_how_to_is_found_out(scratch: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (program,) = [block for block in blocks if "class Counter" in block]
    said = subprocess.run(
        [sys.executable, "-c", program.replace("/dev/shm/counter", str(scratch / "counter"))],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    for found, expected in (("''", "('1', '2')"), (r"'\x00'", "('1', '2')"), ("'1'", "('2',)")):
        assert f"the number is {found}, expected one of {expected}" in said.stdout
