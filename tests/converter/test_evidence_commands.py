# SPDX-License-Identifier: Apache-2.0
"""inspect, evaluate and verify through the front door: pictures, other metrics, signed provenance."""

import json
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from converter.adapters.attestation.documents import documents
from converter.adapters.attestation.dsse import load_signer
from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.evidence import ConversionEvidence

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
Command = Callable[..., subprocess.CompletedProcess[str]]


def test_a_model_and_a_bundle_are_drawn(front_door: Command, digits_bundle: Path, tmp_path: Path) -> None:
    for file, precision in ((DIGITS / "v1_float32.tflite", "float32"), (digits_bundle, "int8")):
        done = front_door("inspect", file, "--svg", tmp_path / "graph.svg", "--json")
        assert done.returncode == 0, done.stderr
        picture = (tmp_path / "graph.svg").read_text()
        ElementTree.fromstring(picture)  # noqa: S314  # our own
        assert picture.count(f"1×10  {precision}") == 2
        assert json.loads(done.stdout)["model"]["precision"] == precision


def test_another_metric_of_the_task_scores_a_bundle(
    front_door: Command, digits_bundle: Path, digits_samples: Path
) -> None:
    plain, other = (
        json.loads(front_door("evaluate", digits_bundle, digits_samples / "live.npz", *more, "--json").stdout)
        for more in ([], ["--metric", "macro-f1"])
    )
    assert (plain["metric"], other["metric"]) == ("accuracy", "macro-f1")
    assert plain["per_class"] == other["per_class"]
    assert abs(plain["value"] - other["value"]) < 0.05
    refused = front_door("evaluate", digits_bundle, digits_samples / "live.npz", "--metric", "auc")
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        "error: --metric is 'auc', expected accuracy, macro-f1 (for classification) or module:function\n"
    )


def test_verify_checks_the_signed_provenance_beside_a_bundle(
    front_door: Command, digits_bundle: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(digits_bundle, tmp_path))
    key = Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = tmp_path / "key.pub.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    missing = front_door("verify", path, "--provenance-key", public)
    assert (missing.returncode, "cannot read the signed provenance" in missing.stderr) == (2, True)

    evidence = msgspec.json.decode(digits_bundle.with_suffix(".evidence.json").read_bytes(), type=ConversionEvidence)
    made = documents(path.read_bytes(), open_bundle(path).manifest, evidence, signer=load_signer(tmp_path / "key.pem"))
    path.with_suffix(".intoto.jsonl").write_bytes(made[".intoto.jsonl"])
    done = front_door("verify", path, "--provenance-key", public, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["checks"][-1]["name"] == "provenance"

    path.with_suffix(".intoto.jsonl").write_bytes(made[".intoto.jsonl"].replace(b'"sig":"', b'"sig":"AAAA'))
    forged = front_door("verify", path, "--provenance-key", public)
    assert (forged.returncode, "is not signed by the key" in forged.stderr) == (3, True)


def test_what_stands_beside_a_bundle_speaks_of_it(digits_bundle: Path) -> None:
    sha256 = open_bundle(digits_bundle).sha256
    bom = json.loads(digits_bundle.with_suffix(".mlbom.json").read_bytes())
    statement = json.loads(digits_bundle.with_suffix(".provenance.json").read_bytes())
    assert bom["metadata"]["component"]["hashes"][0]["content"] == sha256
    assert statement["subject"] == [{"name": digits_bundle.name, "digest": {"sha256": sha256}}]
