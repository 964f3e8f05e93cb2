# SPDX-License-Identifier: Apache-2.0
"""The client protocol of tuf-conformance, on a small repository over plain HTTP; the suite itself is a campaign."""

import functools
import http.server
import json
import threading

import pytest
from tuf.api.metadata import Metadata, TargetFile

from device_agent.cli import main


class Site:
    """A repository's files in a folder, served on this machine."""

    def __init__(self, folder, repository):
        self.folder = folder
        self.repository = repository
        self.content = b"a model"
        (folder / "metadata").mkdir()
        (folder / "targets").mkdir()
        self.publish()

    def publish(self):
        target = TargetFile.from_data("model.bin", self.content, ["sha256"])
        self.repository.publish({"model.bin": target})
        (self.folder / "targets" / f"{target.hashes['sha256']}.model.bin").write_bytes(self.content)
        for name, data in self.repository.files.items():
            (self.folder / "metadata" / name).write_bytes(data)


@pytest.fixture
def site(tmp_path, agent_tools):
    folder = tmp_path / "site"
    folder.mkdir()
    made = Site(folder, agent_tools.Repository())
    handler = functools.partial(QuietHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Tests look at what was stored, not at a log."""


@pytest.fixture
def client(site, tmp_path):
    """Run one action of the protocol as the suite does, options first; the trusted root is there already."""
    (tmp_path / "first.json").write_bytes(site.repository.root)
    (tmp_path / "targets").mkdir()

    def run(*words):
        return main(["tuf-client", "--metadata-dir", str(tmp_path / "trusted"), *words])

    run.refresh = lambda: run("--metadata-url", f"{site.url}/metadata", "refresh")
    run.download = lambda *names: run(
        *("--metadata-url", f"{site.url}/metadata"),
        *(word for name in names for word in ("--target-name", name)),
        *("--target-base-url", f"{site.url}/targets", "--target-dir", str(tmp_path / "targets"), "download"),
    )
    run.trusted = tmp_path / "trusted"
    run.targets = tmp_path / "targets"
    assert run("init", str(tmp_path / "first.json")) == 0
    return run


def versions(client):
    return {path.stem: Metadata.from_file(str(path)).signed.version for path in client.trusted.glob("*.json")}


def test_init_trusts_the_root_and_asks_nobody(client):
    assert versions(client) == {"root": 1}


def test_init_refuses_what_is_no_root_and_trusts_on_what_it_trusted(client, site, tmp_path, capsys):
    unsigned = json.loads(site.repository.root) | {"signatures": []}
    offers = {
        "no-json": b"junk",
        "timestamp": site.repository.files["timestamp.json"],
        "unsigned": json.dumps(unsigned).encode(),
    }
    for name, data in offers.items():
        (tmp_path / name).write_bytes(data)
        assert client("init", str(tmp_path / name)) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert said == [
        f"error: '{tmp_path}/no-json' is no root metadata that its own keys signed: Failed to deserialize JSON",
        f"error: '{tmp_path}/timestamp' is timestamp metadata, expected root",
        f"error: '{tmp_path}/unsigned' is no root metadata that its own keys signed: root was signed by 0/1 keys",
    ]
    assert versions(client) == {"root": 1}


def test_refresh_stores_what_it_verified_under_names_without_versions(client, site):
    assert client.refresh() == 0
    assert versions(client) == {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}
    site.publish()
    assert client.refresh() == 0
    assert versions(client) == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}


def test_a_refresh_that_fails_has_status_1_and_leaves_what_was_trusted(client, site, agent_tools, capsys):
    assert client.refresh() == 0
    site.repository.signers = agent_tools.Repository().signers
    site.publish()
    assert client.refresh() == 1
    assert versions(client) == {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}
    assert capsys.readouterr().err.splitlines() == [
        "error: timestamp was signed by 0/1 keys (UnsignedMetadataError)",
        "hint: what was trusted before is still trusted; see the repository's log",
    ]


def test_download_stores_a_target_once_and_its_next_version_under_the_same_name(client, site):
    assert client.download("model.bin") == 0
    (stored,) = client.targets.iterdir()
    assert stored.read_bytes() == b"a model"
    for served in (site.folder / "targets").iterdir():
        served.unlink()
    assert client.download("model.bin") == 0, "from what is stored"
    site.content = b"a better model"
    site.publish()
    assert client.download("model.bin") == 0
    assert [path.read_bytes() for path in client.targets.iterdir()] == [b"a better model"]


def test_the_first_target_that_fails_ends_a_download(client, capsys):
    assert client.download("none.bin", "model.bin") == 1
    assert list(client.targets.iterdir()) == []
    assert capsys.readouterr().err.splitlines()[0] == "error: 'none.bin' is not in the repository"


def test_a_server_that_is_away_has_status_1(client, capsys):
    assert client("--metadata-url", "http://127.0.0.1:1", "refresh") == 1
    assert capsys.readouterr().err.startswith("error: Failed to download http://127.0.0.1:1/2.root.json")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["init"], "init needs root"),
        (["refresh"], "refresh needs --metadata-url"),
        (["--metadata-url", "http://x", "download"], "download needs --target-name"),
    ],
)
def test_a_missing_word_is_named(client, words, message, capsys):
    assert client("--json", *words) == 2
    assert json.loads(capsys.readouterr().out)["error"]["message"] == message
