# SPDX-License-Identifier: Apache-2.0
"""The hash of one sample's content: equal arrays and labels have equal hashes, whatever file they came from."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def sample_digest(sample: Sequence[Array], labels: Array | None, number: int) -> bytes:
    """Return the SHA-256 of a sample's arrays and its label, the one at ``number``."""
    digest = hashlib.sha256()
    for value in sample:
        digest.update(_tensor_bytes(value))
    if labels is not None:
        digest.update(_tensor_bytes(np.asarray(labels[number])))
    return digest.digest()


def _tensor_bytes(value: Array) -> bytes:
    little_endian = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("<"), copy=False))
    return f"{little_endian.dtype.str}{value.shape}".encode() + little_endian.tobytes()
