# SPDX-License-Identifier: Apache-2.0
"""Whether a bundle can run on a board at all: what it needs against what the device observed of itself.

Both sides ask the same question: the server before it orders, the device before it downloads. Needs travel beside the
release in the image repository's targets, under the key ``edgefleet-needs``, which older agents pass over. What is
not known is no reason to refuse: a need that nobody stated, a fact that the kernel hides, an accelerator that no rule
here can recognise.
"""

from typing import Annotated, Any

import msgspec

from edgefleet.contracts.enrolment import Grows, HardwareFacts
from edgefleet.contracts.errors import TrustError
from edgefleet.contracts.manifest import Manifest
from edgefleet.contracts.profile import Profile, compat_hash
from edgefleet.contracts.software import ANY, ORDER_KIND, WheelSet

NEEDS_KEY = "edgefleet-needs"
#: The package that brings each runtime to a Linux board.
_PACKAGES = {"litert": "ai-edge-litert", "tflite-runtime": "tflite-runtime"}
#: A small Linux, the agent's processes and the runtime (64 MiB measured), with as much again for the application.
_BASE_MEMORY_BYTES = 128 << 20
#: What an interpreter takes of memory for each byte of its model: weights, repacked weights and activations.
_MEMORY_SHARE = 4
#: What a profile calls a feature, and what kernels call it.
_FEATURE_NAMES: dict[str, tuple[str, ...]] = {
    "neon": ("neon", "asimd"),
    "dotprod": ("dotprod", "asimddp"),
    "fp16": ("fphp", "asimdhp"),
}
#: How an accelerator that a profile names shows itself; a device that shows none of these has none.
_ACCELERATOR_SIGNS: dict[str, tuple[str, ...]] = {
    "edgetpu": ("node:apex_", "pci:1ac1:089a", "usb:1a6e:089a", "usb:18d1:9302"),
    "hailo": ("node:hailo", "pci:1e60:"),
    "ethos": ("node:ethosu",),
    "nvidia": ("node:nvidia", "node:nvhost-"),
}


class Needs(Grows, frozen=True, kw_only=True):
    """What a bundle needs of its board; an absent one is not needed, or not known.

    ``runtime`` is the package that runs it, ``runtime_minimum`` its oldest release that does so right. ``python`` is as
    ``3.11``; ``order_kind`` is what an agent's orders must be able to list.
    """

    architecture: str = ""
    cpu_features: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    memory_bytes: int = 0
    accelerator: str = ""
    runtime: str = ""
    runtime_minimum: str = ""
    python: str = ""
    order_kind: str = ""


def software_needs(facts: WheelSet) -> Needs:
    """Return what a wheel set needs of its device, and of the agent that is to take it."""
    machine, python = (value if value != ANY else "" for value in (facts.machine, facts.python))
    return Needs(architecture=machine, python=python, order_kind=ORDER_KIND)


def needs_of(manifest: Manifest, profile: Profile | None) -> Needs:
    """Return what a bundle needs; ``profile`` is the one that it was made for, where that is at hand.

    A profile that has changed since in what makes a model run does not speak for the bundle. A microcontroller's
    bundle needs nothing of the gateway that carries it.
    """
    package = _PACKAGES.get(manifest.runtime.kind, "")
    if not package:
        return Needs()
    runtime = Needs(runtime=package, runtime_minimum=manifest.runtime.minimum_version)
    if profile is None or compat_hash(profile) != manifest.profile.compat_hash:
        return runtime
    return msgspec.structs.replace(
        runtime,
        architecture=profile.cpu.architecture,
        cpu_features=profile.cpu.features,
        memory_bytes=_memory_bytes(manifest, profile),
        accelerator=manifest.runtime.accelerator.id if manifest.runtime.accelerator else "",
    )


def _memory_bytes(manifest: Manifest, profile: Profile) -> int:
    """Return what agent and model take at least: two models beside each other where the profile swaps them so.

    The profile's own memory is no measure: a board with less of it runs a small model as well.
    """
    model_bytes = sum(member.size_bytes for member in manifest.members if member.path == manifest.model)
    models = 2 if profile.swap == "resident" else 1
    return _BASE_MEMORY_BYTES + models * _MEMORY_SHARE * model_bytes


def misfits(needs: Needs, facts: HardwareFacts) -> tuple[str, ...]:
    """Return each fact that does not meet a need, in words; none: the bundle fits as far as anybody knows."""
    found = []
    if needs.architecture and facts.architecture and needs.architecture != facts.architecture:
        found.append(f"architecture is {facts.architecture}, needed {needs.architecture}")
    if facts.cpu_features:
        missing = [name for name in needs.cpu_features if not _has_feature(facts, name)]
        if missing:
            found.append(f"cpu_features lack {', '.join(missing)}")
    if 0 < facts.memory_bytes < needs.memory_bytes:
        found.append(f"memory_bytes is {facts.memory_bytes}, needed {needs.memory_bytes}")
    if needs.accelerator and not _has_accelerator(facts, needs.accelerator):
        found.append(f"accelerators are {', '.join(facts.accelerators) or 'none'}, needed {needs.accelerator}")
    if needs.python and facts.python and needs.python != _minor(facts.python):
        found.append(f"python is {_minor(facts.python)}, needed {needs.python}")
    if needs.order_kind and needs.order_kind not in facts.order_kinds:
        found.append(f"order_kinds lack {needs.order_kind}: its agent takes none by order")
    return (*found, *_runtime_misfit(needs, facts))


def needs_custom(needs: Needs) -> dict[str, Any]:
    """Return what goes into a target's ``custom`` field; nothing where nothing is needed."""
    said = msgspec.json.decode(msgspec.json.encode(needs))  # as who reads the metadata gets it: lists, no tuples
    return {NEEDS_KEY: said} if said else {}


def read_needs(custom: object) -> Needs:
    """Read the needs out of a target's ``custom`` field; an older release states none.

    Raises:
        TrustError: they break the schema.
    """
    if not isinstance(custom, dict) or NEEDS_KEY not in custom:
        return Needs()
    try:
        return msgspec.convert(custom[NEEDS_KEY], Needs)
    except msgspec.ValidationError as error:
        raise TrustError(f"the target's needs are malformed: {error}", hint="update the agent") from error


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])


def _has_feature(facts: HardwareFacts, name: str) -> bool:
    return any(known in facts.cpu_features for known in _FEATURE_NAMES.get(name, (name,)))


def _has_accelerator(facts: HardwareFacts, name: str) -> bool:
    signs = next((signs for family, signs in _ACCELERATOR_SIGNS.items() if name.startswith(family)), None)
    return signs is None or any(seen.startswith(signs) for seen in facts.accelerators)


def _runtime_misfit(needs: Needs, facts: HardwareFacts) -> tuple[str, ...]:
    installed = dict(said.split(" ", 1) for said in facts.runtimes or (facts.runtime,) if " " in said)
    if not needs.runtime or not (installed or facts.runtime == "none"):
        return ()
    have, wanted = installed.get(needs.runtime), f"{needs.runtime} {needs.runtime_minimum}"
    if have is None:
        return (f"runtimes are {', '.join(facts.runtimes) or facts.runtime}, needed {wanted}",)
    if _release(have) < _release(needs.runtime_minimum):
        return (f"runtimes have {needs.runtime} {have}, needed {wanted} or later",)
    return ()


def _release(version: str) -> tuple[int, ...]:
    """Return a version's leading numbers; what is none counts as zero."""
    return tuple(int(part) if part.isascii() and part.isdecimal() else 0 for part in version.split("."))
