# SPDX-License-Identifier: Apache-2.0
"""The live page, in a real Chromium."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from edgefleet.contracts.messages import Event, RunningRelease

CHROMIUM = "/usr/bin/chromium"
RELEASE = RunningRelease(name="digits", version="1.0.0", bundle_sha256="b" * 64)


@pytest.fixture(name="page")
def _page() -> Iterator[Any]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        yield page
        browser.close()


def test_the_page_asks_for_a_token_and_then_shows_the_fleet_live(
    page: Any,
    new_server: Any,
    new_broker: Any,
    telemetry_link: Any,
    cli: Any,
    make_bundle: Any,
    policy_text: str,
    tmp_path: Path,
) -> None:
    broker = new_broker()
    server = new_server(broker=broker.url)
    ada = server.approver("ada")
    server.delegate("digits", ada, threshold=1)
    server.release(make_bundle(tmp_path), policy=policy_text, approvers=[ada])
    server.enrol("door-1")
    server.enrol("door-2")
    link = telemetry_link(broker.port)

    page.goto(server.api)
    page.get_by_label("API token").fill("ef_wrong")
    page.get_by_role("button", name="Sign in").click()
    assert page.get_by_role("alert").text_content() == "This token is wrong or has expired."
    page.complaints.clear()  # Chromium calls the refused login an error
    page.get_by_label("API token").fill((server.admin / "token").read_text())
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Devices").wait_for()
    page.get_by_role("cell", name="door-1", exact=True).wait_for()
    assert page.locator("#count-devices").text_content() == "2"
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert cookie["expires"] < time.time() + 13 * 3600

    link.state("door-1", RELEASE, counter=1)
    link.send("door-1", Event(kind="committed", cause="trial-ended", detail="<b>well</b>", release=RELEASE, counter=1))
    cli("rollouts", "create", "digits", "1.0.0", "--home", server.admin)
    page.locator("#devices").get_by_text("online").wait_for(timeout=120_000)
    page.locator("#devices").get_by_text("digits 1.0.0", exact=True).wait_for()
    page.locator("#events").get_by_text("<b>well</b>").wait_for()
    page.get_by_text("1 of 2 devices have the order").wait_for(timeout=120_000)
    assert page.get_by_role("listitem").all_text_contents() == ["Wave 1: 25 %", "Wave 2: 100 %"]
    page.get_by_role("row", name="minimum-requests wait").wait_for(timeout=120_000)
    assert page.complaints == []
    if os.environ.get("EDGEFLEET_SCREENSHOT"):
        page.screenshot(path=os.environ["EDGEFLEET_SCREENSHOT"], full_page=True)

    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API token").wait_for()
    assert page.context.cookies() == []


def test_the_session_reads_only_and_the_page_allows_no_foreign_content(shared_server: Any) -> None:

    server = shared_server
    pool = urllib3.PoolManager()
    token = (server.admin / "token").read_text()
    answer = pool.request(
        "POST", f"{server.api}/login", fields={"token": token}, encode_multipart=False, redirect=False
    )
    cookie = answer.headers["set-cookie"].partition(";")[0]
    assert answer.status == 303
    assert token not in cookie
    assert pool.request("GET", f"{server.api}/api/v1/devices", headers={"cookie": cookie}).status == 200
    body = b'{"name": "x1", "profile": "p"}'
    assert pool.request("POST", f"{server.api}/api/v1/devices", headers={"cookie": cookie}, body=body).status == 403
    policy = pool.request("GET", server.api).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; ")
