# SPDX-License-Identifier: Apache-2.0
"""``edgefleet run``: run a bundle's model on a batch."""

from pathlib import Path
from typing import Annotated

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit

app = typer.Typer()


@app.command(epilog="Example: edgefleet run dist/person-1.0.0-raspberry-pi-4.bundle batch.npy --output answers.npy")
def run(
    bundle: Annotated[Path, typer.Argument(help="A bundle file.", metavar="B.bundle")],
    batch: Annotated[Path, typer.Argument(help="A batch; the first axis counts samples.", metavar="INPUT.npy")],
    output: Annotated[Path, typer.Option(metavar="OUT.npy", help="Where the first output of each sample goes.")],
    as_json: JsonOption = False,
) -> None:
    """Run a bundle's model on a batch.

    A batch of the model's own integer type goes in as it is, and the outputs come as they are. Any other batch holds
    raw samples: they are preprocessed and quantized, and the outputs are real values.
    """
    import io

    import numpy as np

    from converter.adapters.output_files import write_whole
    from converter.adapters.settings import read_batch
    from converter.verification import run_bundle

    done = run_bundle(bundle, read_batch(batch))
    content = io.BytesIO()
    np.save(content, done.outputs[0], allow_pickle=False)
    write_whole(output, content.getvalue())
    shape = list(done.outputs[0].shape)
    document = {
        "output": str(output),
        "samples": shape[0],
        "shape": shape,
        "dtype": done.outputs[0].dtype.name,
        "values": "tensors" if done.raw else "real",
    }
    emit(document, as_json=as_json, human=f"{output}: {shape[0]} samples, shape {shape}, {document['dtype']}")
