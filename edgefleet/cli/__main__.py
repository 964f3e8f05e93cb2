# SPDX-License-Identifier: Apache-2.0
"""``python -m edgefleet.cli`` is ``edgefleet``."""

from edgefleet.cli.main import main

main()
