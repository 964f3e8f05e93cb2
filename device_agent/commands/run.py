# SPDX-License-Identifier: Apache-2.0
"""``edgefleet-agent run``: the agent itself."""

import argparse
import sys
from pathlib import Path

from device_agent.commands.verbs import Parser, add_verb, positive


def add(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Hang the verb on the command line."""
    verb = add_verb(verbs, "run", "run the agent until it is told to stop", _run, "--data /var/lib/edgefleet")
    verb.add_argument("--config", type=Path, help="settings in TOML")
    verb.add_argument(
        "--time-scale",
        type=positive,
        default=1.0,
        help="divide all durations of policy and settings by this (60: an hour takes a minute); for emulation",
    )
    verb.add_argument("--poll", type=positive, metavar="SECONDS", help="ask the director this often")


def _run(options: argparse.Namespace) -> None:
    import logging

    from device_agent.field import RunOptions, run
    from device_agent.settings import read_settings

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    settings = read_settings(options.config)
    wanted = RunOptions(data=options.data, settings=settings, time_scale=options.time_scale, poll_s=options.poll)
    run(wanted, lambda line: print(line, flush=True))  # noqa: T201  the line that callers wait for
