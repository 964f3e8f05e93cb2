# SPDX-License-Identifier: Apache-2.0
"""The redaction of one captured input: ``python -m device_agent.redaction MODULE:FUNCTION``.

A captured input comes as JSON on standard input and goes, redacted, to standard output. The function gets the list of
inputs as arrays and returns it changed, or None to keep nothing of this one. It runs confined: it reads its own folder
and the runtime's, writes no file, opens no connection and starts nothing.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

import msgspec
import numpy as np

from device_agent.sandbox.confinement import confine
from edgefleet.contracts.capture import CapturedTensor, read_captured
from edgefleet.contracts.errors import EdgeFleetError

_REFUSED = 3


def main(arguments: list[str]) -> int:
    """Redact what is on standard input; status 3: nothing of it is to be kept."""
    module, _, function = arguments[0].partition(":")
    data = sys.stdin.buffer.read()
    confine(_folder_of(module))
    try:
        captured = read_captured(data)
    except EdgeFleetError:
        return _REFUSED
    redacted = getattr(importlib.import_module(module), function)([_array(tensor) for tensor in captured.inputs])
    if redacted is None:
        return _REFUSED
    kept = msgspec.structs.replace(captured, inputs=tuple(_tensor(np.asarray(array)) for array in redacted))
    sys.stdout.buffer.write(msgspec.json.encode(kept))
    return 0


def _folder_of(module: str) -> list[Path]:
    spec = importlib.util.find_spec(module.partition(".")[0])
    return [Path(spec.origin).parent] if spec is not None and spec.origin else []


def _array(tensor: CapturedTensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    return np.frombuffer(tensor.data, dtype=tensor.dtype).reshape(tensor.shape).copy()


def _tensor(array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> CapturedTensor:
    return CapturedTensor(shape=array.shape, dtype=str(array.dtype), data=array.tobytes())  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
