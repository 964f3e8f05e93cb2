# SPDX-License-Identifier: Apache-2.0
"""Model blobs: what is written is read back; what is damaged is refused, by the strict reader and by firmware."""

import hashlib
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.operator_cases.case import GraphWriter, flatbuffer
from converter.c.core.blob import with_vectors
from converter.c.core.blob_format import END, HEADER_BYTES, LAYER, VARIANT, Header, Vector, fnv1a, fnv1a_64, plan_of
from converter.c.core.blob_reader import read_blob
from converter.c.core.program import Target
from converter.c.generate import Generated, generate
from edgefleet.contracts.errors import UnsupportedModelError

KERNELS = Path(__file__).resolve().parents[3] / "firmware" / "kernels"


def _made(length: int = 8, layers: int = 2) -> Generated:
    graph = GraphWriter()
    value = given_value = graph.tensor([1, length], 1 / 256, -128)
    for _ in range(layers):
        made = graph.tensor([1, length], 1 / 256, -128)
        graph.operator("LOGISTIC", [value], [made])
        value = made
    case = graph.case("chain", [{given_value: np.zeros((1, length), np.int8)}], [value])
    return generate(flatbuffer(case.graph), name="chain", target=Target("tflm/1", "portable"))


CHAIN = _made()


def test_a_blob_says_what_was_generated() -> None:
    facts = read_blob(CHAIN.blob)
    assert facts.size_bytes == len(CHAIN.blob)
    assert (facts.numerics, facts.kernel_set) == ("tflm/1", "portable")
    assert (facts.arena_bytes, facts.scratch_bytes, facts.state_bytes) == (CHAIN.arena_bytes, 0, 0)
    assert facts.variants == CHAIN.variants == ("table/portable/bytes",)
    assert [(layer.variant, layer.operator, layer.output_bytes, layer.once) for layer in facts.layers] == [
        ("table/portable/bytes", 0, 8, False),
        ("table/portable/bytes", 1, 8, False),
    ]
    [end] = facts.inputs
    assert (end.name, end.dtype, end.shape, end.scale, end.zero_point) == ("t0", "int8", (1, 8), 1 / 256, -128)
    assert [end.name for end in facts.outputs] == ["t2"]
    assert facts.vectors == ()


def test_hashes_are_those_of_the_specification() -> None:
    # Fowler, Noll, Vo: test vectors of draft-eastlake-fnv, appendix C
    assert [fnv1a(text) for text in (b"", b"a", b"foobar")] == [0x811C9DC5, 0xE40C292C, 0xBF9CF968]
    assert [fnv1a_64(text) for text in (b"", b"a", b"foobar")] == [
        0xCBF29CE484222325, 0xAF63DC4C8601EC8C, 0x85944171F73967E8,
    ]  # fmt: skip


@given(
    st.lists(st.tuples(st.binary(min_size=8, max_size=8), st.binary(min_size=8, max_size=8)), max_size=4),
    st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_vectors_come_back_and_leave_the_layers_alone(pairs: list[tuple[bytes, bytes]], hashed: bool) -> None:
    vectors = tuple(Vector(*pair, tuple(map(fnv1a_64, pair)) if hashed else ()) for pair in pairs)
    blob = with_vectors(CHAIN.blob, vectors)
    facts = read_blob(blob)
    assert facts.vectors == vectors
    assert replace(facts, vectors=(), size_bytes=0) == replace(read_blob(CHAIN.blob), size_bytes=0)
    assert len(blob) % 16 == 0


def test_python_and_c_agree_on_every_record(workshop: Any, tmp_path: Any) -> None:
    source = __file__.replace("test_blobs.py", "layout.c")
    subprocess.run(
        ["cc", "-std=c99", "-I", str(KERNELS / "include"), source, "-o", str(tmp_path / "layout")], check=True
    )
    said = subprocess.run([str(tmp_path / "layout")], check=True, capture_output=True, text=True).stdout
    assert dict(line.split() for line in said.splitlines()) == {
        "ef_blob_header": str(HEADER_BYTES),
        "ef_layer_record": str(LAYER.size),
        "ef_variant_record": str(VARIANT.size),
        "ef_end_record": str(END.size),
    }


def _sealed(blob: bytes, **changes: int) -> bytes:
    """Return a blob with fields of its header changed, and all hashes made right again."""
    header = replace(Header.unpack(blob), **changes)
    return replace(header, plan=plan_of(blob, header)).around(blob[HEADER_BYTES:])


def _with(blob: bytes, at: int, data: bytes) -> bytes:
    return _sealed(blob[:at] + data + blob[at + len(data) :])


HEADER = Header.unpack(CHAIN.blob)
LAYER_1 = HEADER.layers_at + LAYER.size
PLACES_1 = read_blob(CHAIN.blob).layers[1].layer_at


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "this is no model blob: it begins with b'', expected b'EFB1'"),
        (b"GIF89a", "this is no model blob: it begins with b'GIF8', expected b'EFB1'"),
        (CHAIN.blob[:100], "the model blob is damaged: it has 100 bytes, and its header has 128"),
        (
            CHAIN.blob[:-16],
            f"the model blob is damaged: it has {len(CHAIN.blob) - 16} bytes, and says {len(CHAIN.blob)}",
        ),
        (_sealed(CHAIN.blob, format=2), "the model blob has the format 2, expected 1"),
        (_sealed(CHAIN.blob, flags=6), "the model blob is damaged: it has the flags 0x6, which nobody knows"),
        (_sealed(CHAIN.blob, numerics=9), "the model blob is damaged: it has the numerics mode 9, which nobody knows"),
        (_sealed(CHAIN.blob, kernel_set=9), "the model blob is damaged: it has the kernel set 9, which nobody knows"),
        (_sealed(CHAIN.blob, arena_bytes=0), "the model blob is damaged: its arena is too small"),
        (_sealed(CHAIN.blob, once_count=3), "the model blob is damaged: more layers run once than it has"),
        (
            _sealed(CHAIN.blob, input_count=0, output_count=0),
            "the model blob is damaged: it has no inputs, or no outputs",
        ),
        (
            _sealed(CHAIN.blob, vectors_at=16, vector_count=99),
            "the model blob is damaged: its vectors lie outside of it",
        ),
        (
            _with(CHAIN.blob, LAYER_1, b"\x07\x00"),
            "the model blob is damaged: its layer 1 has the kernel 7, which it does not name",
        ),
        (
            _with(CHAIN.blob, PLACES_1, struct.pack("<I", 1 << 30)),
            "the model blob is damaged: its layer 1 lies outside of the arena",
        ),
        (
            _with(CHAIN.blob, HEADER.variants_at, b"\0\0\0\0"),
            "the model blob is damaged: its kernel 'table/portable/bytes' has another identifier",
        ),
        (
            replace(HEADER, plan=1).pack() + CHAIN.blob[HEADER_BYTES:],
            "the model blob is damaged: its layers are not those that it names as its plan",
        ),
        (CHAIN.blob[:-1] + b"\x55", "the model blob is damaged: its bytes have another SHA-256"),
    ],
)
def test_a_damaged_blob_is_refused_in_one_sentence(blob: bytes, message: str) -> None:
    with pytest.raises(UnsupportedModelError) as refusal:
        read_blob(blob)
    assert refusal.value.message == message


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_whatever_is_read_is_sound(data: st.DataObject) -> None:
    blob = _spoilt(data)
    try:
        facts = read_blob(blob)
    except UnsupportedModelError:
        return
    for layer in facts.layers:
        assert all(at <= facts.arena_bytes for at in (*layer.inputs, *layer.outputs, layer.scratch))
        assert layer.layer_at < len(blob)


def _spoilt(data: st.DataObject) -> bytes:
    """Return a blob in which some words of the tables are others, sealed again so that the hashes do not show it."""
    blob = bytearray(CHAIN.blob)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, (PLACES_1 + 16) // 4)) * 4
        blob[at : at + 4] = data.draw(st.sampled_from(_WORDS) | st.binary(min_size=4, max_size=4))
    header = Header.unpack(bytes(blob))
    sealed = replace(header, plan=plan_of(bytes(blob), header) if header.layer_count < 999 else 0)
    return sealed.around(bytes(blob[HEADER_BYTES:])) if data.draw(st.booleans()) else bytes(blob)


_WORDS = [struct.pack("<I", word) for word in (0, 1, 16, 127, 128, 255, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)]


def test_firmware_reads_no_byte_beyond_a_damaged_blob(workshop: Any, tmp_path: Any) -> None:
    program = workshop.opening(CHAIN, tmp_path)
    random = np.random.default_rng(7)
    blobs = [CHAIN.blob, *(_random_damage(random) for _ in range(4000))]
    sent = b"".join(struct.pack("<I", len(blob)) + blob for blob in blobs)
    done = subprocess.run([str(program)], input=sent, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    statuses = [int(line) for line in done.stdout.split()]
    assert len(statuses) == len(blobs)
    assert statuses[0] == 0
    assert {0, 1, 2} <= set(statuses)  # some damage is in what nobody can check: weights, names, the model's hash


def _random_damage(random: np.random.Generator) -> bytes:
    blob = bytearray(CHAIN.blob)
    for _ in range(random.integers(1, 4)):
        at = int(random.integers(0, (PLACES_1 + 16) // 4)) * 4
        word = _WORDS[random.integers(len(_WORDS))] if random.random() < 0.6 else random.bytes(4)
        blob[at : at + 4] = word
    whole = bytes(blob)
    header = Header.unpack(whole)
    if random.random() < 0.7 and header.layer_count < 999:
        whole = replace(header, plan=plan_of(whole, header)).pack() + whole[HEADER_BYTES:]
    return whole[: int(random.integers(1, len(whole) + 1))] if random.random() < 0.1 else whole


def test_a_blob_names_its_model() -> None:
    assert read_blob(CHAIN.blob).model_sha256 == hashlib.sha256(_flatbuffer()).digest()


def _flatbuffer() -> bytes:
    graph = GraphWriter()
    values = [graph.tensor([1, 8], 1 / 256, -128)]
    for _ in range(2):
        values.append(graph.tensor([1, 8], 1 / 256, -128))
        graph.operator("LOGISTIC", [values[-2]], [values[-1]])
    return flatbuffer(graph.case("chain", [{values[0]: np.zeros((1, 8), np.int8)}], [values[-1]]).graph)
