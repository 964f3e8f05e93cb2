# SPDX-License-Identifier: Apache-2.0
"""Arrays as one ``.npz`` whose bytes depend on the arrays alone: sorted, stored, little-endian, no dates."""

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_UNIX = 3


def canonical_npz(arrays: Mapping[str, Array]) -> bytes:
    """Return the bytes of an ``.npz`` with these arrays; equal arrays give equal bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980-01-01
            member.create_system = _UNIX
            archive.writestr(member, _npy(array))
    return out.getvalue()


def _npy(array: Array) -> bytes:
    content = io.BytesIO()
    little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
    np.lib.format.write_array(content, np.ascontiguousarray(little_endian), version=(1, 0), allow_pickle=False)
    return content.getvalue()
