# SPDX-License-Identifier: Apache-2.0
"""``edgefleet releases``: upload models and software, approve them with a key of your own, see what is approved."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit, progress
from fleet_server.cli.options import HomeOption, PassphraseOption, ask_passphrase

if TYPE_CHECKING:
    from edgefleet.contracts.bundle import Bundle

app = typer.Typer(help="Publish and approve releases.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="The product's name.")]
VersionArgument = Annotated[str, typer.Argument(help="The release's version.")]


class Kind(StrEnum):
    """What a release is of."""

    MODEL = "model"
    SOFTWARE = "software"


@app.command(epilog="Example: edgefleet releases publish doorbell-1.2.0-*.bundle --policy policy.toml")
def publish(
    files: Annotated[
        list[Path],
        typer.Argument(help="One bundle for each profile, or one wheel set for each machine, all of one version."),
    ],
    policy: Annotated[Path, typer.Option("--policy", help="The policy file (TOML).")],
    kind: Annotated[
        Kind, typer.Option("--kind", help="'software': wheel sets of the agents' own software.")
    ] = Kind.MODEL,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Upload a release: its files and its policy. Nothing is signed; 'releases approve' does that."""
    from edgefleet.contracts.files import read_file
    from edgefleet.contracts.policy import read_policy
    from edgefleet.contracts.wheel_set import open_wheel_set
    from fleet_server.adapters.access.api_client import ApiClient
    from fleet_server.adapters.access.home import Home
    from fleet_server.core.trust.release_rules import check_files

    policy_bytes = read_file(policy, "the policy")
    opened = [open_wheel_set(path) if kind is Kind.SOFTWARE else _open_bundle(path) for path in files]
    check_files(opened, read_policy(policy_bytes, source=str(policy)).policy)
    with (
        ApiClient(Home(home).login()) as client,
        progress("uploading", sum(file.size_bytes for file in opened)) as advance,
    ):
        hashes = [client.upload_bundle(file.path, advance) for file in opened]
        made = client.post("releases", {"bundles": hashes, "policy": policy_bytes.decode()})
    emit(made, as_json=as_json, human=lambda: f"published as a draft:\n{_describe(made)}")


@app.command(epilog="Example: edgefleet releases approve doorbell 1.2.0 --key ada")
def approve(
    name: NameArgument,
    version: VersionArgument,
    key: Annotated[str, typer.Option("--key", help="The name of your key in the home folder.")],
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Verify a release on this machine, show what would be signed, and sign it.

    Once the product's threshold of approvers has signed, the server publishes the release.
    """
    from fleet_server.adapters.access.api_client import ApiClient
    from fleet_server.adapters.access.home import Home
    from fleet_server.adapters.keys.key_files import load_signer
    from fleet_server.adapters.releases.approver import prepare_approval, send_approval

    person = Home(home)
    with ApiClient(person.login()) as client:
        prepared = prepare_approval(client, person, name, version)
        typer.echo(_approval_text(name, version, list(prepared.changes), prepared.earlier_signatures), err=True)
        if not yes:
            typer.confirm("Sign exactly this?", abort=True, err=True)
        signer = load_signer(person.keys, key, lambda: ask_passphrase(passphrase_file, key))
        made = send_approval(client, prepared, signer)
    emit(made, as_json=as_json, human=lambda: _describe(made))


@app.command("list", epilog="Example: edgefleet releases list")
def list_(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List all releases, the newest first."""
    from fleet_server.adapters.access.api_client import ApiClient
    from fleet_server.adapters.access.home import Home

    with ApiClient(Home(home).login()) as client:
        found = client.get("releases")
    emit(found, as_json=as_json, human=lambda: "\n".join(_line(release) for release in found) or "no releases yet")


@app.command(epilog="Example: edgefleet releases show doorbell 1.2.0")
def show(name: NameArgument, version: VersionArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show one release: its bundles, and its approvals."""
    from fleet_server.adapters.access.api_client import ApiClient, segment
    from fleet_server.adapters.access.home import Home

    with ApiClient(Home(home).login()) as client:
        found = client.get(f"releases/{segment(name)}/{segment(version)}")
    emit(found, as_json=as_json, human=lambda: _describe(found))


@app.command(epilog="Example: edgefleet releases export --device door-1 --expires 90 --output door-1.update")
def export(
    devices: Annotated[list[str], typer.Option("--device", help="A device that the file is for; more than once.")],
    output: Annotated[Path, typer.Option("--output", help="The file to carry to the devices.")],
    expires: Annotated[
        float, typer.Option("--expires", metavar="DAYS", help="How long devices may take it in (at most 1095 days).")
    ] = 30.0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the newest orders of devices without a network, with all they need: edgefleet-agent import FILE."""
    from fleet_server.adapters.access.api_client import ApiClient, segment
    from fleet_server.adapters.access.home import Home
    from fleet_server.adapters.storage.private_files import check_absent

    check_absent(output)
    with ApiClient(Home(home).login()) as client:
        client.download_update([segment(device) for device in devices], expires, output)
    document = {"devices": devices, "output": str(output), "expires_days": expires, "bytes": output.stat().st_size}
    human = f"update of {', '.join(devices)} written to {output}; it can be taken in for {expires:g} days"
    emit(document, as_json=as_json, human=human)


def _open_bundle(path: Path) -> "Bundle":
    from edgefleet.contracts.bundle import open_bundle
    from edgefleet.contracts.errors import BundleError
    from edgefleet.contracts.wheel_set import is_wheel_set

    if path.is_file() and is_wheel_set(path):
        raise BundleError(f"'{path.name}' is a wheel set, expected a bundle", hint="publish it with --kind software")
    return open_bundle(path)


def _approval_text(name: str, version: str, changes: list[str], earlier: int) -> str:
    head = f"verified {name} {version} here; against the last verified metadata, the signature would say:"
    others = f"{earlier} approver(s) have signed the same before" if earlier else "you are the first to sign"
    return "\n".join([head, *(f"  {change}" for change in changes), others])


def _line(release: dict[str, Any]) -> str:
    approvals = f"{release['signatures']} of {release['threshold']} approvals"
    return f"{release['name']:<24} {release['version']:<16} {release['state']:<18} {approvals}"


def _describe(release: dict[str, Any]) -> str:
    bundles = [f"  {b['profile']:<20} {b['size_bytes']:>10} bytes  {b['sha256']}" for b in release["bundles"]]
    return "\n".join([_line(release), *bundles, f"  policy {release['policy_sha256']}"])
