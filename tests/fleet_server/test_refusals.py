# SPDX-License-Identifier: Apache-2.0
"""What the server room refuses: one sentence with the remedy, the documented exit status, and nothing changed."""

import json
import shutil
import socket
import stat
from pathlib import Path
from typing import Any

import psutil
import pytest
import urllib3
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from edgefleet.cli.main import run, verbs
from edgefleet.contracts.canonical import canonical_json, sha256_hex
from edgefleet.contracts.errors import EdgeFleetError
from fleet_server.adapters.access.problems import describe_problem, error_class
from fleet_server.adapters.storage.database import MIGRATIONS, REVISION, Database
from fleet_server.adapters.storage.schema import metadata


@pytest.fixture(name="server")
def _server(shared_server: Any) -> Any:
    return shared_server


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_migrations_make_the_tables_that_the_code_speaks_of(tmp_path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION
    database = Database(tmp_path / "x.db")
    database.migrate()
    database.migrate()
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database.close()


def test_init_overwrites_nothing_and_keeps_secrets_to_their_owner(initialised: list[Path], cli: Any) -> None:
    folder = initialised[0]
    before = files_of(folder)
    again = cli(
        "server", "init", "--data", folder / "srv", "--tenant", "acme", "--admin-home", folder / "admin", expect=1
    )
    assert again.err == (
        f"error: '{folder}/srv/server.json' exists already; nothing was changed\n"
        "hint: use new folders for a new server\n"
    )
    assert files_of(folder) == before
    secrets = [*folder.rglob("*.pem"), *folder.rglob("*.key"), folder / "admin/token", folder / "srv/fleet.db"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
    assert stat.S_IMODE((folder / "srv" / "signer").stat().st_mode) == 0o700
    assert not any(b"PRIVATE" in data for path, data in before.items() if path.suffix not in (".pem", ".key"))


def test_a_port_in_use_and_an_open_management_listener_are_refused(initialised: list[Path], cli: Any) -> None:
    data = initialised[0] / "srv"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for option in ("--listen", "--device-listen"):
            other = "--device-listen" if option == "--listen" else "--listen"
            refused = cli("server", "run", "--data", data, option, address, other, "127.0.0.1:0", expect=1)
            assert refused.err == (
                f"error: another process listens on {address} already\n"
                "hint: stop it, or choose another port (0: any free)\n"
            )
    refused = cli("server", "run", "--data", data, "--listen", "0.0.0.0:0", expect=4)
    assert refused.err == (
        "error: --listen 0.0.0.0 would serve the management API without TLS to the network\n"
        "hint: listen on 127.0.0.1, and put a TLS proxy in front\n"
    )
    cases = [("--listen", "nonsense"), ("--listen", "127.0.0.1:99999"), ("--broker", "http://x")]
    for option, value in cases:
        assert cli("server", "run", "--data", data, option, value, expect=2).err.startswith(f"error: '{value}' is not")


def test_an_unreachable_server_a_wrong_token_and_a_missing_login(server: Any, cli: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("ef_wrong")
    home = tmp_path / "home"
    wrong = cli("login", "--server", server.api, "--token-file", tmp_path / "token", "--home", home, expect=4)
    assert wrong.err.startswith("error: the API token is missing, wrong or expired\nhint: run: edgefleet login")
    missing = cli("devices", "list", "--home", home, expect=4)
    assert missing.err.startswith(f"error: nobody is logged in with the home folder '{home}'\n")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        away = cli("login", "--server", url, "--token-file", tmp_path / "token", "--home", home, expect=1)
    assert away.err == (
        f"error: the server at {url} does not answer: [Errno 111] Connection refused\n"
        "hint: check the address, and that 'edgefleet server run' is running\n"
    )
    assert not home.exists()


def test_wrong_names_files_and_thresholds(
    server: Any, cli: Any, make_bundle: Any, tmp_path: Path, policy_text: str
) -> None:
    home, admin = tmp_path / "h", server.admin
    cli("keys", "create", "ada", "--home", home)
    assert cli("keys", "create", "ada", "--home", home, expect=1).err.startswith(
        f"error: '{home}/keys/ada.pem' exists already"
    )
    public = home / "keys" / "ada.pub.json"
    delegate = ("keys", "delegate", "digits", "--data", server.data, "--home", admin, "--approver", public)
    refused = cli(*delegate, "--threshold", "2", expect=2)
    assert refused.err.startswith("error: a threshold of 2 needs as many different approvers, got 1\n")
    assert cli(*delegate, "--approver", public, "--threshold", "1", expect=2).err.startswith(
        "error: a threshold of 1 needs"
    )
    nothing = cli("devices", "show", "nobody", "--home", admin, expect=1)
    assert nothing.err == "error: device 'nobody' is not known\nhint: see: edgefleet devices list\n"
    bad_name = cli("devices", "invite", "A B", "--profile", "p", "--output", tmp_path / "t", "--home", admin, expect=2)
    assert bad_name.err.startswith("error: the invitation: ")

    policy = tmp_path / "policy.toml"
    policy.write_text(policy_text)
    not_a_bundle = tmp_path / "x.bundle"
    not_a_bundle.write_bytes(b"x" * 1024)
    refused = cli("releases", "publish", not_a_bundle, "--policy", policy, "--home", admin, expect=3)
    assert refused.err.startswith("error: 'x.bundle' is not a bundle: it does not start with a ustar header\n")
    two = [make_bundle(tmp_path), make_bundle(tmp_path, version="2.0.0")]
    mixed = cli("releases", "publish", *two, "--policy", policy, "--home", admin, expect=3)
    assert mixed.err.startswith("error: the bundles are of several releases: digits 1.0.0, digits 2.0.0\n")
    policy.write_text(policy_text + "surprise = 1\n")
    unknown = cli("releases", "publish", two[0], "--policy", policy, "--home", admin, expect=3)
    assert "Object contains unknown field `surprise`" in unknown.err
    assert [release for release in server.call("releases") if release["name"] == "digits"] == []


def test_an_undelegated_product_and_a_wrong_passphrase(
    server: Any, cli: Any, make_bundle: Any, tmp_path: Path, policy_text: str
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(policy_text)
    cli("releases", "publish", make_bundle(tmp_path, "lonely"), "--policy", policy, "--home", server.admin)
    (tmp_path / "right").write_text("correct horse\n")
    (tmp_path / "wrong").write_text("battery\n")
    cli("keys", "create", "ada", "--home", server.admin, "--passphrase-file", tmp_path / "right")
    approve = ("releases", "approve", "lonely", "1.0.0", "--key", "ada", "--home", server.admin, "--yes")
    refused = cli(*approve, "--passphrase-file", tmp_path / "wrong", expect=4)
    assert refused.err.splitlines()[-2].startswith("error: the key 'ada' does not open: ")
    refused = cli(*approve, "--passphrase-file", tmp_path / "right", expect=3)
    assert refused.err.splitlines()[-2:] == [
        "error: nobody may approve releases of this product: there is no delegation 'production-lonely'",
        "hint: make it: edgefleet keys delegate PRODUCT",
    ]


def test_every_problem_of_the_api_is_a_problem_document(server: Any) -> None:
    pool = urllib3.PoolManager()
    headers = {"authorization": f"Bearer {(server.admin / 'token').read_text()}"}
    cases = [
        ("GET", "/api/v1/nothing", 404, "not-found"),
        ("DELETE", "/api/v1/devices", 405, "wrong-usage"),
        ("POST", "/api/v1/devices", 400, "wrong-usage"),
        ("GET", "/api/v1/events?limit=x", 400, "wrong-usage"),
        ("POST", "/api/v1/rollouts/x/explode", 400, "wrong-usage"),
        ("POST", "/api/v1/rollouts/x/pause", 404, "not-found"),
        ("PUT", "/api/v1/bundles/x", 400, "wrong-usage"),
        ("PUT", "/api/v1/targets", 422, "trust-refused"),
        ("GET", "/image/targets/..%2f..%2ffleet.db", 404, "not-found"),
    ]
    for method, path, status, code in cases:
        answer = pool.request(method, server.api + path, headers=headers, body=b"{" if method != "GET" else None)
        assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), path
        assert answer.json()["code"] == code, path
    description = pool.request("GET", f"{server.api}/openapi.json").json()
    assert description["openapi"].startswith("3.1")
    assert "/api/v1/rollouts/{rollout_id}/{order}" in description["paths"]


def test_a_server_is_not_made_where_a_file_is(tmp_path: Path, cli: Any) -> None:
    (tmp_path / "srv").write_bytes(b"mine")
    said = cli(
        "server", "init", "--data", tmp_path / "srv", "--tenant", "acme", "--admin-home", tmp_path / "admin", expect=1
    )
    assert said.err == f"error: cannot write '{tmp_path}/srv': File exists\nhint: check free space and permissions\n"
    assert files_of(tmp_path) == {tmp_path / "srv": b"mine"}


@pytest.mark.parametrize("name", ["server.crt", "server.key", "device-authority.crt"])
def test_a_server_with_a_damaged_certificate_says_so_and_does_not_start(
    initialised: list[Path], tmp_path: Path, cli: Any, name: str
) -> None:
    data = shutil.copytree(initialised[0] / "srv", tmp_path / "srv")
    (data / "tls" / name).write_bytes(b"")
    ports = ("--listen", "127.0.0.1:0", "--device-listen", "127.0.0.1:0")
    said = cli("server", "run", "--data", data, *ports, expect=2)
    sentence, hint = said.err.splitlines()[-2:]
    assert sentence.startswith(f"error: the certificates and keys in '{data}/tls' cannot be used: ")
    assert hint == "hint: restore them from a backup"
    assert "Traceback" not in said.err
    assert not (data / "listening.json").exists()


def test_every_error_survives_the_way_through_the_api() -> None:
    waiting = [EdgeFleetError]
    while waiting:
        kind = waiting.pop()
        waiting += [below for below in kind.__subclasses__() if below.__module__ == EdgeFleetError.__module__]
        problem = describe_problem(kind("m", hint="h"))
        assert error_class(problem.code, EdgeFleetError) is kind


def test_a_killed_signer_comes_back_and_a_second_server_does_not_start(
    new_server: Any, cli: Any, wait_for: Any
) -> None:
    server = new_server()

    (signer,) = psutil.Process(server.process.pid).children()
    signer.kill()

    def is_dead() -> bool:
        try:
            return bool(signer.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:  # its server has noticed already
            return True

    wait_for(is_dead, "the signer's death")
    device = server.enrol("d1")
    assert device.order()[0].counter == 0
    second = cli(
        "server", "run", "--data", server.data, "--listen", "127.0.0.1:0", "--device-listen", "127.0.0.1:0", expect=1
    )
    assert second.err.startswith(f"error: a server runs on '{server.data}' already\n")
    assert server.stop() == 0


@pytest.mark.parametrize("content", ["≤ no token", "two words", "", "a\nb", "x" * 201])
def test_a_file_without_a_token_is_told_before_anybody_is_asked(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(content, encoding="utf-8")
    words = ["login", "--server", "http://127.0.0.1:9", "--token-file", str(tmp_path / "token")]
    assert run([*words, "--home", str(tmp_path / "home")], verbs()) == 2
    assert capsys.readouterr().err == (
        f"error: '{tmp_path}/token' holds no token: expected one word of at most 200 letters, digits, '-' and '_'\n"
        "hint: use a file written by 'edgefleet server init' or 'edgefleet server token'\n"
    )
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("address", ["http://[::1", "http://a:b", "http://a\x07b"])
def test_an_address_that_is_none_is_told_before_anything_is_kept(address: str, cli: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("ef_x")
    words = ["login", "--server", address, "--token-file", tmp_path / "token", "--home", tmp_path / "home"]
    refused = cli(*words, expect=2).err.splitlines()
    assert refused[0].startswith("error: 'http://")
    assert "' is not a server's address: " in refused[0]
    assert refused[1:] == ["hint: name it as 'edgefleet server run' prints it, for example http://127.0.0.1:8080"]
    assert not (tmp_path / "home").exists()


def test_a_home_that_is_a_file_cannot_keep_a_login(server: Any, cli: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    token = server.admin / "token"
    refused = cli("login", "--server", server.api, "--token-file", token, "--home", tmp_path / "file", expect=1)
    assert refused.err == (
        f"error: cannot write '{tmp_path}/file/trusted/image-root.json': Not a directory\n"
        "hint: check free space and permissions\n"
    )
    assert (tmp_path / "file").read_text() == "mine"


def test_a_home_that_cannot_keep_what_was_verified(
    server: Any, cli: Any, make_bundle: Any, tmp_path: Path, policy_text: str
) -> None:
    (tmp_path / "policy.toml").write_text(policy_text)
    home, bundle = tmp_path / "home", make_bundle(tmp_path, "kept")
    cli("login", "--server", server.api, "--token-file", server.admin / "token", "--home", home)
    cli("releases", "publish", bundle, "--policy", tmp_path / "policy.toml", "--home", home)
    (home / "trusted" / "metadata").write_text("in the way")
    refused = cli("releases", "approve", "kept", "1.0.0", "--key", "ada", "--home", home, "--yes", expect=1)
    assert refused.err == (
        f"error: cannot keep what was verified in '{home}/trusted/metadata': File exists\n"
        "hint: check free space and permissions\n"
    )


def test_a_login_with_a_damaged_token_is_told_without_showing_it(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "login.json").write_text('{"server": "http://127.0.0.1:9", "token": "ef_secret\\nx"}')
    refused = cli("devices", "list", "--home", tmp_path, expect=2)
    assert refused.err.startswith(f"error: {tmp_path}/login.json: Expected `str` matching regex ")
    assert "secret" not in refused.err


@pytest.mark.parametrize("host", ["a b", "tür.de", "a" * 254, "-", "fleet.lan."])
def test_a_host_that_no_certificate_can_name(host: str, cli: Any, tmp_path: Path) -> None:
    words = ["server", "init", "--data", tmp_path / "srv", "--tenant", "acme", "--admin-home", tmp_path / "admin"]
    assert cli(*words, "--host", host, expect=2).err == (
        f"error: '{host}' is neither a host's name nor an address\n"
        "hint: name it as devices reach it: --host fleet.lan\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_password_in_the_brokers_address_is_neither_used_nor_shown(initialised: list[Path], cli: Any) -> None:
    listeners = ["--listen", "127.0.0.1:0", "--device-listen", "127.0.0.1:0"]
    broker = "mqtt://me:secret@127.0.0.1:1883"
    words = ["server", "run", "--data", initialised[0] / "srv", *listeners, "--broker", broker]
    assert cli(*words, expect=2).err == (
        "error: the broker's address at '127.0.0.1' holds a name or password, and the server uses neither\n"
        "hint: use mqtts://HOST:PORT: the server shows the broker its certificate\n"
    )


def test_a_public_key_under_another_id_makes_no_second_approver(server: Any, cli: Any, tmp_path: Path) -> None:
    cli("keys", "create", "ada", "--home", tmp_path)
    document = json.loads((tmp_path / "keys/ada.pub.json").read_text())
    cases = [({"keyid": "0" * 64}, "its key id is not the key's own")]
    broken = {**document, "keyval": {"public": "zz"}}
    facts = {name: broken[name] for name in ("keytype", "scheme", "keyval")}
    cases.append(({**broken, "keyid": sha256_hex(canonical_json(facts))}, "nothing can be verified with it"))
    for number, (changes, why) in enumerate(cases):
        (tmp_path / f"{number}.json").write_text(json.dumps({**document, **changes}))
        words = ["keys", "delegate", "two", "--data", server.data, "--home", server.admin, "--threshold", "2"]
        approvers = ["--approver", tmp_path / "keys/ada.pub.json", "--approver", tmp_path / f"{number}.json"]
        assert cli(*words, *approvers, expect=2).err == (
            f"error: '{tmp_path}/{number}.json' is not a public key file: ValueError(\"{why}\")\n"
            "hint: use the NAME.pub.json of 'edgefleet keys create'\n"
        ).replace('"nothing can be verified with it"', "'nothing can be verified with it'")


@pytest.mark.parametrize("name", ["../releases", "a/b", "", ".", "a?b", "ü", "\udcff"])
@pytest.mark.parametrize("verb", [["devices", "show"], ["rollouts", "status"], ["rollouts", "pause"]])
def test_a_name_never_leads_to_another_place_of_the_api(verb: list[str], name: str, server: Any, cli: Any) -> None:
    told = name.replace("\udcff", "\\udcff")
    assert cli(*verb, name, "--home", server.admin, expect=2).err == (
        f"error: '{told}' is no name, version or id\nhint: they are made of letters, digits, '.', '-' and '_'\n"
    )


def test_a_ticket_without_a_place_is_not_made(server: Any, cli: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    place = tmp_path / "file" / "ticket.json"
    words = ["devices", "invite", "unplaced", "--profile", "linux-x86_64", "--output", place, "--home", server.admin]
    assert cli(*words, expect=1).err == (
        f"error: cannot write '{place}': '{tmp_path}/file' is no folder that may be written to\n"
        "hint: choose another place\n"
    )
    assert "unplaced" not in [device["name"] for device in server.call("devices")]


def test_a_key_that_cannot_be_kept_and_a_passphrase_without_end(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a" * 1024)
    assert cli("keys", "create", "ada", "--home", tmp_path / "file", expect=1).err == (
        f"error: cannot write '{tmp_path}/file/keys': Not a directory\nhint: check free space and permissions\n"
    )
    words = ["keys", "create", "ada", "--home", tmp_path / "h", "--passphrase-file", tmp_path / "file"]
    assert cli(*words, expect=2).err == (
        f"error: the passphrase in '{tmp_path}/file' has 1024 bytes, over the limit of 1023\n"
        "hint: write a shorter one into its first line\n"
    )
    assert not (tmp_path / "h").exists()
