# SPDX-License-Identifier: Apache-2.0
"""``edgefleet-agent tuf-client``: the agent's TUF client by itself, in the words of the tuf-conformance suite.

The suite asks for exit status 0 or 1 and for its own order of words: options first, then ``init``, ``refresh`` or
``download``. The client, its limits and its way to fetch are those of the agent.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from device_agent.commands.verbs import Parser, add_plain_verb, emit
from edgefleet.contracts.errors import EdgeFleetError, InputError

if TYPE_CHECKING:
    from tuf.ngclient import Updater  # type: ignore[attr-defined]  # tuf re-exports without saying so

_CONNECT_S, _READ_S = 10.0, 30.0


class TufClientError(EdgeFleetError):
    """Some part of the client's work failed; the suite's only status for that is 1."""

    code = "tuf-client-failed"


def add(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Hang the verb on the command line."""
    verb = add_plain_verb(
        verbs,
        "tuf-client",
        "check TUF metadata as the agent does, in the words of the tuf-conformance suite",
        _tuf_client,
        "--metadata-dir trusted --metadata-url https://example.org/metadata refresh",
    )
    verb.add_argument("--metadata-dir", type=Path, required=True, help="where trusted metadata is kept")
    verb.add_argument("--metadata-url", help="where metadata is served")
    verb.add_argument("--target-name", action="append", help="path of a target; may be given several times")
    verb.add_argument("--target-base-url", help="where targets are served")
    verb.add_argument("--target-dir", type=Path, help="where targets are stored")
    verb.add_argument("action", choices=("init", "refresh", "download"), help="what to do")
    verb.add_argument("root", nargs="?", type=Path, help="the first trusted root, for init")


def _tuf_client(options: argparse.Namespace) -> None:
    if options.action == "init":
        _need(options, "root")
        document = _init(options.metadata_dir, options.root)
    elif options.action == "refresh":
        _need(options, "metadata_url")
        document = _refresh(options)
    else:
        _need(options, "metadata_url", "target_name", "target_base_url", "target_dir")
        document = _download(options)
    emit(document, "done", as_json=options.json)


def _need(options: argparse.Namespace, *names: str) -> None:
    for name in names:
        if not getattr(options, name):
            word = name if name == "root" else f"--{name.replace('_', '-')}"
            raise InputError(f"{options.action} needs {word}", hint="see: edgefleet-agent tuf-client --help")


def _init(folder: Path, root: Path) -> dict[str, object]:
    """Make the given root the trusted one; no request is made."""
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, Root  # type: ignore[attr-defined]  # tuf re-exports without saying so

    from device_agent.adapters.storage.durable import write_durably

    try:
        data = root.read_bytes()
        first = Metadata[Root].from_bytes(data)
        if not isinstance(first.signed, Root):
            raise _failed(f"'{root}' is {first.signed.type} metadata, expected root")
        first.signed.verify_delegate(Root.type, first.signed_bytes, first.signatures)
        write_durably(folder / "root.json", data)
    except (RepositoryError, ValueError) as error:
        raise _failed(f"'{root}' is no root metadata that its own keys signed: {error}") from error
    except OSError as error:
        raise _failed(f"cannot store the trusted root: {error}") from error
    return {"trusted_root": str(root)}


def _refresh(options: argparse.Namespace) -> dict[str, object]:
    with _mapped():
        _client(options).refresh()
    return {"refreshed": options.metadata_url}


def _download(options: argparse.Namespace) -> dict[str, object]:
    """Fetch targets in the order given, with one client; the first that fails ends it."""
    paths = []
    with _mapped():
        client = _client(options)
        for name in options.target_name:
            found = client.get_targetinfo(name)
            if found is None:
                raise _failed(f"'{name}' is not in the repository")
            paths.append(client.find_cached_target(found) or client.download_target(found))
    return {"targets": paths}


def _client(options: argparse.Namespace) -> "Updater":
    import urllib3
    from tuf.ngclient import Updater  # type: ignore[attr-defined]  # tuf re-exports without saying so

    from device_agent.adapters.network.https import body_pieces
    from device_agent.adapters.verification.metadata_client import BoundedFetcher, client_settings

    pool = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=_CONNECT_S, read=_READ_S))

    def read(url: str) -> tuple[int, Iterator[bytes]]:
        response = pool.request("GET", url, preload_content=False, redirect=False)
        return response.status, body_pieces(response)

    return Updater(
        str(options.metadata_dir),
        options.metadata_url,
        str(options.target_dir) if options.target_dir else None,
        options.target_base_url,
        fetcher=BoundedFetcher(read),
        config=client_settings(),
        bootstrap=None,  # the root that init stored, or its successors
    )


@contextmanager
def _mapped() -> Iterator[None]:
    """Turn whatever the client raises into one sentence and status 1."""
    from tuf.api.exceptions import DownloadError, RepositoryError

    try:
        yield
    except TufClientError:
        raise
    except (RepositoryError, DownloadError, EdgeFleetError, OSError) as error:
        raise _failed(f"{error} ({type(error).__name__})") from error


def _failed(message: str) -> TufClientError:
    return TufClientError(message, hint="what was trusted before is still trusted; see the repository's log")
