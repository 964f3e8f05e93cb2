# SPDX-License-Identifier: Apache-2.0
"""One file for support: it says what is there, also of a broken device, and holds no secret in any form."""

import base64
import io
import json
import os
import tarfile
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from device_agent.adapters.network.proxy import CREDENTIALS_VARIABLE
from device_agent.adapters.storage.outbox_file import OutboxFile
from device_agent.adapters.storage.state_file import StateFile
from device_agent.cli import main
from device_agent.core.life.record import DeviceRecord
from device_agent.core.secrecy import TAKEN_OUT, Secrets
from edgefleet.contracts.messages import Event

TOKEN, BROKER, PROXY = "tok-9f8e7d6c5b4a/=+", 'b"roker-pässword', "pr0xy pass&word"


def encodings(secret: bytes) -> dict[bytes, bytes]:
    """How a secret may stand in a file, and what of that must not be found; base64 also behind other bytes."""
    text = secret.decode("latin-1")
    whole = [
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        base64.b64encode(secret).rstrip(b"="),
        base64.urlsafe_b64encode(secret).rstrip(b"="),
        quote(secret, safe="").encode(),
        json.dumps(text)[1:-1].encode(),
    ]
    behind = [base64.b64encode(b"user:"[:n] + secret) for n in (1, 2, 5)]
    return {form: form for form in whole} | {form: form[8:-4] for form in behind}


def diagnose(folder, capsys, *arguments):
    """Run the verb and return the files of the diagnosis by name."""
    output = folder.root / "diagnosis.tar.gz"
    output.unlink(missing_ok=True)
    assert main(["diagnose", "--data", str(folder.root), "--output", str(output), "--json", *arguments]) == 0
    said = json.loads(capsys.readouterr().out)
    assert output.stat().st_mode & 0o777 == 0o600
    with tarfile.open(fileobj=io.BytesIO(output.read_bytes())) as archive:
        files = {m.name.removeprefix("diagnosis/"): archive.extractfile(m).read() for m in archive.getmembers()}
    assert said["files"] == sorted(files)
    return files


@pytest.fixture
def planted(enrolled, tmp_path, monkeypatch):
    """Secrets wherever they may be, and an unwise log and event that repeat all of them in all forms; gives both."""
    key = load_pem_private_key(enrolled.key.read_bytes(), password=None)
    scalar = key.private_numbers().private_value.to_bytes(32, "big")
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    secrets = [TOKEN.encode(), BROKER.encode(), PROXY.encode(), scalar, der]
    (enrolled.root / "ticket.json").write_text(json.dumps({"device": "dev-1", "token": TOKEN}))
    config = tmp_path / "agent.toml"
    credentials = tmp_path / "proxy.secret"
    credentials.write_text(f"ada:{PROXY}\n")
    config.write_text(f"[broker]\nhost = 'h'\nport = 1\ntls = true\npassword = '{BROKER}'\n")
    monkeypatch.setenv(CREDENTIALS_VARIABLE, str(credentials))
    every = [form.decode("latin-1") for secret in secrets for form in encodings(secret)]
    log = [f"trying with {form} now" for form in every] + [enrolled.key.read_text(), "http://ada:unknown-one@p:1/"]
    (enrolled.root / "agent.log").write_text("\n".join(log), encoding="utf-8")
    with (enrolled.root / "agent.log").open("ab") as file:
        file.write(b"\n".join(secrets))
    outbox = OutboxFile(enrolled.outbox, "dev-1", limit_bytes=1 << 20)
    for form in every:
        outbox.append(Event(kind="download-failed", cause="unreachable", detail=f"with {form}"[:900]), created_at=1.0)
    outbox.close()
    return secrets, config


def test_no_secret_is_in_the_file_in_any_form(enrolled, planted, capsys):
    secrets, config = planted
    files = diagnose(enrolled, capsys, "--config", str(config))
    everything = b"\n".join(files.values())
    assert everything.count(TAKEN_OUT.encode()) > 50
    assert b"trying with" in files["logs/agent.log"]
    found = [form for secret in secrets for form in encodings(secret) if encodings(secret)[form] in everything]
    assert found == []
    assert b"PRIVATE KEY" not in everything
    assert b"unknown-one" not in everything
    for line in enrolled.key.read_bytes().splitlines()[1:-1]:
        assert line not in everything


def test_the_file_says_what_support_asks_for(enrolled, capsys):
    StateFile(enrolled.state).save(DeviceRecord(counter=7))
    outbox = OutboxFile(enrolled.outbox, "dev-1", limit_bytes=1 << 20)
    outbox.append(Event(kind="rolled-back", cause="nan-output"), created_at=1.0)
    (enrolled.slots).mkdir(exist_ok=True)
    (enrolled.slots / f"{'0' * 64}.bundle").write_bytes(b"flipped")
    files = {
        name: json.loads(data) for name, data in diagnose(enrolled, capsys).items() if name.endswith(".json")
    }  # while the outbox is open
    outbox.close()
    assert set(files) == {
        f"{name}.json"
        for name in (
            "versions", "settings", "identity", "state", "messages", "slots", "certificates", "metadata", "system",
            "files",
        )
    }  # fmt: skip
    assert files["state.json"]["counter"] == 7
    assert files["identity.json"]["device"] == "dev-1"
    assert files["messages.json"]["newest"][0]["body"]["cause"] == "nan-output"
    assert files["slots.json"][0]["intact"] is False
    assert files["certificates.json"]["certificate.pem"][0]["subject"] == "O=acme,CN=dev-1"
    assert {entry["path"]: entry["version"] for entry in files["metadata.json"]}["director.root.json"] == 1
    assert files["system.json"]["disk"]["free_bytes"] > 0
    assert "unreadable" not in json.dumps(files)


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 100])
def test_a_device_whose_files_are_damaged_is_diagnosed_all_the_same(enrolled, capsys, damage):
    for path in (enrolled.state, enrolled.outbox, enrolled.identity, enrolled.certificate):
        path.write_bytes(damage)
    files = diagnose(enrolled, capsys)
    assert b"unreadable" in files["messages.json"]
    assert b"unreadable" in files["certificates.json"]
    assert json.loads(files["system.json"])["disk"]["free_bytes"] > 0


def test_passwords_in_addresses_and_names_of_files_are_found_and_a_pipe_is_passed_over(
    enrolled, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("HTTPS_PROXY", "http://eve:pro/xy@word@host:1")
    monkeypatch.setenv("SOME_URL", "eve:database-word@host/x")
    config = tmp_path / "agent.toml"
    config.write_text('proxy = "http://ada:sett/ings-word@host:1"\n')
    words = ("pro/xy@word", "database-word", "sett/ings-word")
    (enrolled.root / "database-word.log").write_text("\n".join(f"with {word} alone" for word in words))
    os.mkfifo(enrolled.root / "pipe.log")
    enrolled.slots.mkdir(exist_ok=True)
    os.mkfifo(enrolled.slots / f"{'0' * 64}.bundle")
    files = diagnose(enrolled, capsys, "--config", str(config))
    everything = "\n".join(files) + b"\n".join(files.values()).decode()
    assert [word for word in words if word in everything] == []
    assert f"logs/{TAKEN_OUT}.log" in files
    assert json.loads(files["slots.json"])[0]["kind"] == "no file"


def test_a_folder_that_is_not_there_is_named(tmp_path, capsys):
    arguments = ["diagnose", "--data", str(tmp_path / "none"), "--output", str(tmp_path / "d.tar.gz")]
    assert main(arguments) == 2
    assert f"there is no folder '{tmp_path / 'none'}'" in capsys.readouterr().err


@given(secret=st.binary(min_size=9, max_size=40), before=st.binary(max_size=5), after=st.binary(max_size=5))
def test_a_secret_inside_any_base64_is_found(secret, before, after):
    encoded = base64.b64encode(before + secret + after).decode()
    assert Secrets([secret]).scrub(f"x {encoded} y") != f"x {encoded} y"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"password": "a b", "x": 1}', f'{{"password": "{TAKEN_OUT}", "x": 1}}'),
        ("mqtt_password=abc next", f'mqtt_password="{TAKEN_OUT}" next'),
        ("Proxy-Authorization: Basic QWxhZGRpbg==", f'Proxy-Authorization: "{TAKEN_OUT}" {TAKEN_OUT}'),
        ("https://u:p@host/", f"https://{TAKEN_OUT}@host/"),
        ("the token count is fine", "the token count is fine"),
        ("at 12:30 mail ada@host", "at 12:30 mail ada@host"),
        ("http://ada:pass/w@rd@host:1/x", f"http://{TAKEN_OUT}@host:1/x"),
        ("https://ghp_0123@host/", f"https://{TAKEN_OUT}@host/"),
        ("proxy ada:word@host:3128 used", f"proxy {TAKEN_OUT}@host:3128 used"),
        ("AWS_SECRET_ACCESS_KEY=abc next", f'AWS_SECRET_ACCESS_KEY="{TAKEN_OUT}" next'),
        ("Set-Cookie: session=abc; Path=/", f'Set-Cookie: "{TAKEN_OUT}"; Path=/'),
        ("https://h/x?a=1&X-Amz-Signature=abc&b=2", f"https://h/x?a=1&X-Amz-Signature={TAKEN_OUT}&b=2"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text, expected):
    assert Secrets([]).scrub(text) == expected
