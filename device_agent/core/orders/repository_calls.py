# SPDX-License-Identifier: Apache-2.0
"""What the supervisor asks of the repositories' process, and what it answers: typed, tagged, JSON on the wire."""

from device_agent.core.orders.agreement import Agreement
from device_agent.core.orders.release_orders import Order, TargetFile
from device_agent.core.recall import Recall
from device_agent.errors import CorruptDownloadError, DiskFullError, TrustRefusedError
from edgefleet.contracts.errors import EdgeFleetError, FileMissingError, InputError, StorageError, UnreachableError
from edgefleet.contracts.manifest import Fact, Natural


class CheckBoth(Fact, frozen=True, kw_only=True, tag="check"):
    """Ask for the order that both repositories agree on."""

    seen_counter: Natural


class FetchBundle(Fact, frozen=True, kw_only=True, tag="fetch"):
    """Ask for a bundle's file."""

    target: TargetFile


Call = CheckBoth | FetchBundle


class Agreed(Fact, frozen=True, kw_only=True, tag="agreed"):
    """Both repositories agree on an order, and what must not change for it to stand (None: it is asked for anew)."""

    order: Order
    agreement: Agreement | None = None


class Fetched(Fact, frozen=True, kw_only=True, tag="fetched"):
    """The file is complete and has its hash."""

    path: str


class Failed(Fact, frozen=True, kw_only=True, tag="failed"):
    """One of the errors that the ports promise; ``cause`` and ``recall`` only where metadata is refused."""

    error: str
    message: str
    hint: str
    cause: str = ""
    recall: Recall | None = None


Answer = Agreed | Fetched | Failed

#: Most particular first: an error goes over the wire as the first class that it belongs to.
_ERRORS: tuple[type[EdgeFleetError], ...] = (
    CorruptDownloadError,
    DiskFullError,
    StorageError,
    UnreachableError,
    FileMissingError,
    InputError,
    EdgeFleetError,
)


def failed(error: EdgeFleetError) -> Failed:
    """Put an error into an answer."""
    if isinstance(error, TrustRefusedError):
        name = TrustRefusedError.__name__
        return Failed(error=name, message=error.message, hint=error.hint, cause=error.cause, recall=error.recall)
    kind = next(kind for kind in _ERRORS if isinstance(error, kind))
    return Failed(error=kind.__name__, message=error.message, hint=error.hint)


def error_of(failure: Failed) -> EdgeFleetError:
    """Return the error that an answer carries."""
    if failure.error == TrustRefusedError.__name__:
        refused = TrustRefusedError(failure.cause, failure.message, hint=failure.hint)
        refused.recall = failure.recall
        return refused
    kind = next((kind for kind in _ERRORS if kind.__name__ == failure.error), EdgeFleetError)
    return kind(failure.message, hint=failure.hint)
