# SPDX-License-Identifier: Apache-2.0
"""Making the subject: three releases of the digits example, a server's folder, and a device that has had two."""

import datetime
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from device_agent.adapters.identity.data_folder import DataFolder, encode_identity
from device_agent.core.identity import Identity
from edgefleet.contracts.bundle import Bundle
from edgefleet.contracts.messages import RunningRelease
from edgefleet.contracts.policy import DevicePolicy, ShadowRule, TrialRule
from fleet_emulation.command import edgefleet, require
from fleet_emulation.power_loss.agent import AgentSubject
from fleet_emulation.power_loss.children import run_child
from fleet_emulation.power_loss.server_folder import URL, ServerFolder

MODELS = {"1.0.0": "v1_float32.tflite", "1.1.0": "v5_float32.tflite", "1.2.0": "v1_float32.tflite"}
_TENANT, _DEVICE, _PROFILE = "acme", "device-1", "linux-x86_64"
_DAYS = 365


def make_agent_subject(folder: Path, examples: Path, *, bundles: Sequence[Path] = ()) -> AgentSubject:
    """Make a device that runs the second of three releases, and whose server orders the third.

    ``bundles`` are three of a digits model in the order in which the device gets them (default: the example's, which
    are converted first).

    Raises:
        EdgeFleetError: a bundle cannot be made, or the device does not take it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = list(bundles) or convert_releases(folder / "bundles", examples)
    server = ServerFolder(folder / "server", tenant=_TENANT, device=_DEVICE, profile=_PROFILE)
    policy = DevicePolicy(
        shadow=ShadowRule(samples=5), trial=TrialRule(requests=10, minimum_s=0.0, unexplained_limit=100)
    )
    released = [server.release(path, policy) for path in made]
    template = folder / "device"
    _enrol(DataFolder(template), server)
    first, old, new = [_release_of(bundle) for bundle in released]
    subject = AgentSubject(template, server.folder, examples / "digits.npz", first, old, new)
    for bundle, release in zip(released, (first, old), strict=False):
        server.order(bundle)
        before = replace(subject, new=release)
        run_child(partial(before.update, template, folder / "promises"))
    server.order(released[-1])
    return subject


def convert_releases(folder: Path, examples: Path) -> list[Path]:
    """Convert the example's models, and return their bundles.

    Raises:
        EdgeFleetError: the conversion failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples = folder / "calibration.npz"
    with np.load(examples / "digits.npz", allow_pickle=False) as digits:
        np.savez(samples, x=digits["calibration_x"], y=digits["calibration_y"])
    for version, model in MODELS.items():
        made = edgefleet(
            "convert", examples / model, "--profile", _PROFILE, "--name", "digits", "--version", version,
            "--calibration", samples, "--acceptance", examples / "acceptance.npz", "--out", folder,
        )  # fmt: skip
        require(made)
    return [folder / f"digits-{version}-{_PROFILE}.bundle" for version in MODELS]


def _release_of(bundle: Bundle) -> RunningRelease:
    manifest = bundle.manifest
    return RunningRelease(name=manifest.name, version=manifest.version, bundle_sha256=bundle.sha256)


def _enrol(folder: DataFolder, server: ServerFolder) -> None:
    """Give a device what enrolment gives it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _DEVICE)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=_DAYS))
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    identity = Identity(server_url=URL, tenant=_TENANT, device=_DEVICE, profile=_PROFILE)
    files = {
        folder.key: private,
        folder.certificate: pem,
        folder.ca: pem,
        folder.identity: encode_identity(identity),
        folder.root_metadata("image"): server.image.root,
        folder.root_metadata("director"): server.director.root,
    }
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
