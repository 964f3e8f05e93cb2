# SPDX-License-Identifier: Apache-2.0
"""The documents beside a bundle: recipe, bill of materials, provenance, pictures; and a check of what is signed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from converter.adapters.attestation.dsse import envelope_line, load_public_key, signed_envelope, verified_payload
from converter.adapters.attestation.model_signing_export import can_export, model_signature
from converter.core.recipe import Recipe, recipe_json
from converter.core.reports.drawing import layers_svg, pareto_svg
from converter.core.reports.mlbom import ml_bom
from converter.core.reports.pareto_table import pareto_table
from converter.core.reports.provenance import PAYLOAD_TYPE, check_statement, provenance_statement
from edgefleet.contracts.bundle import Bundle
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.errors import TrustError
from edgefleet.contracts.evidence import ConversionEvidence
from edgefleet.contracts.files import read_file
from edgefleet.contracts.manifest import Manifest
from edgefleet.contracts.names import bundle_file_name

if TYPE_CHECKING:
    from converter.adapters.attestation.dsse import CryptoSigner

PROVENANCE_SUFFIX = ".provenance.json"
SIGNED_SUFFIX = ".intoto.jsonl"


def documents(
    bundle: bytes,
    manifest: Manifest,
    evidence: ConversionEvidence,
    *,
    started_at: str | None = None,
    signer: "CryptoSigner | None" = None,
    recipe: Recipe | None = None,
) -> dict[str, bytes]:
    """Return the files to write beside a bundle, by the suffix that takes the place of ``.bundle``.

    ``.mlbom.json`` and ``.provenance.json`` always; ``.recipe.json`` where a recipe made the model; ``.pareto.svg`` and
    ``.pareto.md`` where there are candidates, ``.layers.svg`` where there are layers to show. With a ``signer`` also
    ``.intoto.jsonl`` (the provenance, signed), and ``.model.sig`` where the key is one that the OpenSSF's model_signing
    takes. Times come from ``evidence`` and ``started_at`` (RFC 3339).

    Raises:
        ValueError: the evidence is about another bundle.
    """
    if sha256_hex(bundle) != evidence.bundle_sha256:
        raise ValueError("the evidence is about another bundle")
    title = f"{manifest.name} {manifest.version} for {manifest.profile.id}"
    statement = provenance_statement(manifest, evidence, started_at=started_at)
    made = {".mlbom.json": ml_bom(manifest, evidence), PROVENANCE_SUFFIX: statement}
    if recipe is not None:
        made[".recipe.json"] = recipe_json(recipe)
    if evidence.candidates:
        made[".pareto.svg"] = pareto_svg(evidence.candidates, metric=manifest.metric, title=title).encode()
        made[".pareto.md"] = pareto_table(evidence.candidates, metric=manifest.metric, title=title).encode()
    if evidence.layers:
        made[".layers.svg"] = layers_svg(evidence.layers, title=title).encode()
    if signer is not None:
        made[SIGNED_SUFFIX] = envelope_line(signed_envelope(statement, PAYLOAD_TYPE, signer))
        if can_export(signer):
            name = bundle_file_name(manifest.name, manifest.version, manifest.profile.id)
            made[".model.sig"] = model_signature(name, evidence.bundle_sha256, signer)
    return made


def check_provenance(bundle: Bundle, public_key: Path) -> str:
    """Check the signed provenance beside a bundle, and return what it says in a few words.

    Raises:
        FileMissingError: there is none, or no key.
        SettingError: the key file is no public key.
        TrustError: the key did not sign it, or it is not about this bundle.
    """
    path = bundle.path.with_suffix(SIGNED_SUFFIX)
    hint = "convert with --signing-key, and keep the files beside the bundle"
    line = read_file(path, "the signed provenance", hint=hint)
    key = load_public_key(public_key)
    payload = verified_payload(line, PAYLOAD_TYPE, key)
    try:
        statement = msgspec.json.decode(payload, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise TrustError("the provenance is signed, and no in-toto statement", hint="convert again") from error
    check_statement(statement, bundle.manifest, bundle.sha256)
    return f"signed by the key {key.keyid[:12]}…, about this bundle and its sources"
