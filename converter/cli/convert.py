# SPDX-License-Identifier: Apache-2.0
"""``edgefleet convert``: a model in, a bundle and its evidence out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converter.cli.rebuild import run_rebuild
from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit, progress
from edgefleet.contracts.errors import InputError
from edgefleet.contracts.evidence import Candidate, ConversionEvidence, FloatComparison
from edgefleet.contracts.manifest import Fact

if TYPE_CHECKING:
    from converter.api import Converted

_EPILOG = (
    "Example: edgefleet convert model.tflite --profile raspberry-pi-4 --name person --version 1.0.0 "
    "--calibration pictures/ --evaluation labelled/ --preprocessing bgr.toml --out dist"
)
_FORMS = (
    "A folder of pictures with labels.csv (file,label), a folder of .wav, an .npz, .npy or .csv, or module:function "
    "that yields samples."
)
app = typer.Typer()


class ConversionDocument(Fact, frozen=True, kw_only=True):
    """What ``--json`` prints."""

    bundle: str
    sha256: str
    evidence_file: str
    evidence: ConversionEvidence


@app.command(epilog=_EPILOG)
def convert(
    model: Annotated[
        str | None,
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
    calibration: Annotated[
        str | None, typer.Option(metavar="P", help=f"Typical inputs, 50 to 500; labels are not needed. {_FORMS}")
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(metavar="P", help=f"Labelled samples that calibration and training never saw. {_FORMS}"),
    ] = None,
    acceptance: Annotated[
        str | None, typer.Option(metavar="P", help=f"The product's labelled examples, kept in the bundle. {_FORMS}")
    ] = None,
    labels: Annotated[Path | None, typer.Option(metavar="F", help="Class names, one a line.")] = None,
    preprocessing: Annotated[
        Path | None, typer.Option(metavar="F.toml", help="How pictures, clips or columns become inputs.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="F.toml", help="What to quantize, and how; the .recipe.json beside a bundle makes its model again."
        ),
    ] = None,
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
    metric: Annotated[
        str | None, typer.Option(metavar="NAME|module:function", help="Another metric of the task, or your own.")
    ] = None,
    max_accuracy_drop: Annotated[
        str | None,
        typer.Option(
            metavar="0.5pt",
            help="Search: the largest drop of the metric; of an error (mse, mae, rmse) the largest rise, as a share of "
            "what always answering the mean of the labels would err.",
        ),
    ] = None,
    max_flash: Annotated[str | None, typer.Option(metavar="250kB", help="Search: the largest model.")] = None,
    max_arena: Annotated[str | None, typer.Option(metavar="64kB", help="Search: the largest arena.")] = None,
    max_latency: Annotated[
        str | None, typer.Option(metavar="10ms", help="Search: the longest inference, as predicted for the board.")
    ] = None,
    search_limit: Annotated[
        str | None, typer.Option(metavar="60s", help="Search: about how long it may take; 60s unless given.")
    ] = None,
    signing_key: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Sign the provenance with this private key.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Compare with the float model layer by layer.")] = False,
    rebuild: Annotated[
        Path | None,
        typer.Option(
            metavar="B.bundle",
            help="Make this bundle again from --source, --calibration and the others; say what differs.",
        ),
    ] = None,
    source: Annotated[str | None, typer.Option(metavar="MODEL", help="With --rebuild: what it was made from.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Convert a model for one board: quantize, check, evaluate, and write a bundle with its evidence.

    Any --max-… option starts a search for the smallest model that keeps them, and the profile's own budgets.
    """
    given: dict[str, Any] = {
        "profile": profile,
        "calibration": calibration,
        "evaluation": evaluation,
        "acceptance": acceptance,
        "metric": metric,
        "recipe": recipe,
        "preprocessing": preprocessing,
    }
    if rebuild is not None:
        useless = {
            "--out": out, "--max-accuracy-drop": max_accuracy_drop, "--max-flash": max_flash, "--max-arena": max_arena,
            "--max-latency": max_latency, "--search-limit": search_limit, "--signing-key": signing_key,
            "--explain": explain or None,
        }  # fmt: skip
        run_rebuild(rebuild, source=source or model, labels=labels, useless=useless, as_json=as_json, **given)
        return
    if model is None:
        raise _missing("argument 'MODEL'")
    for option, value in {"--profile": profile, "--name": name, "--version": version, "--out": out}.items():
        if value is None:
            raise _missing(f"option '{option}'")
    done = _converted(
        model,
        name=name,
        version=version,
        labels=labels or (),
        task=task,
        outputs=outputs,
        max_accuracy_drop=max_accuracy_drop,
        max_flash=max_flash,
        max_arena=max_arena,
        max_latency=max_latency,
        search_limit="60s" if search_limit is None else search_limit,
        signing_key=signing_key,
        explain=explain,
        **given,
    )
    path = done.write(out or Path())
    document = ConversionDocument(
        bundle=str(path),
        sha256=done.sha256,
        evidence_file=str(path.with_suffix(".evidence.json")),
        evidence=done.evidence,
    )
    emit(document, as_json=as_json, human=lambda: _summary(document))


def _converted(model: str, **arguments: Any) -> "Converted":
    """Convert in a fork: a hostile model that gets past the probe kills no more than that."""
    from converter.adapters.containment import contained
    from converter.api import convert as run_conversion

    def run() -> "Converted":
        with progress(f"converting {Path(model).name}") as shown:
            return run_conversion(model, progress=shown.say, **arguments)

    return contained(run)


def _missing(what: str) -> InputError:
    return InputError(f"edgefleet convert: Missing {what}.", hint="see: edgefleet convert --help")


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
    if evidence.comparison is not None:
        lines.append(_comparison_line(evidence.comparison))
    lines += [_candidate_line(one) for one in evidence.candidates]
    if evidence.layers:
        lines.append(layer_table(evidence.layers))
    return "\n".join([*lines, *(f"note: {warning}" for warning in evidence.warnings)])


def _comparison_line(compared: FloatComparison) -> str:
    parts = [
        f"against float: {compared.difference:+.4f} [{compared.interval.low:+.4f}, {compared.interval.high:+.4f}]",
        "" if compared.top1_agreement is None else f"same top-1 {compared.top1_agreement:.4f}",
        "" if compared.rank_correlation is None else f"rank correlation {compared.rank_correlation:.4f}",
        f"mean |Δ| {compared.mean_abs_delta:.5g}",
    ]
    return ", ".join(part for part in parts if part)


def _candidate_line(one: Candidate) -> str:
    mark = "*" if one.chosen else " "
    drop = f"drop {100 * one.drop:+.2f} points [{100 * one.interval.low:+.2f}, {100 * one.interval.high:+.2f}]"
    return f"{mark} {one.model_bytes:>9} bytes, {drop}: {one.title}"
