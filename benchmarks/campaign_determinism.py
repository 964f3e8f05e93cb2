# SPDX-License-Identifier: Apache-2.0
"""The same inputs, the same bundle: whatever the process, the cores, the order of samples, the processor.

    python -m benchmarks.campaign_determinism [--only WORD] [--emulated WORD]

Each conversion (the digits example and the shared models, in every precision, with every way to choose ranges and to
round, and searches within budgets) is made again in each of the surroundings below, and the hashes are compared. Under
QEMU a conversion takes fifty times as long: there only those whose title has the word of ``--emulated`` are made.

``--jobs FILE`` makes the conversions that the file lists, in this process, and prints their hashes as JSON: that is how
the campaign, and tests/converter/test_determinism.py, run them in surroundings of their own.
"""

import argparse
import csv
import importlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.record import ROOT, SHARED, write

DIGITS = ROOT / "examples" / "digits"
Job = dict[str, Any]
ORDERS = 10
_WIDEST = 58
_PREPROCESSING = '[image]\nsize = [96, 96]\nchannels = "BGR"\nscale = 0.00392156862745098\noffset = 0.0\n'
_RECIPES: dict[str, Job] = {
    "int8": {"precision": "int8"},
    "int8 percentile": {"precision": "int8", "ranges": "percentile"},
    "int8 mse": {"precision": "int8", "ranges": "mse"},
    "int8 entropy gptq": {"precision": "int8", "ranges": "entropy", "rounding": "gptq"},
    "int4": {"precision": "int4", "rounding": "gptq"},
    "int16x8": {"precision": "int16x8"},
    "dynamic-int8": {"precision": "dynamic-int8"},
    "float16": {"precision": "float16"},
    "float32": {"precision": "float32"},
}


class Surroundings(NamedTuple):
    """Where conversions run: what stands in front of Python, its options, the environment, the cores."""

    title: str
    before: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}
    cores: int | None = None
    umask: int = 0o022
    emulated: bool = False


def numpy_without_dispatch() -> dict[str, str]:
    """Return the environment in which NumPy and its BLAS take the code for the oldest processors."""
    built = importlib.import_module("numpy._core._multiarray_umath")
    found = [name for name in built.__cpu_dispatch__ if built.__cpu_features__.get(name)]
    return {"NPY_DISABLE_CPU_FEATURES": " ".join(found), "OPENBLAS_CORETYPE": "Nehalem"}


#: The C library's functions, and pictures' decoders, without what newer processors have.
OLD_LIBRARIES = {
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-FMA,-FMA4,-AVX,-SSE4_1",
    "JSIMD_FORCENONE": "1",
}
#: What has nothing to do with a model.
ELSEWHERE = {
    "PYTHONHASHSEED": "77", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "LANG": "tr_TR.UTF-8", "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "40",
}  # fmt: skip


def surroundings() -> Iterator[Surroundings]:
    """Yield where each conversion is made; the first is what the others are compared with."""
    yield Surroundings("as it comes", environment={"PYTHONHASHSEED": "0"})
    yield Surroundings("another process, other settings", options=("-O",), environment=ELSEWHERE, umask=0o077)
    yield Surroundings("one core", cores=1)
    yield Surroundings("NumPy and BLAS without dispatch", environment=numpy_without_dispatch())
    yield Surroundings("C library without AVX and FMA", environment=OLD_LIBRARIES)
    emulator = find_emulator()
    if emulator is not None:
        yield Surroundings("QEMU's Nehalem (no AVX)", before=(emulator, "-cpu", "Nehalem"), emulated=True)
        yield Surroundings("QEMU's Haswell (AVX2, FMA)", before=(emulator, "-cpu", "Haswell"), emulated=True)


def find_emulator() -> str | None:
    """Return the program that runs this machine's programs on another processor of its kind."""
    return shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")


def run_in(place: Surroundings, jobs: list[Job], folder: Path) -> "subprocess.Popen[str]":
    """Start to make conversions in these surroundings; what is printed in the end is for :func:`hashes`."""
    listed = folder / f"{sha256(repr((place, jobs)).encode()).hexdigest()[:16]}.json"
    listed.write_text(json.dumps({"jobs": jobs, "cores": place.cores, "umask": place.umask}), encoding="utf-8")
    command = [*place.before, sys.executable, *place.options, "-m", "benchmarks.campaign_determinism"]
    return subprocess.Popen(
        [*command, "--jobs", str(listed)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **place.environment},
    )  # fmt: skip


def hashes(process: "subprocess.Popen[str]") -> dict[str, str]:
    """Return each conversion's hash by its title, or the sentence that refused it."""
    printed, complaints = process.communicate()
    if process.returncode:
        sys.exit(f"{process.args!r} ended with status {process.returncode}: {complaints[-2000:]}")
    found: dict[str, str] = json.loads(printed.splitlines()[-1])
    return found


def reordered(source: Path, folder: Path, seed: int) -> Path:
    """Write samples (an ``.npz``, or a folder with labels.csv) in another order, with other names, into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    if source.suffix == ".npz":
        with np.load(source) as stored:
            arrays = {name: stored[name] for name in stored.files}
        order = list(range(len(next(iter(arrays.values())))))
        chance.shuffle(order)
        names = list(arrays)
        chance.shuffle(names)
        np.savez(folder / source.name, **{name: arrays[name][order] for name in names})
        return folder / source.name
    with (source / "labels.csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    chance.shuffle(rows)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for number, (name, *rest) in enumerate(rows):
            renamed = f"{chance.randrange(10**9)}-{number}{Path(name).suffix}"
            shutil.copyfile(source / name, folder / renamed)
            writer.writerow([renamed, *rest])
    return folder


def main() -> int:
    """Make everything everywhere, print a table, keep it; 1 where one hash differs."""
    options = _options()
    if options.jobs is not None:
        print(json.dumps(_convert_all(json.loads(options.jobs.read_text(encoding="utf-8")))))
        return 0
    with tempfile.TemporaryDirectory(prefix="edgefleet-determinism-") as name:
        folder = Path(name)
        jobs = [job for job in _jobs(folder) if options.only in job["title"]]
        tables = {}
        wanted: dict[str, str] = {}
        for place in surroundings():
            chosen = [job for job in jobs if options.emulated in job["title"]] if place.emulated else jobs
            found = hashes(run_in(place, chosen, folder))
            wanted = wanted or found
            tables[place.title] = {title: value == wanted[title] for title, value in found.items()}
            _tell(place.title, tables[place.title])
        tables[f"{ORDERS} orders of the samples"] = _orders(jobs, wanted, folder)
        _tell(f"{ORDERS} orders of the samples", tables[f"{ORDERS} orders of the samples"])
    _print_table(wanted, tables)
    all_same = all(same for table in tables.values() for same in table.values())
    refused = {title: said for title, said in wanted.items() if len(said) != len(sha256().hexdigest())}
    write(
        "campaign_determinism",
        {
            "only": options.only or "all conversions",
            "emulated_only": options.emulated,
            "conversions": len(wanted),
            "refused": refused,
            "same": {title: f"{sum(table.values())} of {len(table)}" for title, table in tables.items()},
            "different": {title: [t for t, same in table.items() if not same] for title, table in tables.items()},
            "emulator": "none: no qemu-x86_64 here" if find_emulator() is None else "qemu-x86_64",
            "all_same": all_same,
        },
    )
    return 0 if all_same else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=Path, help="make the conversions that this file lists, and print their hashes")
    parser.add_argument("--only", default="", help="a word of the conversions' titles")
    parser.add_argument("--emulated", default="digits int8", help="a word of the titles of those that run under QEMU")
    return parser.parse_args()


def _convert_all(listed: Mapping[str, Any]) -> dict[str, str]:
    if listed["cores"] is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: listed["cores"]])
    os.umask(listed["umask"])
    return {job["title"]: _convert(job) for job in listed["jobs"]}


def _convert(job: Job) -> str:
    """Return the bundle's hash, or the refusal."""
    import converter
    from converter.core.recipe import Recipe
    from edgefleet.contracts.errors import EdgeFleetError

    settings = {name: value for name, value in job.items() if name not in ("title", "model", "recipe")}
    recipe = Recipe(**job["recipe"]) if "recipe" in job else None
    try:
        made = converter.convert(job["model"], name="model", version="1.0.0", recipe=recipe, **settings)
    except EdgeFleetError as refused:
        return refused.message
    return sha256(made.bundle).hexdigest()


def _jobs(folder: Path) -> Iterator[Job]:
    """Yield every conversion; samples of models without any are made up."""
    with np.load(DIGITS / "digits.npz") as stored:
        np.savez(folder / "digits.npz", x=stored["calibration_x"], y=stored["calibration_y"])
        np.savez(folder / "live.npz", x=stored["live_x"], y=stored["live_y"])
    digits = {
        "model": str(DIGITS / "v1_float32.tflite"), "calibration": str(folder / "digits.npz"),
        "evaluation": str(folder / "live.npz"), "acceptance": str(DIGITS / "acceptance.npz"),
    }  # fmt: skip
    yield from _in_every_mode("digits", digits)
    yield {"title": "digits search", "profile": "linux-x86_64", **digits, "max_accuracy_drop": "1pt",
           "search_limit": 1e9}  # fmt: skip
    if not (SHARED / "models" / "vww_float32.tflite").is_file():
        return
    (folder / "bgr.toml").write_text(_PREPROCESSING, encoding="utf-8")
    chance = np.random.default_rng(1)
    coarse = chance.integers(0, 256, (40, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    np.savez(folder / "ic.npz", x=coarse.astype(np.float32))
    np.savez(folder / "ad.npz", x=chance.normal(size=(40, 640)).cumsum(axis=1).astype(np.float32))
    samples = {
        "vww": {"calibration": str(SHARED / "data" / "vww" / "calibration"), "preprocessing": str(folder / "bgr.toml"),
                "evaluation": str(SHARED / "data" / "vww" / "evaluation")},
        "ic_resnet8": {"calibration": str(folder / "ic.npz")},
        "ad": {"calibration": str(folder / "ad.npz"), "task": "anomaly"},
    }  # fmt: skip
    for name, given in samples.items():
        yield from _in_every_mode(name, {"model": str(SHARED / "models" / f"{name}_float32.tflite"), **given})
    for name in ("kws", "vww", "ic_resnet8", "ad"):
        model = str(SHARED / "models" / f"{name}_int8.tflite")
        yield {"title": f"{name} taken", "model": model, "profile": "linux-x86_64"}
    vww = {"model": str(SHARED / "models" / "vww_float32.tflite"), **samples["vww"], "max_flash": "245kB"}
    yield {"title": "vww search", "profile": "linux-x86_64", **vww, "max_accuracy_drop": "1pt", "search_limit": 1e9}


def _in_every_mode(name: str, given: Job) -> Iterator[Job]:
    for title, recipe in _RECIPES.items():
        yield {"title": f"{name} {title}", "profile": "linux-x86_64", "recipe": recipe, **given}
    yield {"title": f"{name} int8, TFLM", "profile": "mps2-an386", "recipe": {"precision": "int8"}, **given}


def _orders(jobs: list[Job], wanted: Mapping[str, str], folder: Path) -> dict[str, bool]:
    """Make each conversion with samples in other orders under other names; one order each for those that take long."""
    same: dict[str, bool] = {}
    for seed in range(ORDERS):
        chosen = [job for job in jobs if "calibration" in job and (seed == 0 or job["title"].startswith("digits"))]
        moved = [_reordered_job(job, folder / f"order{seed}", seed) for job in chosen]
        for title, value in hashes(run_in(Surroundings(f"order {seed}"), moved, folder)).items():
            same[title] = same.get(title, True) and value == wanted[title]
    return same


def _reordered_job(job: Job, folder: Path, seed: int) -> Job:
    sets: Job = {
        what: str(reordered(Path(job[what]), folder / job["title"].replace(" ", "-") / what, seed))
        for what in ("calibration", "evaluation")
        if what in job
    }
    return {**job, **sets}


def _tell(title: str, table: Mapping[str, bool]) -> None:
    different = [name for name, same in table.items() if not same]
    print(f"{title}: {len(table) - len(different)} of {len(table)} the same", *different, sep="\n  ", flush=True)


def _print_table(wanted: Mapping[str, str], tables: Mapping[str, Mapping[str, bool]]) -> None:
    signs = {True: "same", False: "DIFFERENT", None: "-"}
    for place, title in enumerate(tables):
        print(f"{place}: {title}")
    print(f"{'conversion':<26}{'hash or refusal':<{_WIDEST}}" + "".join(f"{place:<10}" for place in range(len(tables))))
    for title, value in wanted.items():
        told = "".join(f"{signs[table.get(title)]:<10}" for table in tables.values())
        print(f"{title:<26}{value[: _WIDEST - 2]:<{_WIDEST}}{told}")


if __name__ == "__main__":
    sys.exit(main())
