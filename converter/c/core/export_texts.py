# SPDX-License-Identifier: Apache-2.0
"""The files that make a folder of C a CMake project or a Zephyr module, and tell people how to use it."""

from collections.abc import Sequence
from dataclasses import dataclass

from converter.c.core.program import KernelSet

_HASH_LICENCE = "# SPDX-License-Identifier: Apache-2.0"
_C_LICENCE = "/* SPDX-License-Identifier: Apache-2.0 */"
#: What a processor must have, as the compiler says it; and as Zephyr's Kconfig does.
_COMPILER_SAYS = {"portable": "1", "dsp": "defined(__ARM_FEATURE_DSP)", "helium": "defined(__ARM_FEATURE_MVE)"}
_KCONFIG_SAYS = {"portable": None, "dsp": "CPU_CORTEX_M", "helium": "ARMV8_1_M_MVEI"}


@dataclass(frozen=True)
class ExportedModel:
    """A model of the folder: its name in C, what is said about it, and whether its preprocessing is C too."""

    name: str
    blob_bytes: int
    arena_bytes: int
    preprocessed: bool


def readme(models: Sequence[ExportedModel], kernel_set: KernelSet, flags: Sequence[str]) -> str:
    """Return README.md."""
    rows = [f"| `{m.name}` | {m.blob_bytes:,} | {m.arena_bytes:,} |" for m in models]
    first = models[0].name
    return _lines(
        "# Models as C",
        "",
        f"Written by `edgefleet export` for {kernel_set} kernels. No heap, no C library but memcpy and memset, no",
        "globals but constants: everything lies in `ef_model` and the arena, which are yours.",
        "",
        "| model | flash for the blob, bytes | RAM for the arena, bytes |",
        "|---|---|---|",
        *rows,
        "",
        "Compile every `.c` and `.S` below this folder as C99, with `include/` and the models' folders as include",
        "paths, `-ffunction-sections` and `-Wl,--gc-sections`:",
        "",
        f"    {' '.join(flags or ('-O2', '-std=c99'))}",
        "",
        "Then",
        "",
        "```c",
        *_use(first),
        "```",
        "",
        "Inputs are overwritten by an inference: write them anew before each. `ef_invoke` takes a function that is",
        "called after each layer, to feed a watchdog or to let other tasks run.",
        "",
        "- `-DEF_UPDATABLE`: programs read their model through a pointer (`NAME.blob`, `NAME.blob_bytes`), so that it",
        "  can be exchanged without new firmware; `NAME/NAME.blob` is such a model. `ef_open` checks it.",
        "- `ef_self_test` runs the parity vectors of a blob (`edgefleet export --parity-vectors N`), and",
        "  `ef_layer_output` says what a layer made; neither is linked unless it is called.",
        "- `-DEF_BLOB_SECTION='__attribute__((section(\"...\")))'` places blobs, in external flash for instance.",
        "- `-DEF_FAST_CODE_SECTION=.NAME` places kernels, C and assembler, in tightly coupled memory for instance.",
    )


def _use(name: str) -> list[str]:
    upper = name.upper()
    return [
        f'#include "{name}.h"',
        "",
        f"static uint8_t arena[{upper}_ARENA_BYTES] __attribute__((aligned(16)));",
        "",
        "ef_model model;",
        f"if (ef_open(&model, &{name}) || ef_bind(&model, arena, sizeof arena)) return 1;",
        f"memcpy(ef_tensor(&model, EF_INPUT, 0, NULL), samples, {upper}_INPUT_0_BYTES);",
        "ef_invoke(&model, NULL, NULL);",
        "const int8_t *answer = ef_tensor(&model, EF_OUTPUT, 0, NULL);",
    ]


def cmake_lists(models: Sequence[ExportedModel], sources: Sequence[str], kernel_set: KernelSet) -> str:
    """Return CMakeLists.txt: a library with all models, and an example program a model."""
    return _lines(
        _HASH_LICENCE,
        "cmake_minimum_required(VERSION 3.16)",
        "project(edgefleet_models LANGUAGES C ASM)",
        "",
        'option(EF_UPDATABLE "Programs read their model through a pointer" OFF)',
        'option(EF_EXAMPLES "Build an example program for each model" ON)',
        "",
        *_processor_check(kernel_set),
        "add_library(edgefleet_models STATIC",
        *(f"    {source}" for source in sources),
        ")",
        "set_target_properties(edgefleet_models PROPERTIES C_STANDARD 99 C_EXTENSIONS ON)",
        "target_include_directories(edgefleet_models PUBLIC include",
        *(f"    {model.name}" for model in models),
        ")",
        "target_compile_options(edgefleet_models PRIVATE -ffunction-sections -fdata-sections)",
        "if(EF_UPDATABLE)",
        "    target_compile_definitions(edgefleet_models PUBLIC EF_UPDATABLE)",
        "endif()",
        "",
        "if(EF_EXAMPLES)",
        f"    foreach(model {' '.join(model.name for model in models)})",
        "        add_executable(${model}_example example/${model}.c)",
        "        target_link_libraries(${model}_example PRIVATE edgefleet_models)",
        "    endforeach()",
        "endif()",
    )


def _processor_check(kernel_set: KernelSet) -> list[str]:
    if kernel_set == "portable":
        return []
    return [
        "include(CheckCSourceCompiles)",
        "set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)",
        'check_c_source_compiles("',
        f"#if !({_COMPILER_SAYS[kernel_set]})",
        "#error another processor",
        "#endif",
        'int answer;" EF_PROCESSOR_FITS)',
        "if(NOT EF_PROCESSOR_FITS)",
        f'    message(FATAL_ERROR "these models were exported for {kernel_set} kernels, which this processor does not '
        'have: configure with --toolchain toolchain.cmake, or export for another profile")',
        "endif()",
        "",
    ]


def cmake_toolchain(command: str, flags: Sequence[str], processor: str) -> str:
    """Return toolchain.cmake: how to build for the board."""
    prefix = command.removesuffix("gcc")
    return _lines(
        _HASH_LICENCE,
        "set(CMAKE_SYSTEM_NAME Generic)",
        f"set(CMAKE_SYSTEM_PROCESSOR {processor})",
        f"set(CMAKE_C_COMPILER {command})",
        f"set(CMAKE_ASM_COMPILER {command})",
        f"set(CMAKE_AR {prefix}ar)",
        "set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)",
        f'set(CMAKE_C_FLAGS_INIT "{" ".join(flags)}")',
        f'set(CMAKE_ASM_FLAGS_INIT "{" ".join(flags)}")',
        "# Examples read files: they need what the board's own libraries give.",
        'set(EF_EXAMPLES OFF CACHE BOOL "Build an example program for each model")',
    )


def example(model: ExportedModel) -> str:
    """Return a program that reads inputs from stdin and prints outputs, one number a line."""
    upper = model.name.upper()
    return _lines(
        _C_LICENCE,
        f"/* Run {model.name} once: inputs come from stdin as they lie in memory, outputs are printed byte by byte. */",
        "#include <stdio.h>",
        "",
        f'#include "{model.name}.h"',
        "",
        f"static uint8_t arena[{upper}_ARENA_BYTES] __attribute__((aligned(16)));",
        "static ef_model model;",
        "",
        "int main(void)",
        "{",
        "#ifdef EF_UPDATABLE",
        f"    {model.name}.blob = {model.name}_blob; /* stands for a slot in flash */",
        f"    {model.name}.blob_bytes = {upper}_BLOB_BYTES;",
        "#endif",
        f"    if (ef_open(&model, &{model.name}) || ef_bind(&model, arena, sizeof arena)) {{",
        '        fprintf(stderr, "refused: %s\\n", model.refusal);',
        "        return 1;",
        "    }",
        "    uint32_t bytes;",
        "    void *tensor;",
        "    for (uint32_t i = 0; (tensor = ef_tensor(&model, EF_INPUT, i, &bytes)) != NULL; i++)",
        "        if (fread(tensor, 1, bytes, stdin) != bytes) {",
        '            fprintf(stderr, "input %u has %u bytes\\n", (unsigned)i, (unsigned)bytes);',
        "            return 1;",
        "        }",
        "    ef_invoke(&model, NULL, NULL);",
        "    for (uint32_t i = 0; (tensor = ef_tensor(&model, EF_OUTPUT, i, &bytes)) != NULL; i++)",
        '        for (uint32_t j = 0; j < bytes; j++) printf("%d\\n", ((const int8_t *)tensor)[j]);',
        "    return 0;",
        "}",
    )


def zephyr_module() -> str:
    """Return zephyr/module.yml."""
    return _lines(_HASH_LICENCE, "name: edgefleet_models", "build:", "  cmake: zephyr", "  kconfig: zephyr/Kconfig")


def zephyr_kconfig(models: Sequence[ExportedModel], kernel_set: KernelSet) -> str:
    """Return zephyr/Kconfig."""
    needed = _KCONFIG_SAYS[kernel_set]
    return _lines(
        _HASH_LICENCE,
        "config EDGEFLEET_MODELS",
        f'\tbool "EdgeFleet models: {", ".join(model.name for model in models)}"',
        *([f"\tdepends on {needed}"] if needed else []),
        "\thelp",
        f"\t  Models as C, with {kernel_set} kernels.",
        "",
        "config EDGEFLEET_MODELS_UPDATABLE",
        '\tbool "Models are read through a pointer"',
        "\tdepends on EDGEFLEET_MODELS",
        "\thelp",
        "\t  A model can then be exchanged without new firmware.",
    )


def zephyr_cmake_lists(models: Sequence[ExportedModel], sources: Sequence[str]) -> str:
    """Return zephyr/CMakeLists.txt."""
    return _lines(
        _HASH_LICENCE,
        "if(CONFIG_EDGEFLEET_MODELS)",
        "    zephyr_include_directories(../include",
        *(f"        ../{model.name}" for model in models),
        "    )",
        "    zephyr_library_named(edgefleet_models)",
        "    zephyr_library_sources(",
        *(f"        ../{source}" for source in sources),
        "    )",
        "    if(CONFIG_EDGEFLEET_MODELS_UPDATABLE)",
        "        zephyr_compile_definitions(EF_UPDATABLE)",
        "    endif()",
        "endif()",
    )


def _lines(*lines: str) -> str:
    return "\n".join(lines) + "\n"
