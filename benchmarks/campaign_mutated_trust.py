# SPDX-License-Identifier: Apache-2.0
"""Mutated metadata and bundles, offered over HTTPS to the agent's check, download and admission.

    python -m benchmarks.campaign_mutated_trust [--offers 10000] [--seed N] [BUNDLE BUNDLE]

Beside it a whole agent polls the same server all the while. None may be activated, nothing may crash, the supervisor
must live on with the model that it had; each refusal is counted by its cause. Without two bundles of one model, two are
converted from the example. Exits with 1 at the first harm, which is kept in the result.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import write
from device_agent.adapters.identity.data_folder import DataFolder
from edgefleet.contracts.bundle import open_bundle
from fleet_emulation.demo.run import example_folder
from fleet_emulation.hostile_server.live_agent import LiveAgent
from fleet_emulation.hostile_server.offers import Offers, Tally
from fleet_emulation.hostile_server.site import HostileSite
from fleet_emulation.power_loss.workshop import convert_releases


def main() -> int:
    options = _options()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="edgefleet-campaign-") as name:
        folder = Path(name)
        bundles = [open_bundle(path) for path in options.bundles or convert_releases(folder / "made", example_folder())]
        with HostileSite(folder / "site", bundles[:2]) as site:
            live = DataFolder(folder / "live")
            site.enrol(live)
            with LiveAgent(live.root) as agent:
                agent.wait_for(bundles[0].manifest.version)
                before = agent.rss_bytes()
                began = time.monotonic()
                tally = _offer(Offers(site, folder / "device", options.seed), options.offers)
                took_s = time.monotonic() - began
                unharmed = agent.alive and agent.running() == [bundles[0].manifest.version]
                growth = agent.rss_bytes() - before if agent.alive else 0
    _record(options, tally, unharmed=unharmed, growth=growth, took_s=took_s)
    return 0 if unharmed and not tally.harm else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--offers", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("bundles", type=Path, nargs="*")
    return parser.parse_args()


def _offer(offers: Offers, count: int) -> Tally:
    for tally in offers.offer(count):
        if tally.offers % 1000 == 0:
            print(f"{tally.offers}: {tally.activated} activated, {tally.crashes} crashes", flush=True)
    return offers.tally


def _record(options: argparse.Namespace, tally: Tally, *, unharmed: bool, growth: int, took_s: float) -> None:
    write(
        "campaign_mutated_trust",
        {
            "seed": options.seed,
            "offers": tally.offers,
            "activated": tally.activated,
            "crashes": tally.crashes,
            "without_effect": tally.without_effect,
            "supervisor_unharmed": unharmed,
            "supervisor_growth_bytes": growth,
            "took_s": round(took_s, 1),
            "refused": dict(tally.refused.most_common()),
            "kinds": dict(sorted(tally.kinds.items())),
            "harm": tally.harm,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
