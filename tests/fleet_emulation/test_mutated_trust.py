# SPDX-License-Identifier: Apache-2.0
"""A short form of the campaign with mutated metadata and bundles; and that the campaign would see a harm."""

import random

import pytest

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.verification.trust import TufTrust
from device_agent.core.orders.release_orders import Order
from edgefleet.contracts.bundle import open_bundle
from fleet_emulation.demo.run import example_folder
from fleet_emulation.hostile_server import mutations
from fleet_emulation.hostile_server.live_agent import LiveAgent
from fleet_emulation.hostile_server.offers import Offers
from fleet_emulation.hostile_server.site import HostileSite
from fleet_emulation.power_loss.workshop import convert_releases


@pytest.fixture(scope="module")
def two_bundles(tmp_path_factory):
    made = convert_releases(tmp_path_factory.mktemp("made"), example_folder())
    return [open_bundle(path) for path in made[:2]]


@pytest.fixture
def site(two_bundles, tmp_path):
    with HostileSite(tmp_path / "site", two_bundles) as running:
        yield running


def test_of_200_mutations_none_is_activated_and_nothing_crashes(site, two_bundles, tmp_path):
    live = DataFolder(tmp_path / "live")
    site.enrol(live)
    with LiveAgent(live.root) as agent:
        agent.wait_for(two_bundles[0].manifest.version)
        offers = Offers(site, tmp_path / "device", seed=5)
        for tally in offers.offer(200):
            assert tally.harm == []
        assert agent.alive
        assert agent.running() == [two_bundles[0].manifest.version]
    assert tally.offers == 200
    assert sum(tally.refused.values()) > 150
    assert {"metadata-invalid", "metadata-unsigned", "download-corrupt", "admission-bundle-invalid"} <= set(
        tally.refused
    )


def test_the_campaign_sees_an_order_that_nobody_signed(site, tmp_path, monkeypatch):
    offers = Offers(site, tmp_path / "device", seed=5)
    monkeypatch.setattr(TufTrust, "check", lambda *_: Order(counter=99))
    tally = list(offers.offer(10))[-1]
    assert tally.activated == tally.offers - sum(n for kind, n in tally.kinds.items() if kind.startswith("bundle-"))


def test_the_campaign_sees_an_error_that_the_port_does_not_promise(site, tmp_path, monkeypatch):
    offers = Offers(site, tmp_path / "device", seed=5)

    def broken(*_):
        raise RecursionError

    monkeypatch.setattr(TufTrust, "check", broken)
    tally = list(offers.offer(10))[-1]
    assert tally.crashes == tally.offers - sum(n for kind, n in tally.kinds.items() if kind.startswith("bundle-"))


@pytest.mark.parametrize("name", sorted(mutations.METADATA))
def test_a_mutation_of_metadata_changes_it(site, name):
    data = site.good["/image/metadata/timestamp.json"]
    chance = random.Random(3)
    assert sum(mutations.METADATA[name](data, chance) != data for _ in range(10)) >= 9


@pytest.mark.parametrize("name", sorted(mutations.BUNDLE))
def test_a_mutation_of_a_bundle_changes_it(two_bundles, name):
    data = two_bundles[0].path.read_bytes()
    chance = random.Random(3)
    assert sum(mutations.BUNDLE[name](data, chance) != data for _ in range(10)) >= 5
