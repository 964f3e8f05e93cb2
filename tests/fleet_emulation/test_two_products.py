# SPDX-License-Identifier: Apache-2.0
"""One real agent with models of two products, which are rolled out one after the other by a real server."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from device_agent.client import InferenceClient
from fleet_emulation.linux_devices.small_fleet import POLICY
from fleet_emulation.rehearsal import ENDED, wait_until
from fleet_emulation.testbed import PRODUCT, Testbed

LIMIT_S = 300.0
OTHER = "second-look"


@pytest.fixture(name="bed")
def _bed(tmp_path_factory: pytest.TempPathFactory, digits_example: Path) -> Iterator[Testbed]:
    folder = tmp_path_factory.mktemp("two")  # a socket's path is short
    samples, policy = folder / "calibration.npz", folder / "policy.toml"
    policy.write_text(POLICY)
    with np.load(digits_example / "digits.npz", allow_pickle=False) as digits:
        np.savez(samples, x=digits["calibration_x"], y=digits["calibration_y"])
    with Testbed(folder / "fleet", digits_example, time_scale=60, poll_s=1.0) as bed:
        bed.set_up_server()
        bed.delegate(OTHER)
        for product, version, model in (
            (PRODUCT, "1.0.0", "v1_float32.tflite"),
            (OTHER, "1.0.0", "v5_float32.tflite"),
            (OTHER, "2.0.0", "v3_float32.tflite"),  # divides by zero when a frame is blank
        ):
            recipe = "float32.toml" if version == "2.0.0" else None
            bundle = bed.convert(version, model, samples, product=product, recipe=recipe)
            bed.release(version, bundle, policy, product=product)
        yield bed


def roll_out(bed: Testbed, clients: list[InferenceClient], product: str, version: str, *, blanks: bool = True) -> str:
    """Roll a release out while an application asks both models, also with blank frames; return how it ended."""
    with np.load(bed.examples / "digits.npz", allow_pickle=False) as digits:
        blank = [0 * digits["live_x"][0]] if blanks else []
        pictures = [np.ascontiguousarray(picture) for picture in (*digits["live_x"][:20], *blank)]
    started = bed.api.post("rollouts", {"name": product, "version": version})

    def ask() -> str | None:
        for picture in pictures:
            for client in clients:
                client.infer(picture)
        state = str(bed.api.get(f"rollouts/{started['id']}")["state"])
        return state if state in ENDED else None

    return wait_until(ask, f"the rollout of {product} to end", limit_s=LIMIT_S)


@pytest.mark.slow
def test_each_product_comes_and_goes_back_by_itself_and_again_when_its_quarantine_is_lifted(bed: Testbed) -> None:
    (ticket,) = bed.invite(["dev-1"])
    agent = bed.start_agent("dev-1", ticket)
    both = [f"{PRODUCT} 1.0.0", f"{OTHER} 1.0.0"]
    with (
        InferenceClient(agent.socket, timeout_s=LIMIT_S, model=PRODUCT) as one,
        InferenceClient(agent.socket, timeout_s=LIMIT_S, model=OTHER) as other,
    ):
        clients = [one, other]
        assert roll_out(bed, clients, PRODUCT, "1.0.0") == "completed"
        assert roll_out(bed, clients, OTHER, "1.0.0") == "completed"
        picture = np.ones((8, 8, 1), np.uint8)
        assert [client.infer(picture).release for client in clients] == both
        assert roll_out(bed, clients, OTHER, "2.0.0") == "rolled-back"
        assert [client.infer(picture).release for client in clients] == both
        (device,) = bed.api.get("devices")
        assert device["ordered"] == ", ".join(both)
        assert roll_out(bed, clients, OTHER, "2.0.0", blanks=False) == "rolled-back"  # it is in quarantine
        (bad,) = bed.api.get("devices/dev-1")["state"]["quarantined"]
        bed.api.post("devices/dev-1/lift", {"name": OTHER, "version": "2.0.0"})
        wait_until(lambda: not quarantined(bed), "the device to have seen the order that lifts", limit_s=LIMIT_S)
        assert roll_out(bed, clients, OTHER, "2.0.0", blanks=False) == "completed"
    assert bed.api.get("devices/dev-1")["state"]["also_running"][0]["bundle_sha256"] == bad


def quarantined(bed: Testbed) -> list[str]:
    """Return what the device says is in its quarantine."""
    return list(bed.api.get("devices/dev-1")["state"].get("quarantined", []))
