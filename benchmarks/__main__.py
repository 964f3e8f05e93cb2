# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks [--campaign] [NAME …]``: run all benchmarks, or the named ones, each in its own process.

A benchmark is a module of this package with a ``main()``; one whose name starts with ``campaign_`` runs with
``--campaign`` only. One that lacks something says so and exits with status 77.
"""

import pkgutil
import subprocess
import sys
from pathlib import Path

from benchmarks.record import SKIPPED

_INFRASTRUCTURE = {
    *("bad_models", "deadly_models", "live_device", "zoo", "zoo_device", "zoo_innocents", "zoo_parents", "zoo_worker"),
    *("__main__", "keras_operations", "operator_cases", "operator_models", "preprocessing_cases"),
    *("process_figures", "quantizer_recipes", "record", "serving_models"),
}


def main() -> int:
    wanted = [word for word in sys.argv[1:] if not word.startswith("-")]
    campaign = "--campaign" in sys.argv
    found = sorted(
        m.name
        for m in pkgutil.iter_modules([str(Path(__file__).parent)])
        if m.name not in _INFRASTRUCTURE and not m.name.startswith("tensorflow_")
    )
    chosen = wanted or [name for name in found if name.startswith("campaign_") == campaign]
    failed = []
    for name in chosen:
        print(f"== {name}", flush=True)
        status = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode
        if status not in (0, SKIPPED):
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
