# SPDX-License-Identifier: Apache-2.0
"""The near end of an interpreter that runs in a process of its own: a crash there is an error here, and so is a hang.

The frames are those of :mod:`edgefleet.runtimes.tflite_runtime_child`.
"""

import os
import socket
import subprocess
import tempfile
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import IO, Any, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from edgefleet.contracts.errors import EdgeFleetError, ModelFailedError, UnsupportedModelError
from edgefleet.contracts.manifest import Dtype, TensorSpec
from edgefleet.runtimes.process_end import describe_end
from edgefleet.runtimes.tflite_runtime_child import LENGTHS, Document, arrays_of, describe, frame_of

Array = npt.NDArray[Any]
_DTYPES = frozenset(get_args(Dtype))
_BLOCK_BYTES = 1 << 20
_DAMAGED_HINT = "the file is damaged or not made by a converter: get it again from where it was made"
_INPUT_HINT = "check the inputs' number, shape and dtype"


class RefusedByRuntime(Exception):  # noqa: N818  # it never leaves the adapters, which say it in their own words
    """The runtime refused a request in an orderly way: the kind and text of what it raised, and what it wrote."""

    def __init__(self, kind: str, raised: str, written: str) -> None:
        super().__init__(raised)
        self.kind = kind
        self.raised = raised
        self.written = written


class ChildInterpreter(ABC):
    """One loaded model in a child process; not for use from two threads at once.

    ``runtime`` is the runtime's name in messages. Every request ends within ``deadline_s`` seconds. A runtime says in
    its own words why it refuses a model, or fails to run one: :meth:`_refusal` and :meth:`_reason`.

    Raises:
        UnsupportedModelError: the runtime refuses the model, or an input or output has a type that no interface may
            have.
        ModelFailedError: the model ended the child, or loading it did not end.
    """

    def __init__(
        self, command: Sequence[str], model: bytes, options: Document, *, runtime: str, deadline_s: float
    ) -> None:
        self._runtime = runtime
        self._deadline_s = deadline_s
        self._written = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the child writes to it
        self._heard_bytes = 0
        self._socket, self._process = _started(command, self._written)
        self._end = weakref.finalize(self, _end, self._process, self._socket, self._written, os.getpid())
        try:
            described, _, _ = self._ask({"do": "load", **options}, model)
            self.inputs = tuple(self._spec(detail) for detail in described["inputs"])
            self.outputs = tuple(self._spec(detail) for detail in described["outputs"])
        except RefusedByRuntime as error:
            self.close()
            raise self._refusal(error) from error
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _refusal(self, error: RefusedByRuntime) -> EdgeFleetError:
        """Return what a refusal to load the model means, naming the operator where the runtime does."""

    def _reason(self, error: RefusedByRuntime) -> str:
        """Return why an inference failed, in the runtime's words."""
        return _first_line(error.written.strip() or error.raised)

    def invoke(self, inputs: Sequence[Array]) -> list[Array]:
        """Run one inference; arrays have the shapes and dtypes of ``self.inputs`` and come back as ``self.outputs``.

        Raises:
            ModelFailedError: an input does not fit, an answer has NaN, or the interpreter failed, died or hung.
        """
        arrays = self._fitting(inputs)
        try:
            answer, payload, _ = self._ask(
                {"do": "invoke", "arrays": describe(arrays)}, *(array.tobytes() for array in arrays)
            )
        except RefusedByRuntime as error:
            raise self._failure(error) from error
        outputs = arrays_of(answer["arrays"], payload)
        for spec, output in zip(self.outputs, outputs, strict=True):
            if output.dtype.kind == "f" and np.isnan(output).any():
                raise ModelFailedError(
                    f"on {self._runtime} the model answers NaN in output '{spec.name}'",
                    hint="convert it in another mode for this runtime, or check the input for NaN",
                )
        return outputs

    def reset_state(self) -> None:
        """Set the model's state variables back to their start.

        Raises:
            ModelFailedError: the interpreter failed, died or hung.
        """
        self._told("reset")

    def allocations(self) -> str:
        """Return what the runtime says of the memory that the model takes.

        Raises:
            ModelFailedError: the interpreter failed, died or hung.
        """
        return self._told("allocations")

    def close(self) -> None:
        """End the child; without this it ends with the object."""
        self._end()

    def _told(self, what: str) -> str:
        """Return what the child wrote to standard error while it did what it was told."""
        try:
            return self._ask({"do": what})[2]
        except RefusedByRuntime as error:
            raise self._failure(error) from error

    def _failure(self, error: RefusedByRuntime) -> ModelFailedError:
        return ModelFailedError(
            f"the model failed to run on {self._runtime}: {self._reason(error)}",
            hint="convert the model in another mode for this board, or choose another profile",
        )

    def _fitting(self, inputs: Sequence[Array]) -> list[Array]:
        if len(inputs) != len(self.inputs):
            raise ModelFailedError(
                f"the model failed to run: it has {len(self.inputs)} inputs, got {len(inputs)}", hint=_INPUT_HINT
            )
        for spec, value in zip(self.inputs, inputs, strict=True):
            if value.shape != spec.shape or value.dtype != np.dtype(spec.dtype):
                raise ModelFailedError(
                    f"the model failed to run: input '{spec.name}' is {spec.dtype} {list(spec.shape)}, "
                    f"got {value.dtype} {list(value.shape)}",
                    hint=_INPUT_HINT,
                )
        return [np.ascontiguousarray(value) for value in inputs]

    def _ask(self, request: Document, *parts: bytes) -> tuple[Document, bytes, str]:
        """Return the answer, its bytes, and what the child wrote to standard error meanwhile."""
        if not self._end.alive:
            raise ModelFailedError(f"{self._runtime} was ended already", hint="load the model again")
        until = time.monotonic() + self._deadline_s
        try:
            self._socket.settimeout(self._deadline_s)
            self._socket.sendall(frame_of(request, *parts))
            document_bytes, payload_bytes = LENGTHS.unpack(self._read(LENGTHS.size, until))
            answer: Document = msgspec.json.decode(self._read(document_bytes, until), type=dict[str, Any])
            payload = self._read(payload_bytes, until)
        except TimeoutError as error:
            self.close()
            raise ModelFailedError(
                f"the model did not answer on {self._runtime} within {self._deadline_s:g} s", hint=_DAMAGED_HINT
            ) from error
        except (OSError, EOFError) as error:
            raise self._death() from error
        written = self._said_since_last()
        if "error" in answer:
            raise RefusedByRuntime(str(answer["kind"]), str(answer["error"]), written)
        return answer, payload, written

    def _read(self, count: int, until: float) -> bytes:
        parts = []
        while count:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            part = self._socket.recv(min(count, _BLOCK_BYTES))
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _death(self) -> ModelFailedError:
        status = self._process.wait()
        written = self._said_since_last()
        self.close()
        said = f": {_last_line(written)}" if written.strip() else ""
        return ModelFailedError(f"the model ended {self._runtime} ({describe_end(status)}){said}", hint=_DAMAGED_HINT)

    def _said_since_last(self) -> str:
        """Return what the child wrote to standard error since this was asked last."""
        number = self._written.fileno()  # read in place: the child writes at the offset that both share
        said = os.pread(number, max(os.fstat(number).st_size - self._heard_bytes, 0), self._heard_bytes)
        self._heard_bytes += len(said)
        return said.decode("utf-8", "replace")

    def _spec(self, detail: Document) -> TensorSpec:
        if detail["dtype"] not in _DTYPES:
            raise UnsupportedModelError(
                f"{self._runtime} loads the model, but its tensor '{detail['name']}' has the type {detail['dtype']}, "
                "which no input or output may have",
                hint="the file is damaged: convert or fetch the model again",
            )
        return msgspec.convert(detail, TensorSpec)


def _started(command: Sequence[str], written: IO[bytes]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start the child at one end of a socket, and return the other end."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=written.fileno())
        except OSError:
            ours.close()
            written.close()
            raise
    return ours, process


def _end(process: subprocess.Popen[bytes], ours: socket.socket, written: IO[bytes], owner: int) -> None:
    ours.close()
    written.close()
    if os.getpid() == owner:  # a fork of this process must leave the child alone
        process.kill()
        process.wait()


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0]


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]
