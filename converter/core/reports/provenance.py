# SPDX-License-Identifier: Apache-2.0
"""How a bundle was made: an in-toto statement (v1) with SLSA provenance (v1) whose subject is the bundle."""

from typing import Any

from edgefleet.contracts.canonical import canonical_json
from edgefleet.contracts.errors import TrustError
from edgefleet.contracts.evidence import ConversionEvidence
from edgefleet.contracts.manifest import Lineage, Manifest
from edgefleet.contracts.names import bundle_file_name

Json = dict[str, Any]
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
#: What a build was asked for and made from is described in docs/reference/evidence.md under this name.
BUILD_TYPE = "urn:edgefleet:convert:v1"
BUILDER_ID = "urn:edgefleet:converter"
#: in-toto's digest sets name the algorithm: the content of a set of samples is hashed by a rule of our own.
_SAMPLES = "edgefleetSampleSetV1"
_HINT = "take bundle and provenance from the same conversion"


def provenance_statement(manifest: Manifest, evidence: ConversionEvidence, *, started_at: str | None = None) -> bytes:
    """Return the statement as canonical JSON; times are RFC 3339, the end is the evidence's ``created_at``."""
    times = {"startedOn": started_at, "finishedOn": evidence.created_at}
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": _file_name(manifest), "digest": {"sha256": evidence.bundle_sha256}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": _asked_for(manifest),
                    "internalParameters": {"rewrites": list(manifest.lineage.rewrites)},
                    "resolvedDependencies": _made_from(manifest),
                },
                "runDetails": {
                    "builder": {
                        "id": BUILDER_ID,
                        "version": {tool.name: tool.version for tool in manifest.lineage.tools},
                    },
                    "metadata": {name: time for name, time in times.items() if time is not None},
                },
            },
        }
    )


def check_statement(statement: Json, manifest: Manifest, bundle_sha256: str) -> None:
    """Refuse a statement that does not speak of this bundle, or contradicts its manifest.

    Raises:
        TrustError: the first thing that does not fit.
    """
    if statement.get("_type") != STATEMENT_TYPE or statement.get("predicateType") != PREDICATE_TYPE:
        raise TrustError(
            f"the provenance is a '{statement.get('predicateType')}', expected '{PREDICATE_TYPE}'", hint=_HINT
        )
    digests = [subject.get("digest", {}).get("sha256") for subject in statement.get("subject", [])]
    if digests != [bundle_sha256]:
        raise TrustError(
            f"the provenance is about {digests[0][:12] if digests and digests[0] else 'nothing'}…, "
            f"the bundle's SHA-256 is {bundle_sha256[:12]}…",
            hint=_HINT,
        )
    definition = statement.get("predicate", {}).get("buildDefinition", {})
    if definition.get("externalParameters") != _asked_for(manifest):
        raise TrustError("the provenance names other parameters than the bundle's manifest", hint=_HINT)
    if definition.get("resolvedDependencies") != _made_from(manifest):
        raise TrustError("the provenance names other sources than the bundle's manifest", hint=_HINT)


def _file_name(manifest: Manifest) -> str:
    return bundle_file_name(manifest.name, manifest.version, manifest.profile.id)


def _asked_for(manifest: Manifest) -> Json:
    return {
        "name": manifest.name,
        "version": manifest.version,
        "profile": {"id": manifest.profile.id, "compatHash": manifest.profile.compat_hash},
        "task": manifest.task,
        "metric": manifest.metric,
    }


def _made_from(manifest: Manifest) -> list[Json]:
    lineage = manifest.lineage
    accepted = manifest.acceptance
    files = [
        ("source-model", lineage.source_sha256),
        ("recipe", lineage.recipe_sha256),
        ("acceptance-examples", None if accepted is None else accepted.sha256),
    ]
    sets = [("calibration-samples", lineage.calibration_sha256), ("evaluation-samples", lineage.evaluation_sha256)]
    return [
        *({"name": name, "digest": {"sha256": sha256}} for name, sha256 in files if sha256 is not None),
        *({"name": name, "digest": {_SAMPLES: sha256}} for name, sha256 in sets if sha256 is not None),
        *_commit(lineage),
    ]


def _commit(lineage: Lineage) -> list[Json]:
    return [] if lineage.git_commit is None else [{"name": "source-code", "digest": {"gitCommit": lineage.git_commit}}]
