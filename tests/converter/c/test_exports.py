# SPDX-License-Identifier: Apache-2.0
"""Exported folders build with the tools that they are for, and what they build answers right."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.operator_cases.case import GraphWriter, flatbuffer
from converter.c.core.blob_reader import read_blob
from converter.c.core.names_in_c import c_name
from converter.c.exports import export
from converter.cli.export import app
from edgefleet.contracts.errors import BudgetError, IncompatibleError, UnsupportedModelError

_FIRST = """\
cmake_minimum_required(VERSION 3.16)
project(firmware LANGUAGES C ASM)
set(CONFIG_EDGEFLEET_MODELS y)
macro(zephyr_include_directories)
    include_directories(${ARGN})
endmacro()
macro(zephyr_library_named name)
    set(library ${name})
    add_library(${name} STATIC)
endmacro()
macro(zephyr_library_sources)
    target_sources(${library} PRIVATE ${ARGN})
endmacro()
macro(zephyr_compile_definitions)
    add_compile_definitions(${ARGN})
endmacro()
"""


def _model(folder: Path, name: str = "Sound-Wake.tflite", length: int = 8) -> Path:
    graph = GraphWriter()
    value, made = graph.tensor([1, length], 0.1, 3), graph.tensor([1, length], 1 / 256, -128)
    graph.operator("LOGISTIC", [value], [made])
    case = graph.case("probe", [{value: np.zeros((1, length), np.int8)}], [made])
    (folder / name).write_bytes(flatbuffer(case.graph))
    return folder / name


def _need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing")


def _run(*command: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(part) for part in command], input=stdin, capture_output=True, timeout=120, check=False)


def _built(*configure: str | Path, into: Path) -> None:
    for command in (("cmake", "-B", into, *configure), ("cmake", "--build", into)):
        done = _run(*command)
        assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("options", [[], ["-DEF_UPDATABLE=ON"]])
def test_a_cmake_project_builds_and_answers(tmp_path: Path, options: list[str]) -> None:
    _need("cmake", "cc")
    paths = [_model(tmp_path), _model(tmp_path, "other.tflite", 3)]
    done = export(paths, profile="linux-x86_64", numerics="tflm/1", form="cmake", out=tmp_path / "out")
    assert [model.name for model in done.models] == ["sound_wake", "other"]
    _built(tmp_path / "out", *options, "-DCMAKE_C_FLAGS=-Wall -Wextra -Werror", into=tmp_path / "build")
    samples = np.array([-128, -60, -3, 0, 3, 40, 90, 127], np.int8)
    answer = _run(tmp_path / "build" / "sound_wake_example", stdin=samples.tobytes())
    real = 1 / (1 + np.exp(-0.1 * (samples.astype(float) - 3)))
    expected = np.clip(np.round(real * 256) - 128, -128, 127)
    assert [int(line) for line in answer.stdout.split()] == [int(value) for value in expected]
    short = _run(tmp_path / "build" / "other_example", stdin=b"12")
    assert (short.returncode, short.stderr) == (1, b"input 0 has 3 bytes\n")


def test_a_cmake_project_builds_for_its_board(tmp_path: Path, shared_folder: Path) -> None:
    _need("cmake", "arm-none-eabi-gcc")
    model = shared_folder / "models" / "kws_int8.tflite"
    if not model.is_file():
        pytest.skip(f"{model} is missing")
    export([model], profile="nrf52840-dk", numerics=None, form="cmake", out=tmp_path / "out")
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={tmp_path / 'out' / 'toolchain.cmake'}"
    _built(tmp_path / "out", toolchain, into=tmp_path / "build")
    objects = _run("arm-none-eabi-nm", tmp_path / "build" / "libedgefleet_models.a").stdout.decode()
    assert " T ef_conv2d_dsp_" in objects
    host = _run("cmake", "-B", tmp_path / "host", tmp_path / "out")
    assert host.returncode != 0
    assert "these models were exported for dsp kernels" in " ".join(host.stderr.decode().split())


def test_a_zephyr_module_compiles_what_it_lists(tmp_path: Path) -> None:
    _need("cmake", "cc")
    module = tmp_path / "module"
    export([_model(tmp_path)], profile="linux-x86_64", numerics=None, form="zephyr", out=module)
    assert (module / "zephyr" / "module.yml").read_text() == (
        "# SPDX-License-Identifier: Apache-2.0\n"
        "name: edgefleet_models\nbuild:\n  cmake: zephyr\n  kconfig: zephyr/Kconfig\n"
    )
    firmware = tmp_path / "firmware"
    firmware.mkdir()
    (firmware / "main.c").write_text(
        '#include "sound_wake.h"\nint main(void) { ef_model model; return ef_open(&model, &sound_wake); }\n'
    )
    (firmware / "CMakeLists.txt").write_text(
        f"{_FIRST}add_subdirectory({module / 'zephyr'} module)\n"
        f"include_directories({module / 'include'} {module / 'sound_wake'})\n"
        "add_executable(app main.c)\ntarget_link_libraries(app edgefleet_models)\n"
    )
    _built(firmware, into=tmp_path / "build")
    assert _run(tmp_path / "build" / "app").returncode == 0


def test_zephyr_is_told_which_processors_have_the_kernels(tmp_path: Path) -> None:
    wanted = {"nrf52840-dk": "\tdepends on CPU_CORTEX_M\n", "ek-ra8m1": "\tdepends on ARMV8_1_M_MVEI\n"}
    for profile, line in wanted.items():
        export([_model(tmp_path)], profile=profile, numerics=None, form="zephyr", out=tmp_path / profile)
        assert line in (tmp_path / profile / "zephyr" / "Kconfig").read_text()


def test_headers_serve_c_and_cpp(tmp_path: Path) -> None:
    _need("g++")
    out = tmp_path / "out"
    export([_model(tmp_path)], profile="linux-x86_64", numerics=None, form="c", out=out)
    (tmp_path / "main.cpp").write_text(
        '#include "sound_wake.h"\n'
        "alignas(16) static uint8_t arena[SOUND_WAKE_ARENA_BYTES];\n"
        "int main() {\n"
        "    ef_model model;\n"
        "    if (ef_open(&model, &sound_wake) || ef_bind(&model, arena, sizeof arena)) return 1;\n"
        "    uint32_t bytes;\n"
        "    void *input = ef_tensor(&model, EF_INPUT, 0, &bytes);\n"
        "    return !input || bytes != SOUND_WAKE_INPUT_0_BYTES || ef_invoke(&model, nullptr, nullptr);\n"
        "}\n"
    )
    sources = sorted(out.rglob("*.c"))
    for number, source in enumerate(sources):
        flags = ("-std=c99", "-Wall", "-Wextra", "-Werror")
        includes = (f"-I{out / 'include'}", f"-I{out / 'sound_wake'}")
        assert _run("cc", *flags, *includes, "-c", source, "-o", tmp_path / f"{number}.o").returncode == 0
    objects = [tmp_path / f"{number}.o" for number in range(len(sources))]
    cpp = ("-std=c++11", "-Wall", "-Wextra", "-Werror", f"-I{out / 'include'}", f"-I{out / 'sound_wake'}")
    built = _run("g++", *cpp, tmp_path / "main.cpp", *objects, "-o", tmp_path / "main")
    assert built.returncode == 0, built.stderr.decode()
    assert _run(tmp_path / "main").returncode == 0


def test_the_command_prints_what_the_code_takes(tmp_path: Path) -> None:
    arguments = [str(_model(tmp_path)), "--profile", "nrf52840-dk", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    document = json.loads(done.stdout)
    blob = (tmp_path / "out" / "sound_wake" / "sound_wake.blob").read_bytes()
    [model] = document["models"]
    assert model == {
        "name": "sound_wake",
        "numerics": "tflm/1",
        "blob_bytes": len(blob),
        "arena_bytes": read_blob(blob).arena_bytes,
        "scratch_bytes": 0,
        "state_bytes": 0,
        "parity_vectors": 0,
        "layers": 1,
        "macs": 0,
        "kernels": ["table/portable/bytes"],
        "inputs": [{"name": "t0", "dtype": "int8", "shape": [1, 8], "scale": 0.10000000149011612, "zero_point": 3}],
        "outputs": [{"name": "t1", "dtype": "int8", "shape": [1, 8], "scale": 0.00390625, "zero_point": -128}],
        "preprocessing": "none",
    }
    assert (document["kernel_set"], document["format"]) == ("dsp", "c")
    assert (
        sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
        == (document["files"])
    )
    assert CliRunner().invoke(app, arguments).stdout.splitlines() == [
        f"sound_wake: {len(blob)} bytes of flash for the blob, 16 bytes of RAM (scratch 0, state 0), 1 layers, 0 MACs",
        f"{tmp_path / 'out'}: {len(document['files'])} files for nrf52840-dk (dsp kernels)",
    ]


def test_a_model_larger_than_the_board_is_refused(tmp_path: Path) -> None:
    large = _model(tmp_path, "large.tflite", 30_000)
    with pytest.raises(BudgetError) as refusal:
        export([large], profile="nucleo-f103rb", numerics=None, form="c", out=tmp_path / "out")
    assert refusal.value.message == "the arena of 'large' has 30,000 bytes, and 'nucleo-f103rb' has 20,480 bytes of RAM"
    assert not (tmp_path / "out").exists()


def test_a_model_alone_names_no_board(tmp_path: Path) -> None:
    model = _model(tmp_path)
    with pytest.raises(IncompatibleError) as refusal:
        export([model], profile=None, numerics=None, form="c", out=tmp_path / "out")
    assert refusal.value.message == f"'{model}' is a model and names no board"


def test_two_models_need_two_names(tmp_path: Path) -> None:
    paths = [_model(tmp_path, "a b.tflite"), _model(tmp_path, "a-b.tflite")]
    with pytest.raises(IncompatibleError) as refusal:
        export(paths, profile="nrf52840-dk", numerics=None, form="c", out=tmp_path / "out")
    assert refusal.value.message == "two models are called 'a_b' in C"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.tflite", b"", "'x.tflite' is empty, not a model"),
        ("photo.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF", "'photo.jpg' is not a TFLite model: it lacks the mark 'TFL3'"),
        ("x.tflite", b"TFL3" * 9, "the model is damaged: its 36 bytes are no whole flatbuffer"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnsupportedModelError) as refusal:
        export([tmp_path / name], profile="nrf52840-dk", numerics=None, form="c", out=tmp_path / "out")
    assert refusal.value.message == message
    assert not (tmp_path / "out").exists()


def test_tensors_names_stay_in_their_comments(tmp_path: Path) -> None:
    _need("cc")
    graph = GraphWriter()
    value, made = graph.tensor([1, 8], 0.1, 3), graph.tensor([1, 8], 1 / 256, -128)
    for number, name in ((value, "*/ #error \n#error /**/ /* ??/"), (made, "/*/ \u2028 #error */")):
        graph.values[number] = replace(graph.values[number], name=name)
    graph.operator("LOGISTIC", [value], [made])
    case = graph.case("probe", [{value: np.zeros((1, 8), np.int8)}], [made])
    (tmp_path / "x.tflite").write_bytes(flatbuffer(case.graph))
    out = tmp_path / "out"
    export([tmp_path / "x.tflite"], profile="linux-x86_64", numerics=None, form="c", out=out)
    flags = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-trigraphs")
    built = _run("cc", *flags, f"-I{out / 'include'}", "-c", out / "x" / "x.c", "-o", tmp_path / "x.o")
    assert (built.returncode, built.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("name", "made"),
    [("kws", "kws"), ("Sound-Wake 2", "sound_wake_2"), ("2nd", "model_2nd"), ("é", "model__"), ("int", "int_model")],
)
def test_names_become_names_of_c(name: str, made: str) -> None:
    assert c_name(name) == made


#: A word of the language, a built-in function, a macro, a type, a header of C's, a function of the system's, what
#: exported folders and generated code use themselves.
_CLAIMED = (
    *("typeof", "memcpy", "expf", "linux", "uint_fast8_t", "string", "stdint", "read"),
    *("ef_open", "EdgeFleet", "EdgeFleet-Model", "layers", "kernels", "example"),
)


def test_models_may_have_names_that_c_has_given_away(tmp_path: Path) -> None:
    _need("cmake", "cc")
    paths = [_model(tmp_path, f"{name}.tflite", 3) for name in _CLAIMED]
    done = export(paths, profile="linux-x86_64", numerics="tflm/1", form="cmake", out=tmp_path / "out")
    assert all("model" in model.name for model in done.models)
    _built(tmp_path / "out", "-DCMAKE_C_FLAGS=-Wall -Wextra -Wpedantic -Werror", into=tmp_path / "build")
    for model in done.models:
        answer = _run(tmp_path / "build" / f"{model.name}_example", stdin=bytes(3))
        assert (answer.returncode, len(answer.stdout.split())) == (0, 3), model.name


def test_a_model_is_not_called_what_another_brings_with_it(tmp_path: Path) -> None:
    paths = [_model(tmp_path, "wake.tflite"), _model(tmp_path, "wake-blob.tflite")]
    with pytest.raises(IncompatibleError) as refusal:
        export(paths, profile="nrf52840-dk", numerics=None, form="c", out=tmp_path / "out")
    assert refusal.value.message == (
        "two models are called 'wake' and 'wake_blob' in C, and one of these is a name that the other brings with it"
    )
