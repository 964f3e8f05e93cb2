# SPDX-License-Identifier: Apache-2.0
"""The command line's side of the management API: problems come back as the errors they were made from."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import msgspec

from edgefleet.contracts.canonical import sha256_file
from edgefleet.contracts.errors import (
    EdgeFleetError,
    InputError,
    NotAllowedError,
    StorageError,
    TrustError,
    UnreachableError,
)
from fleet_server.adapters.access.home import Login
from fleet_server.adapters.access.problems import Problem, error_class

_TIMEOUT_S = 60.0
_PIECE_BYTES = 1 << 18
_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


class ApiClient:
    """Calls one server with one token. Use as a context manager.

    Raises:
        InputError: the server's address is none.
    """

    def __init__(self, login: Login) -> None:
        self.server = login.server.rstrip("/")
        try:
            self._client = httpx.Client(
                base_url=self.server,
                headers={"authorization": f"Bearer {login.token}"},
                timeout=_TIMEOUT_S,
                trust_env=False,
            )
        except httpx.InvalidURL as error:
            raise InputError(
                f"'{self.server}' is not a server's address: {error}",
                hint="name it as 'edgefleet server run' prints it, for example http://127.0.0.1:8080",
            ) from error

    def __enter__(self) -> "ApiClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON document at a path below ``/api/v1``."""
        return self._document(self._ask("GET", f"/api/v1/{path}", params=query or None))

    def post(self, path: str, document: object | None = None) -> Any:
        """Send a document, and return the answer's."""
        return self._document(self._ask("POST", f"/api/v1/{path}", content=msgspec.json.encode(document)))

    def get_bytes(self, path: str) -> bytes | None:
        """Return the bytes at an absolute path; None: the server has none (204)."""
        answer = self._ask("GET", path)
        return None if answer.status_code == 204 else answer.content

    def put_bytes(self, path: str, content: bytes) -> Any:
        """Put raw bytes below ``/api/v1``, and return the answer's document."""
        return self._document(self._ask("PUT", f"/api/v1/{path}", content=content))

    def upload_bundle(self, file: Path, sent: Callable[[int], None]) -> str:
        """Stream a bundle up unless the server has it; return its hash. ``sent`` is told of bytes sent."""
        sha256 = sha256_file(file)
        self._ask("PUT", f"/api/v1/bundles/{sha256}", content=_pieces(file, sent))
        return sha256

    def download_bundle(self, sha256: str, destination: Path) -> None:
        """Fetch an uploaded bundle, and check that it is the one asked for.

        Raises:
            TrustError: it is another file.
        """
        try:
            with destination.open("wb") as stream, self._streamed(f"/api/v1/bundles/{sha256}") as answer:
                for piece in answer.iter_bytes(_PIECE_BYTES):
                    stream.write(piece)
        except OSError as error:
            raise StorageError(f"cannot write '{destination}': {error.strerror}", hint="check free space") from error
        if sha256_file(destination) != sha256:
            raise TrustError(
                f"the server sent another file for the bundle {sha256}", hint="do not sign; look at the server"
            )

    def download_update(self, devices: Sequence[str], days: float, destination: Path) -> None:
        """Let an update file be made, and fetch it."""
        wanted = msgspec.json.encode({"devices": devices, "days": days})
        try:
            with (
                self._streamed("/api/v1/updates", method="POST", content=wanted) as answer,
                destination.open("xb") as stream,
            ):
                for piece in answer.iter_bytes(_PIECE_BYTES):
                    stream.write(piece)
        except OSError as error:
            raise StorageError(f"cannot write '{destination}': {error.strerror}", hint="check free space") from error

    @contextmanager
    def _streamed(self, path: str, *, method: str = "GET", content: bytes | None = None) -> Iterator[httpx.Response]:
        try:
            with self._client.stream(method, path, content=content) as answer:
                if answer.is_error:
                    answer.read()
                    raise _mapped(answer)
                yield answer
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"the server at {self.server} does not answer: {str(error) or type(error).__name__}",
            hint="check the address, and that 'edgefleet server run' is running",
        )

    def _ask(self, method: str, path: str, **settings: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, path, **settings)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        if answer.is_error:
            raise _mapped(answer)
        return answer

    def _document(self, answer: httpx.Response) -> Any:
        try:
            return msgspec.json.decode(answer.content)
        except msgspec.DecodeError as error:
            raise UnreachableError(
                f"what answers at {self.server} is no EdgeFleet server", hint="check the address"
            ) from error


def segment(text: str) -> str:
    """Return a name, version or id as a part of the API's paths.

    Raises:
        InputError: it is none, and would lead elsewhere.
    """
    if not _SEGMENT.fullmatch(text):
        raise InputError(
            f"'{text}' is no name, version or id", hint="they are made of letters, digits, '.', '-' and '_'"
        )
    return text


def _pieces(file: Path, sent: Callable[[int], None]) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            yield piece
            sent(len(piece))


def _mapped(answer: httpx.Response) -> EdgeFleetError:
    fallback: type[EdgeFleetError] = NotAllowedError if answer.status_code in (401, 403) else UnreachableError
    try:
        problem = msgspec.json.decode(answer.content, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return fallback(f"the server answered with status {answer.status_code}", hint="look at the server's log")
    return error_class(problem.code, fallback)(problem.detail, hint=problem.hint)
