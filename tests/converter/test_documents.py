# SPDX-License-Identifier: Apache-2.0
"""The documents beside a bundle: valid for the tools that read them, and refused when they speak of another."""

import base64
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, EllipticCurve
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from converter.adapters.attestation.documents import check_provenance, documents
from converter.adapters.attestation.dsse import load_public_key, load_signer
from converter.core.reports.mlbom import ml_bom
from converter.core.reports.provenance import provenance_statement
from edgefleet.contracts.bundle import Bundle, describe_members, open_bundle, pack
from edgefleet.contracts.errors import EdgeFleetError, FileMissingError, SettingError, TrustError
from edgefleet.contracts.evidence import (
    Candidate,
    ClassScore,
    Confusion,
    ConversionEvidence,
    FloatComparison,
    Interval,
    LayerError,
    Score,
)
from edgefleet.contracts.manifest import (
    AcceptanceExamples,
    Budgets,
    Interface,
    Lineage,
    Manifest,
    ParityVectors,
    Preprocessing,
    ProfileReference,
    RuntimeRequirement,
    TensorSpec,
    Tolerances,
    Tool,
)

#: Names a Python that has model-signing and cyclonedx-python-lib[json-validation], where this one has not.
EVIDENCE_PYTHON = "EDGEFLEET_EVIDENCE_PYTHON"
INTERVAL = Interval(low=-0.01, high=0.005, level=0.95, method="paired")
MEMBERS = {
    "golden/acceptance.npz": b"examples", "golden/in.bin": b"i", "golden/out.bin": b"o", "model/model.tflite": b"model",
}  # fmt: skip


def manifest(**changes: Any) -> Manifest:
    facts: dict[str, Any] = {
        "format_version": 1, "name": "digits", "version": "1.0.0", "task": "classification", "metric": "accuracy",
        "precision": "int8", "profile": ProfileReference(id="linux-x86_64", compat_hash="ab" * 32),
        "runtime": RuntimeRequirement(kind="litert", minimum_version="2.3.0", numerics="litert/1"),
        "interface": Interface(
            inputs=(TensorSpec(name="frame", shape=(1, 8, 8, 1), dtype="int8", scale=0.5, zero_point=-3),),
            outputs=(TensorSpec(name="class", shape=(1, 2), dtype="float32"),), labels=("cat", 'd"og</script>'),
        ),
        "preprocessing": Preprocessing(), "tolerances": Tolerances(unit="lsb", reference=0.0, production=1.0),
        "budgets": Budgets(),
        "parity": ParityVectors(samples=1, inputs=("golden/in.bin",), outputs=("golden/out.bin",)),
        "acceptance": AcceptanceExamples(
            path="golden/acceptance.npz", sha256=describe_members(MEMBERS)[0].sha256, samples=8, metric="accuracy",
            value=0.97,
        ),
        "model": "model/model.tflite", "members": describe_members(MEMBERS),
        "lineage": Lineage(
            source_sha256="01" * 32, recipe_sha256="02" * 32, calibration_sha256="03" * 32, evaluation_sha256="04" * 32,
            rewrites=("pruned 3 channels",), tools=(Tool(name="edgefleet", version="0.1.0"),), git_commit="05" * 20,
        ),
    }  # fmt: skip
    return Manifest(**{**facts, **changes})


def evidence(bundle: Bundle, **changes: Any) -> ConversionEvidence:
    facts: dict[str, Any] = {
        "bundle_sha256": bundle.sha256, "name": "digits", "version": "1.0.0", "profile": "linux-x86_64",
        "created_at": "2026-11-22T19:00:00+00:00", "bundle_bytes": bundle.size_bytes, "model_bytes": 5,
        "evaluation": Score(metric="accuracy", value=0.95, samples=100),
        "acceptance": Score(metric="accuracy", value=0.97, samples=8),
        "comparison": FloatComparison(
            float_value=0.96, difference=-0.01, interval=INTERVAL, top1_agreement=0.99, mean_abs_delta=0.01
        ),
        "confusion": Confusion(
            counts=((5, 0), (1, 4)), classes=(ClassScore(label="cat", samples=5, precision=0.8, recall=1.0, f1=0.9),)
        ),
        "warnings": ("computed in float: LEAKY_RELU",),
    }  # fmt: skip
    return ConversionEvidence(**{**facts, **changes})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    path = tmp_path / "digits-1.0.0-linux-x86_64.bundle"
    path.write_bytes(pack(manifest(), MEMBERS))
    return open_bundle(path)


def write_keys(folder: Path, private: Any, encryption: KeySerializationEncryption | None = None) -> tuple[Path, Path]:
    secret, public = folder / "key.pem", folder / "key.pub.pem"
    encryption = encryption or NoEncryption()
    secret.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    public.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return secret, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path, Ed25519PrivateKey.generate())


def write_documents(bundle: Bundle, key: Path, **changes: Any) -> Path:
    """Write what the converter would, and return the signed provenance."""
    made = documents(bundle.path.read_bytes(), bundle.manifest, evidence(bundle, **changes), signer=load_signer(key))
    for suffix, data in made.items():
        bundle.path.with_suffix(suffix).write_bytes(data)
    return bundle.path.with_suffix(".intoto.jsonl")


@pytest.fixture
def evidence_python() -> str:
    named = os.environ.get(EVIDENCE_PYTHON)
    missing = [name for name in ("cyclonedx", "model_signing") if importlib.util.find_spec(name) is None]
    if named is None and missing:
        pytest.skip(f"needs {' and '.join(missing)}: install model-signing and cyclonedx-python-lib[json-validation], "
                    f"or set {EVIDENCE_PYTHON}")  # fmt: skip
    return named or sys.executable


def test_what_is_made_depends_on_what_there_is_to_show(bundle: Bundle) -> None:
    data = bundle.path.read_bytes()
    assert set(documents(data, bundle.manifest, evidence(bundle))) == {".mlbom.json", ".provenance.json"}
    candidate = Candidate(
        title="int8", recipe_sha256="02" * 32, model_bytes=5, drop=0.01, interval=INTERVAL, on_front=True, chosen=True
    )
    layer = LayerError(layer="a", operator="CONV_2D", precision="int8", sqnr_db=3.0, cosine=0.9)
    shown = evidence(bundle, candidates=(candidate,), layers=(layer,))
    made = documents(data, bundle.manifest, shown)
    assert set(made) == {".mlbom.json", ".provenance.json", ".pareto.svg", ".pareto.md", ".layers.svg"}
    assert b"digits 1.0.0 for linux-x86_64" in made[".pareto.svg"]
    assert made == documents(data, bundle.manifest, shown)


def test_documents_about_another_bundle_are_never_made(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="the evidence is about another bundle"):
        documents(bundle.path.read_bytes(), bundle.manifest, evidence(bundle, bundle_sha256="00" * 32))


def test_the_bill_of_materials_names_the_bundle_its_sources_and_its_scores(bundle: Bundle) -> None:
    document = json.loads(ml_bom(bundle.manifest, evidence(bundle)))
    made = document["metadata"]["component"]
    assert made["hashes"] == [{"alg": "SHA-256", "content": bundle.sha256}]
    assert [part["bom-ref"] for part in document["components"]] == [
        "source-model", "calibration-samples", "evaluation-samples", "acceptance-samples", "recipe",
    ]  # fmt: skip
    metrics = made["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert metrics[0] == {"type": "accuracy", "value": "0.95", "slice": "evaluation"}
    assert metrics[2]["confidenceInterval"] == {"lowerBound": "-0.01", "upperBound": "0.005"}
    assert {"type": "recall", "value": "1.0", "slice": "evaluation, class cat"} in metrics


def test_the_strict_validator_of_cyclonedx_takes_the_bill_of_materials(
    bundle: Bundle, evidence_python: str, tmp_path: Path
) -> None:
    script = (
        "import sys; from cyclonedx.schema import SchemaVersion\n"
        "from cyclonedx.validation.json import JsonStrictValidator\n"
        "for path in sys.argv[1:]: print(JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(path).read()))"
    )
    bare = msgspec.structs.replace(
        manifest(acceptance=None, task="anomaly"), lineage=Lineage(source_sha256="01" * 32, recipe_sha256="02" * 32)
    )
    plain = evidence(bundle, evaluation=None, acceptance=None, comparison=None, confusion=None, warnings=())
    (tmp_path / "full.json").write_bytes(ml_bom(bundle.manifest, evidence(bundle)))
    (tmp_path / "bare.json").write_bytes(ml_bom(bare, plain))
    (tmp_path / "broken.json").write_bytes(ml_bom(bare, plain).replace(b'"anomaly"', b"7"))
    done = subprocess.run(
        [evidence_python, "-c", script, *(tmp_path / f"{name}.json" for name in ("full", "bare", "broken"))],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    first, second, third = done.stdout.strip().split("\n", 2)
    assert (first, second) == ("None", "None")
    assert "7 is not of type 'string'" in third


def test_the_provenance_says_what_was_asked_for_and_what_it_was_made_from(bundle: Bundle) -> None:
    statement = json.loads(
        provenance_statement(bundle.manifest, evidence(bundle), started_at="2026-11-22T18:59:00+00:00")
    )
    assert statement["subject"] == [{"name": bundle.path.name, "digest": {"sha256": bundle.sha256}}]
    predicate = statement["predicate"]
    assert predicate["runDetails"]["metadata"] == {
        "startedOn": "2026-11-22T18:59:00+00:00", "finishedOn": "2026-11-22T19:00:00+00:00",
    }  # fmt: skip
    assert {part["name"]: part["digest"] for part in predicate["buildDefinition"]["resolvedDependencies"]} == {
        "source-model": {"sha256": "01" * 32}, "recipe": {"sha256": "02" * 32},
        "acceptance-examples": {"sha256": bundle.manifest.acceptance.sha256},  # type: ignore[union-attr]
        "calibration-samples": {"edgefleetSampleSetV1": "03" * 32},
        "evaluation-samples": {"edgefleetSampleSetV1": "04" * 32}, "source-code": {"gitCommit": "05" * 20},
    }  # fmt: skip


def test_a_signed_provenance_is_checked_against_the_bundle(bundle: Bundle, keys: tuple[Path, Path]) -> None:
    path = write_documents(bundle, keys[0])
    key = load_public_key(keys[1])
    assert (
        check_provenance(bundle, keys[1]) == f"signed by the key {key.keyid[:12]}…, about this bundle and its sources"
    )
    envelope = json.loads(path.read_bytes())
    assert base64.b64decode(envelope["payload"]) == bundle.path.with_suffix(".provenance.json").read_bytes()
    assert path.read_bytes().count(b"\n") == 1


def test_a_key_of_the_keys_command_is_read_as_well(bundle: Bundle, keys: tuple[Path, Path], tmp_path: Path) -> None:
    write_documents(bundle, keys[0])
    key = load_public_key(keys[1])
    public = tmp_path / "release.pub.json"
    public.write_bytes(msgspec.json.encode({"keyid": key.keyid, **key.to_dict()}))
    assert check_provenance(bundle, public).startswith("signed by the key ")


def test_another_key_and_a_changed_provenance_are_refused(
    bundle: Bundle, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    path = write_documents(bundle, keys[0])
    other = tmp_path / "other"
    other.mkdir()
    stranger = write_keys(other, Ed25519PrivateKey.generate())[1]
    with pytest.raises(TrustError) as refused:
        check_provenance(bundle, stranger)
    assert refused.value.message == f"the provenance is not signed by the key {load_public_key(stranger).keyid[:12]}…"
    envelope = json.loads(path.read_bytes())
    changed = base64.b64decode(envelope["payload"]).replace(b"digits", b"digitz")
    envelope["payload"] = base64.b64encode(changed).decode()
    path.write_text(json.dumps(envelope))
    with pytest.raises(TrustError, match="is not signed by the key"):
        check_provenance(bundle, keys[1])
    path.write_bytes(b"{}")
    with pytest.raises(TrustError) as empty:
        check_provenance(bundle, keys[1])
    assert empty.value.message == "the provenance is no DSSE envelope"


def test_a_provenance_of_another_bundle_is_refused(bundle: Bundle, keys: tuple[Path, Path], tmp_path: Path) -> None:
    signed = write_documents(bundle, keys[0]).read_bytes()
    other = tmp_path / "other.bundle"
    other.write_bytes(pack(manifest(budgets=Budgets(model_bytes=9)), MEMBERS))
    other.with_suffix(".intoto.jsonl").write_bytes(signed)
    found = open_bundle(other)
    with pytest.raises(TrustError) as refused:
        check_provenance(found, keys[1])
    assert refused.value.message == (
        f"the provenance is about {bundle.sha256[:12]}…, the bundle's SHA-256 is {found.sha256[:12]}…"
    )


def test_a_provenance_that_names_other_sources_than_the_manifest_is_refused(
    bundle: Bundle, keys: tuple[Path, Path]
) -> None:
    lied = manifest(lineage=Lineage(source_sha256="ff" * 32, recipe_sha256="02" * 32))
    made = documents(bundle.path.read_bytes(), lied, evidence(bundle), signer=load_signer(keys[0]))
    bundle.path.with_suffix(".intoto.jsonl").write_bytes(made[".intoto.jsonl"])
    with pytest.raises(TrustError) as refused:
        check_provenance(bundle, keys[1])
    assert refused.value.message == "the provenance names other sources than the bundle's manifest"


def test_a_missing_provenance_is_told_with_the_option_that_makes_one(bundle: Bundle, keys: tuple[Path, Path]) -> None:
    with pytest.raises(FileMissingError) as refused:
        check_provenance(bundle, keys[1])
    assert refused.value.hint == "convert with --signing-key, and keep the files beside the bundle"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"junk", "'key.pem' is no private key that can sign"), (None, "the private key 'key.pem' is encrypted")],
)
def test_a_key_that_cannot_be_used(tmp_path: Path, content: bytes | None, message: str) -> None:
    secret, _ = write_keys(tmp_path, Ed25519PrivateKey.generate(), BestAvailableEncryption(b"secret"))
    if content is not None:
        secret.write_bytes(content)
    with pytest.raises(SettingError) as refused:
        load_signer(secret)
    assert refused.value.message == message
    (tmp_path / "x.json").write_bytes(b"{}")
    with pytest.raises(EdgeFleetError, match="is no public key"):
        load_public_key(tmp_path / "x.json")


@pytest.mark.parametrize("curve", [SECP256R1(), SECP384R1()])
def test_the_openssf_tool_verifies_the_exported_signature(
    bundle: Bundle, curve: EllipticCurve, evidence_python: str, tmp_path: Path
) -> None:
    secret, public = write_keys(tmp_path, generate_ec_key(curve))
    write_documents(bundle, secret)
    command = [
        evidence_python, "-m", "model_signing", "verify", "key", str(bundle.path),
        "--signature", str(bundle.path.with_suffix(".model.sig")), "--public_key", str(public),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n"), done.stderr
    bundle.path.write_bytes(bundle.path.read_bytes() + b"\0")
    assert subprocess.run(command, capture_output=True, check=False, timeout=120).returncode != 0


def test_a_key_that_the_openssf_tool_does_not_take_makes_no_such_signature(
    bundle: Bundle, keys: tuple[Path, Path]
) -> None:
    write_documents(bundle, keys[0])
    assert not bundle.path.with_suffix(".model.sig").exists()
