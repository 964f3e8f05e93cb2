# SPDX-License-Identifier: Apache-2.0
"""The Python of the documents runs as it stands: a page's blocks one after the other, in a folder of their own."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 600


def test_the_page_on_converting_from_python_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "convert-from-python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dist" / "digits-1.0.0-linux-x86_64.bundle").is_file()
    assert "candidate 1: " in done.stdout
    assert "candidates keeps all budgets; the nearest" in done.stdout


def test_the_page_on_preprocessing_generates_what_it_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "preprocess-on-a-microcontroller.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "with preprocess/picture.c of firmware/kernels; scratch: 6164 bytes"
