# SPDX-License-Identifier: Apache-2.0
"""The image repository's files, the same on both listeners."""

import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.errors import NotFoundError
from fleet_server.adapters.releases.image_repository import served_metadata
from fleet_server.api.parts import ServerParts

_TARGET_PATH = re.compile(r"[a-z0-9][a-z0-9_-]*/[a-z0-9][a-z0-9.-]*/[0-9a-f]{64}\.[a-z0-9][a-z0-9._-]*")


def image_metadata_answer(parts: ServerParts, file_name: str, request: Request) -> Response:
    """Return a metadata file as a TUF client names it.

    Raises:
        NotFoundError: there is none (for root, that is how a client knows that it has the newest).
    """
    with parts.database.read() as connection:
        content = served_metadata(connection, file_name)
    if content is None:
        raise NotFoundError(f"there is no metadata '{file_name[:100]}'", hint="ask for what the snapshot lists")
    return metadata_answer(content, request)


def metadata_answer(content: bytes, request: Request) -> Response:
    """Return metadata with an ETag, or 304 if the client has it already."""
    etag = f'"{sha256_hex(content)[:32]}"'
    headers = {"etag": etag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="application/json", headers=headers)


def image_target_path(parts: ServerParts, path: str) -> Path:
    """Return the file behind a target path with its hash before the name.

    Raises:
        NotFoundError: there is none.
    """
    file = parts.folder.targets / path
    if not _TARGET_PATH.fullmatch(path) or not file.is_file():
        raise NotFoundError(f"there is no target '{path[:200]}'", hint="ask for what the metadata lists")
    return file
