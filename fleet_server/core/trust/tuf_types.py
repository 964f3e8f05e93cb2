# SPDX-License-Identifier: Apache-2.0
"""python-tuf's and securesystemslib's public names, in one place.

Both packages re-export them without ``__all__``, which mypy's strict mode reports at every import; here it is
silenced once.
"""

from securesystemslib.signer import (  # type: ignore[attr-defined]
    SIGNER_FOR_URI_SCHEME as SIGNER_FOR_URI_SCHEME,
)
from securesystemslib.signer import CryptoSigner as CryptoSigner  # type: ignore[attr-defined]
from securesystemslib.signer import Key as Key  # type: ignore[attr-defined]
from securesystemslib.signer import Signature as Signature  # type: ignore[attr-defined]
from securesystemslib.signer import Signer as Signer  # type: ignore[attr-defined]
from securesystemslib.signer import SSlibKey as SSlibKey  # type: ignore[attr-defined]
from tuf.api.metadata import DelegatedRole as DelegatedRole  # type: ignore[attr-defined]
from tuf.api.metadata import Delegations as Delegations  # type: ignore[attr-defined]
from tuf.api.metadata import Metadata as Metadata
from tuf.api.metadata import MetaFile as MetaFile  # type: ignore[attr-defined]
from tuf.api.metadata import Root as Root  # type: ignore[attr-defined]
from tuf.api.metadata import Snapshot as Snapshot  # type: ignore[attr-defined]
from tuf.api.metadata import TargetFile as TargetFile  # type: ignore[attr-defined]
from tuf.api.metadata import Targets as Targets  # type: ignore[attr-defined]
from tuf.api.metadata import Timestamp as Timestamp  # type: ignore[attr-defined]
from tuf.ngclient import FetcherInterface as FetcherInterface  # type: ignore[attr-defined]
from tuf.ngclient import Updater as Updater  # type: ignore[attr-defined]
