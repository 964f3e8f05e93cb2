# SPDX-License-Identifier: Apache-2.0
"""What ``/openapi.json`` says of the management API, against what the API answers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import urllib3

from edgefleet.contracts.canonical import sha256_hex

OPEN = {("get", "/api/v1/health")}
Operation = tuple[str, str]


class Api(NamedTuple):
    """A server's API with its own description, and parameters that lead somewhere."""

    url: str
    token: str
    described: dict[Operation, dict[str, Any]]
    there: dict[str, str]
    bundle: Path

    def call(self, method: str, path: str, body: bytes | None = None, *, token: str | None = None) -> Any:
        headers = {"authorization": f"Bearer {self.token if token is None else token}"}
        return urllib3.PoolManager().request(method.upper(), self.url + path, headers=headers, body=body)


@pytest.fixture(scope="module", name="api")
def _api(shared_server: Any, make_bundle: Callable[..., Path], policy_text: str, tmp_path_factory: Any) -> Api:
    server = shared_server
    people = [server.approver("ada"), server.approver("bob")]
    server.delegate("digits", *people)
    device = server.enrol("d1")
    bundle = make_bundle(tmp_path_factory.mktemp("bundles"))
    server.release(bundle, policy=policy_text, approvers=people)
    document = urllib3.PoolManager().request("GET", f"{server.api}/openapi.json").json()
    described = {(method, path): one for path, all_ in document["paths"].items() for method, one in all_.items()}
    sha256 = sha256_hex(bundle.read_bytes())
    there = {
        "name": "digits",
        "version": "1.0.0",
        "sha256": sha256,
        "bundle_sha256": sha256,
        "file_name": "timestamp.json",
        "path": f"digits/1.0.0/{sha256}.{bundle.name}",
        "repository": "image",
        "device": device.name,
    }
    api = Api(server.api, (server.admin / "token").read_text(), described, there, bundle)
    rollout = api.call("post", "/api/v1/rollouts", b'{"name": "digits", "version": "1.0.0"}')
    there["rollout_id"] = rollout.json()["id"]
    return api


def path_of(api: Api, template: str) -> str:
    there = api.there | ({"name": api.there["device"]} if template.startswith("/api/v1/devices/") else {})
    return re.sub(r"\{(\w+)\}", lambda found: there.get(found[1], "pause"), template)


def check(described: dict[str, Any], answer: Any) -> None:
    """Compare an answer with its description: status, media type, and a document's top-level fields."""
    content = described["responses"].get(str(answer.status), described["responses"]["default"]).get("content")
    if content is None:
        assert answer.data == b""
        return
    media_type = answer.headers["content-type"].partition(";")[0]
    assert list(content) == [media_type], answer.data
    schema = content[media_type]["schema"]
    if media_type.endswith("json") and schema["type"] == "object":
        assert set(schema["required"]) <= set(answer.json()) <= set(schema["properties"])


def test_every_operation_answers_what_is_described(api: Api) -> None:
    good = {
        "/api/v1/devices": b'{"name": "d2", "profile": "linux-x86_64"}',
        "/api/v1/updates": b'{"devices": ["d2"]}',
        "/api/v1/devices/{name}/grace": b'{"days": 1}',
        "/api/v1/devices/{name}/lift": b'{"name": "digits", "version": "1.0.0"}',
        "/api/v1/bundles/{sha256}": api.bundle.read_bytes(),
        "/api/v1/tokens": b'{"name": "eve", "role": "viewer"}',
    }
    statuses = {}
    for (method, template), described in api.described.items():
        body = None if method == "get" else good.get(template, b"")
        answer = api.call(method, path_of(api, template), body)
        check(described, answer)
        statuses[method, template] = answer.status
    refused = {operation for operation, status in statuses.items() if status >= 400}
    without_a_body = {
        ("post", "/api/v1/releases"),
        ("put", "/api/v1/releases/{name}/{version}/proposal"),
        ("post", "/api/v1/rollouts"),
        ("put", "/api/v1/targets"),
    }
    assert refused == without_a_body


def test_every_operation_but_health_asks_for_a_token_and_says_so(api: Api) -> None:
    for operation, described in api.described.items():
        answer = api.call(operation[0], path_of(api, operation[1]), token="wrong")
        assert (answer.status == 200) == (operation in OPEN), operation
        assert ("security" not in described) == (operation in OPEN), operation
        check(described, answer)


def test_a_path_asked_in_another_way_names_the_ways_that_it_has(api: Api) -> None:
    for _, template in api.described:
        answer = api.call("trace", path_of(api, template))
        allowed = {method.upper() for method, path in api.described if path == template}
        assert (answer.status, answer.headers["content-type"]) == (405, "application/problem+json")
        assert set(answer.headers["allow"].split(", ")) & allowed, template
