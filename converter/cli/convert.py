# SPDX-License-Identifier: Apache-2.0
"""``edgefleet convert``: a model in, a bundle and its evidence out."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from converter.cli.rebuild import run_rebuild
from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit, progress
from edgefleet.contracts.errors import InputError
from edgefleet.contracts.evidence import Candidate, ConversionEvidence
from edgefleet.contracts.manifest import Fact, Task

_EPILOG = (
    "Example: edgefleet convert model.tflite --profile raspberry-pi-4 --name person --version 1.0.0 "
    "--calibration pictures/ --evaluation labelled/ --preprocessing bgr.toml --out dist"
)
app = typer.Typer()
T = TypeVar("T")
Samples = Annotated[
    Path | None, typer.Option(metavar="P", help="A folder of pictures with labels.csv (file,label), or an .npz.")
]


class ConversionDocument(Fact, frozen=True, kw_only=True):
    """What ``--json`` prints."""

    bundle: str
    sha256: str
    evidence_file: str
    evidence: ConversionEvidence


@app.command(epilog=_EPILOG)
def convert(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="A .tflite file, float or quantized already, a Keras file, a SavedModel folder, or module:function "
            "that returns a PyTorch module."
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="ID|FILE.toml", help="The board: an id, or a file of your own.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="N", help="The product's name.")] = None,
    version: Annotated[str | None, typer.Option(metavar="X.Y.Z", help="The release's version.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the bundle and its evidence go.")] = None,
    calibration: Samples = None,
    evaluation: Samples = None,
    acceptance: Samples = None,
    labels: Annotated[Path | None, typer.Option(metavar="F", help="Class names, one a line.")] = None,
    preprocessing: Annotated[Path | None, typer.Option(metavar="F.toml", help="How pictures become inputs.")] = None,
    recipe: Annotated[Path | None, typer.Option(metavar="F.toml", help="What to quantize, and how.")] = None,
    task: Annotated[str, typer.Option(metavar="T", help="classification, regression, anomaly or detection.")] = (
        "classification"
    ),
    outputs: Annotated[
        str | None,
        typer.Option(
            metavar="ROLES",
            help="For detection, where the model does not tell: what each output is, in order, of boxes, classes, "
            "scores, count and other.",
        ),
    ] = None,
    metric: Annotated[str | None, typer.Option(metavar="module:function", help="Your own metric.")] = None,
    max_accuracy_drop: Annotated[str | None, typer.Option(metavar="0.5pt", help="Search: the largest drop.")] = None,
    max_flash: Annotated[str | None, typer.Option(metavar="250kB", help="Search: the largest model.")] = None,
    max_arena: Annotated[str | None, typer.Option(metavar="64kB", help="Search: the largest arena.")] = None,
    max_latency: Annotated[
        str | None, typer.Option(metavar="10ms", help="Search: the longest inference, as predicted for the board.")
    ] = None,
    signing_key: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Sign the provenance with this private key.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Compare with the float model layer by layer.")] = False,
    rebuild: Annotated[
        Path | None,
        typer.Option(metavar="B.bundle", help="Make this bundle again from --source; say what differs."),
    ] = None,
    source: Annotated[Path | None, typer.Option(metavar="MODEL", help="With --rebuild: what it was made from.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Convert a model for one board: quantize, check, evaluate, and write a bundle with its evidence.

    Any --max-… option starts a search for the smallest model that keeps them, and the profile's own budgets.
    """
    from converter.adapters.attestation.documents import documents
    from converter.adapters.attestation.dsse import load_signer
    from converter.adapters.containment import contained
    from converter.adapters.output_files import write_together
    from converter.adapters.settings import read_labels, read_preprocessing, read_recipe_file
    from converter.adapters.user_code.metrics import load_metric
    from converter.core.detection import parse_roles
    from converter.core.reports.units import parse_bytes, parse_share, parse_us
    from converter.core.request import ConversionRequest
    from converter.core.search.budgets import SearchBudgets
    from converter.pipeline import Conversion
    from converter.pipeline import convert as run_conversion
    from edgefleet.contracts.canonical import canonical_json
    from edgefleet.contracts.names import bundle_file_name
    from firmware_profiles import load_profile

    started = datetime.now(UTC)
    if rebuild is not None:
        run_rebuild(
            rebuild,
            source=source,
            profile=profile,
            metric=metric,
            recipe=read_recipe_file(recipe),
            calibration=calibration,
            evaluation=evaluation,
            acceptance=acceptance,
            now=started,
            as_json=as_json,
        )
        return
    if model is None:
        raise _missing("argument 'MODEL'")
    if profile is None or name is None or version is None or out is None:
        options = {"--profile": profile, "--name": name, "--version": version, "--out": out}
        raise _missing(f"option '{next(option for option, value in options.items() if value is None)}'")
    chosen = _task(task)
    signer = None if signing_key is None else load_signer(signing_key)
    request = ConversionRequest(
        model=model,
        profile=load_profile(profile),
        name=name,
        version=version,
        task=chosen,
        metric=load_metric(metric, chosen),
        preprocessing=read_preprocessing(preprocessing),
        labels=read_labels(labels),
        roles=parse_roles(outputs),
        recipe=read_recipe_file(recipe),
        calibration=calibration,
        evaluation=evaluation,
        acceptance=acceptance,
        limits=SearchBudgets(
            drop=_read(parse_share, max_accuracy_drop),
            model_bytes=_read(parse_bytes, max_flash),
            arena_bytes=_read(parse_bytes, max_arena),
            latency_us=_read(parse_us, max_latency),
        ),
        explain=explain,
    )

    def run() -> Conversion:
        with progress(f"converting {request.model.name}"):
            return run_conversion(request, now=started)

    done = contained(run)  # a hostile model that gets past the probe kills no more than this fork
    bundle_path = out / bundle_file_name(name, version, request.profile.id)
    evidence_path = bundle_path.with_suffix(".evidence.json")
    began = started.isoformat(timespec="seconds")
    beside = documents(done.bundle, done.manifest, done.evidence, started_at=began, signer=signer)
    files = {bundle_path.with_suffix(suffix): data for suffix, data in beside.items()}
    write_together({evidence_path: canonical_json(done.evidence), **files, bundle_path: done.bundle})
    document = ConversionDocument(
        bundle=str(bundle_path),
        sha256=done.evidence.bundle_sha256,
        evidence_file=str(evidence_path),
        evidence=done.evidence,
    )
    emit(document, as_json=as_json, human=lambda: _summary(document))


def _missing(what: str) -> InputError:
    return InputError(f"edgefleet convert: Missing {what}.", hint="see: edgefleet convert --help")


def _read(parse: Callable[[str], T], text: str | None) -> T | None:
    return None if text is None else parse(text)


def _task(text: str) -> Task:
    for known in ("classification", "regression", "anomaly", "detection"):
        if text == known:
            return known
    raise InputError(f"--task is '{text}'", hint="choose classification, regression, anomaly or detection")


def _summary(document: ConversionDocument) -> str:
    from converter.core.numerics.layer_error import layer_table

    evidence = document.evidence
    lines = [
        f"{document.bundle}: {evidence.bundle_bytes} bytes, model {evidence.model_bytes}"
        + (f" (float {evidence.float_model_bytes})" if evidence.float_model_bytes else ""),
        f"sha256 {document.sha256}",
    ]
    for title, score in (("evaluation", evidence.evaluation), ("acceptance", evidence.acceptance)):
        if score is not None:
            lines.append(f"{title}: {score.metric} {score.value:.4f} on {score.samples} samples")
    compared = evidence.comparison
    if compared is not None:
        lines.append(
            f"against float: {compared.difference:+.4f} [{compared.interval.low:+.4f}, {compared.interval.high:+.4f}], "
            f"same top-1 {compared.top1_agreement:.4f}, mean |Δ| {compared.mean_abs_delta:.5f}"
        )
    lines += [_candidate_line(one) for one in evidence.candidates]
    if evidence.layers:
        lines.append(layer_table(evidence.layers))
    return "\n".join([*lines, *(f"note: {warning}" for warning in evidence.warnings)])


def _candidate_line(one: Candidate) -> str:
    mark = "*" if one.chosen else " "
    drop = f"drop {100 * one.drop:+.2f} points [{100 * one.interval.low:+.2f}, {100 * one.interval.high:+.2f}]"
    return f"{mark} {one.model_bytes:>9} bytes, {drop}: {one.title}"
