# SPDX-License-Identifier: Apache-2.0
"""Real models as bundles for the benchmarks of serving: digits, keyword spotting, visual wake words, ResNet-8.

Two more need more than a millisecond on a server's processor, too: visual wake words on pictures of three times the
width and height, and ResNet-8 on eight pictures at once.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from benchmarks.record import ROOT, SHARED
from device_agent.core.serving import ModelRef
from edgefleet.contracts import manifest as m
from edgefleet.contracts.bundle import describe_members, pack
from edgefleet.contracts.messages import RunningRelease
from edgefleet.runtimes.litert import LiteRtInterpreter


class ServedModel(NamedTuple):
    """A bundle in a folder, and one raw input for it."""

    name: str
    ref: ModelRef
    raw: npt.NDArray[Any]


def served_models(folder: Path) -> Iterator[ServedModel]:
    """Pack each model that is here; those of the shared folder are left out where it is not."""
    random = np.random.default_rng(5)
    digits = ROOT / "examples" / "digits" / "v1_float32.tflite"
    yield _served(folder, "digits", digits, m.Preprocessing(), random.random((1, 8, 8, 1), np.float32))
    kws, vww, resnet = (SHARED / "models" / f"{name}.tflite" for name in ("kws_int8", "vww_int8", "ic_resnet8_float32"))
    if kws.exists():
        yield _served(folder, "kws", kws, m.Preprocessing(), random.normal(0, 30, (1, 49, 10, 1)).astype(np.float32))
    if vww.exists():
        model = vww.read_bytes()
        for name, side, data in (("vww", 96, model), ("vww_288", 288, enlarged(model, 3))):
            how = m.Preprocessing(image=m.ImagePreprocessing(size=(side, side), channels="BGR", scale=1 / 255))
            yield _packed(folder, name, data, how, random.integers(0, 256, (side, side, 3), np.uint8))
    if resnet.exists():
        eight = random.integers(0, 256, (8, 32, 32, 3)).astype(np.float32)
        yield _packed(folder, "resnet8_x8", at_once(resnet.read_bytes(), 8), m.Preprocessing(), eight)


def at_once(model: bytes, count: int) -> bytes:
    """Return a model that takes so many samples at once instead of one."""
    made = schema.ModelT.InitFromPackedBuf(model, 0)
    for tensor in _flowing(made):
        if len(tensor.shape) and tensor.shape[0] == 1:
            tensor.shape = [count, *tensor.shape[1:]]
    return _built(made)


def enlarged(model: bytes, times: int) -> bytes:
    """Return a model for pictures of so many times the width and height, with the weights that it has.

    Its average pools, which take in a whole picture, grow with it.
    """
    made = schema.ModelT.InitFromPackedBuf(model, 0)
    for tensor in _flowing(made):
        if len(tensor.shape) == 4 and tensor.shape[1] > 1:
            batch, height, width, channels = tensor.shape
            tensor.shape = [batch, height * times, width * times, channels]
    for operator in made.subgraphs[0].operators:
        if operator.builtinOptionsType == schema.BuiltinOptions.Pool2DOptions:
            pool = operator.builtinOptions
            for name in ("filterHeight", "filterWidth", "strideH", "strideW"):
                setattr(pool, name, getattr(pool, name) * times)
    return _built(made)


def _flowing(model: Any) -> Iterator[Any]:
    """Yield the tensors that are no constants; what was said of their shapes otherwise is taken off."""
    for tensor in model.subgraphs[0].tensors:
        if model.buffers[tensor.buffer].data is None:
            tensor.shapeSignature = None
            yield tensor


def _built(model: Any) -> bytes:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _served(folder: Path, name: str, model: Path, how: m.Preprocessing, raw: npt.NDArray[Any]) -> ServedModel:
    return _packed(folder, name, model.read_bytes(), how, raw)


def _packed(folder: Path, name: str, model: bytes, how: m.Preprocessing, raw: npt.NDArray[Any]) -> ServedModel:
    data = pack_bundle(name, "1.0.0", model, how)
    sha256 = hashlib.sha256(data).hexdigest()
    path = folder / f"{sha256}.bundle"
    path.write_bytes(data)
    release = RunningRelease(name=name, version="1.0.0", bundle_sha256=sha256)
    return ServedModel(name, ModelRef(path=str(path), release=release), raw)


def pack_bundle(name: str, version: str, model: bytes, how: m.Preprocessing) -> bytes:
    """Pack a model with two parity vectors of its own, without acceptance examples."""
    interpreter = LiteRtInterpreter(model, kernels="reference")
    random = np.random.default_rng(7)
    inputs = [_samples(spec, random) for spec in interpreter.inputs]
    answers = [interpreter.invoke([tensor[sample] for tensor in inputs]) for sample in range(2)]
    members = {"model/model.tflite": model, m.MODEL_CARD_PATH: f"# {name}\n".encode()}
    members |= {f"golden/input-{place}.bin": tensor.tobytes() for place, tensor in enumerate(inputs)}
    outputs = [np.stack([answer[place] for answer in answers]) for place in range(len(interpreter.outputs))]
    members |= {f"golden/output-{place}.bin": tensor.tobytes() for place, tensor in enumerate(outputs)}
    quantized = interpreter.outputs[0].scale is not None
    manifest = m.Manifest(
        format_version=1,
        name=name,
        version=version,
        task="classification",
        metric="accuracy",
        precision="int8" if quantized else "float32",
        profile=m.ProfileReference(id="linux-x86_64", compat_hash="c" * 64),
        runtime=m.RuntimeRequirement(kind="litert", minimum_version="2.0.0", numerics="litert/1"),
        interface=m.Interface(inputs=interpreter.inputs, outputs=interpreter.outputs),
        preprocessing=how,
        tolerances=m.Tolerances(
            unit="lsb" if quantized else "absolute", reference=0 if quantized else 1e-6, production=64
        ),
        budgets=m.Budgets(),
        parity=m.ParityVectors(
            samples=2,
            inputs=tuple(sorted(path for path in members if path.startswith("golden/input"))),
            outputs=tuple(sorted(path for path in members if path.startswith("golden/output"))),
        ),
        model="model/model.tflite",
        members=describe_members(members),
        lineage=m.Lineage(source_sha256="0" * 64, recipe_sha256="1" * 64),
    )
    return pack(manifest, members)


def _samples(spec: m.TensorSpec, random: np.random.Generator) -> npt.NDArray[Any]:
    if spec.dtype == "float32":
        return random.random((2, *spec.shape), np.float32)
    limits = np.iinfo(spec.dtype)
    return random.integers(limits.min, limits.max + 1, (2, *spec.shape)).astype(spec.dtype)
