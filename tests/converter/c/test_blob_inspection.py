# SPDX-License-Identifier: Apache-2.0
"""``edgefleet inspect`` of model blobs: what was generated is what is told; damaged ones are one sentence."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.operator_cases.case import GraphWriter, flatbuffer
from converter.c.core.blob import with_vectors
from converter.c.core.blob_format import Vector
from converter.c.core.program import Target
from converter.c.generate import generate
from converter.cli.inspect import app
from edgefleet.contracts.errors import EdgeFleetError, FileMissingError, InputError, UnsupportedModelError


def _flatbuffer() -> bytes:
    graph = GraphWriter()
    first, middle, last = (graph.tensor([1, 8], 1 / 256, -128) for _ in range(3))
    graph.operator("LOGISTIC", [first], [middle])
    graph.operator("SOFTMAX", [middle], [last], beta=1.0)
    return flatbuffer(graph.case("chain", [{first: np.zeros((1, 8), np.int8)}], [last]).graph)


MODEL = _flatbuffer()
BLOB = generate(MODEL, name="chain", target=Target("tflm/1", "portable")).blob


def _inspected(path: Path, *options: str) -> str:
    done = CliRunner().invoke(app, [str(path), *options], catch_exceptions=False)
    return done.stdout


@pytest.mark.parametrize("name", ["chain.blob", "slot-1.bin"])
def test_a_blob_is_described_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BLOB)
    told = json.loads(_inspected(tmp_path / name, "--json"))
    layers = told.pop("layers")
    assert told | {"plan": ""} == {
        "file": name,
        "kind": "model-blob",
        "sha256": hashlib.sha256(BLOB).hexdigest(),
        "size_bytes": len(BLOB),
        "model_sha256": hashlib.sha256(MODEL).hexdigest(),
        "plan": "",
        "numerics": "tflm/1",
        "kernel_set": "portable",
        "arena_bytes": 16,
        "scratch_bytes": 0,
        "state_bytes": 0,
        "parity_vectors": 0,
        "variants": ["softmax/portable/exact", "table/portable/bytes"],
        "inputs": [
            {"name": "t0", "dtype": "int8", "shape": [1, 8], "scale": 1 / 256, "zero_point": -128,
             "arena_at": told["inputs"][0]["arena_at"], "size_bytes": 8}
        ],
        "outputs": [
            {"name": "t2", "dtype": "int8", "shape": [1, 8], "scale": 1 / 256, "zero_point": -128,
             "arena_at": told["outputs"][0]["arena_at"], "size_bytes": 8}
        ],
    }  # fmt: skip
    assert [(layer["variant"], layer["operator"], layer["output_bytes"], layer["once"]) for layer in layers] == [
        ("table/portable/bytes", 0, 8, False),
        ("softmax/portable/exact", 1, 8, False),
    ]
    assert layers[0]["parameter_bytes"] >= 256, "a table of 256 bytes"


def test_parameters_end_where_vectors_begin(tmp_path: Path) -> None:
    plain, proved = tmp_path / "plain.blob", tmp_path / "proved.blob"
    plain.write_bytes(BLOB)
    proved.write_bytes(with_vectors(BLOB, [Vector(bytes(8), bytes(8))]))
    first, second = (json.loads(_inspected(path, "--json")) for path in (plain, proved))
    assert (first["parity_vectors"], second["parity_vectors"]) == (0, 1)
    assert first["layers"] == second["layers"]


def test_a_person_reads_kernels_and_layers(tmp_path: Path) -> None:
    (tmp_path / "chain.blob").write_bytes(BLOB)
    lines = _inspected(tmp_path / "chain.blob").splitlines()
    assert lines[0] == f"chain.blob: model blob, {len(BLOB):,} bytes"
    assert lines[3:5] == [
        "tflm/1, portable kernels; 0 parity vectors",
        "arena: 16 bytes (scratch 0, state 0)",
    ]
    assert lines[7:11] == [
        "2 kernel variants:",
        "    1x softmax/portable/exact",
        "    1x table/portable/bytes",
        "2 layers:",
    ]
    assert lines[11].startswith("    0 operator 0, table/portable/bytes: parameters ")


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"", UnsupportedModelError, "'x.blob' is empty, not a model"),
        (b"TFL3", UnsupportedModelError, "this is no model blob: it begins with b'TFL3', expected b'EFB1'"),
        (BLOB[:96], UnsupportedModelError, "the model blob is damaged: it has 96 bytes, and its header has 128"),
        (BLOB[:-1] + bytes([BLOB[-1] ^ 1]), UnsupportedModelError,
         "the model blob is damaged: its bytes have another SHA-256"),
        (None, FileMissingError, "cannot read the model '{path}': No such file or directory"),
    ],
)  # fmt: skip
def test_what_is_no_blob_is_one_sentence(
    data: bytes | None, kind: type[EdgeFleetError], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.blob"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(kind) as refusal:
        _inspected(path)
    assert refusal.value.message == message.format(path=path)


def test_a_blob_has_no_picture(tmp_path: Path) -> None:
    (tmp_path / "chain.blob").write_bytes(BLOB)
    with pytest.raises(InputError) as refusal:
        _inspected(tmp_path / "chain.blob", "--svg", str(tmp_path / "graph.svg"))
    assert refusal.value.message == "a model blob has no graph to draw: it knows layers and arena offsets"
    assert not (tmp_path / "graph.svg").exists()
