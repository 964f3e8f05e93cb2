# SPDX-License-Identifier: Apache-2.0
"""Ways to change a metadata file or a bundle that nobody has signed; all randomness comes from the caller."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # as tuf
from tuf.api.metadata import Metadata

BLOCK_BYTES = 512
#: Digits of a number that no parser should take long over.
_DIGITS = 5000
_DEPTH = 100_000
_STRANGER = CryptoSigner.generate_ed25519()

Mutation = Callable[[bytes, random.Random], bytes]


def bit_flips(data: bytes, chance: random.Random) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def truncated(data: bytes, chance: random.Random) -> bytes:
    """Cut the end off."""
    return data[: chance.randrange(len(data))]


def extended(data: bytes, chance: random.Random) -> bytes:
    """Append noise."""
    return data + chance.randbytes(chance.randint(1, 2000))


def swapped_fields(data: bytes, chance: random.Random) -> bytes:
    """Exchange the values of two fields of the signed part."""
    document = json.loads(data)
    first, second = (chance.choice(_places(document["signed"])) for _ in range(2))
    a, b = copy.deepcopy(first[0][first[1]]), copy.deepcopy(second[0][second[1]])
    first[0][first[1]], second[0][second[1]] = b, a
    return json.dumps(document).encode()


def changed_value(data: bytes, chance: random.Random) -> bytes:
    """Put another value, of this or another type, in the place of one."""
    document = json.loads(data)
    holder, key = chance.choice(_places(document))
    holder[key] = chance.choice([None, True, -1, 0, 2**31, 2**63, 0.5, "", "x" * 5000, "\u0000", [], {}, [[]], "1e999"])
    return json.dumps(document).encode()


def missing_field(data: bytes, chance: random.Random) -> bytes:
    """Leave one field out."""
    document = json.loads(data)
    holder, key = chance.choice(_places(document))
    del holder[key]
    return json.dumps(document).encode()


def duplicated_key(data: bytes, chance: random.Random) -> bytes:
    """Say one key twice, with two values."""
    key = chance.choice(["version", "expires", "_type", "signatures", "signed", "targets", "keyid"])
    value = chance.choice(["1", '"2999-01-01T00:00:00Z"', "{}", "[]", "999999"])
    text = data.decode()
    place = chance.choice([index for index, letter in enumerate(text) if letter == "{"])
    return f'{text[: place + 1]}"{key}": {value}, {text[place + 1 :]}'.encode()


def huge_number(data: bytes, chance: random.Random) -> bytes:
    """Put a number of many digits, or beyond any float, in the place of a number."""
    huge = chance.choice(
        ["9" * _DIGITS, "-" + "9" * 400, "1e400", "1E+9999999", "0." + "1" * _DIGITS, "NaN", "Infinity"]
    )
    text = data.decode()
    numbers = [i for i in range(1, len(text)) if text[i].isdigit() and text[i - 1] in " :"]
    place = chance.choice(numbers)
    end = place
    while text[end].isdigit():
        end += 1
    return (text[:place] + huge + text[end:]).encode()


def deep_nesting(data: bytes, chance: random.Random) -> bytes:
    """Nest lists or objects deeper than a stack goes."""
    depth = chance.choice([100, 1000, _DEPTH])
    left, right = chance.choice([("[", "]"), ('{"a":', "}")])
    nest = left * depth + "1" + right * depth
    return chance.choice([nest.encode(), data[:1] + f'"x": {nest}, '.encode() + data[1:]])


def forged_signature(data: bytes, chance: random.Random) -> bytes:
    """Drop, repeat, exchange or replace signatures, or sign a change with a stranger's key."""
    metadata = Metadata.from_bytes(data)
    document = json.loads(data)
    signatures = document["signatures"]
    kind = chance.randrange(5)
    if kind == 0:
        signatures.clear()
    elif kind == 1:
        signatures[:] = [signatures[0]] * 3
        document["signed"]["version"] += 1
    elif kind == 2:
        signatures[0]["sig"] = signatures[-1]["sig"][::-1]
    elif kind == 3:
        metadata.signed.version += 1
        metadata.sign(_STRANGER)
        return bytes(metadata.to_bytes())
    else:
        metadata.signed.version += 1
        metadata.sign(_STRANGER)
        forged = json.loads(metadata.to_bytes())
        forged["signatures"][0]["keyid"] = signatures[0]["keyid"]
        return json.dumps(forged).encode()
    return json.dumps(document).encode()


def not_json(data: bytes, chance: random.Random) -> bytes:
    """Say the same, or nothing, in a way that is no JSON in UTF-8."""
    return chance.choice(
        [b"", b"null", b"[]", b"\xff\xfe" + data.decode().encode("utf-16-le"), b"\x00" * 999, data[::-1]]
    )


METADATA: dict[str, Mutation] = {
    each.__name__.replace("_", "-"): each
    for each in (
        bit_flips,
        truncated,
        extended,
        swapped_fields,
        changed_value,
        missing_field,
        duplicated_key,
        huge_number,
        deep_nesting,
        forged_signature,
        not_json,
    )
}


def tar_header(data: bytes, chance: random.Random) -> bytes:
    """Change a field of a member's header, and often its checksum to fit."""
    headers = [i for i in range(0, len(data) - BLOCK_BYTES, BLOCK_BYTES) if data[i + 257 : i + 262] == b"ustar"]
    at = chance.choice(headers)
    header = bytearray(data[at : at + BLOCK_BYTES])
    start, length = chance.choice(
        [(0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (345, 155)]
    )
    new = chance.choice(
        [b"../../etc/passwd", b"/etc/passwd", b"77777777777", b"\x80" + b"\xff" * 7, b"2", b"5", b"L", b"x"]
    )
    header[start : start + length] = new[:length].ljust(length, b"\0")
    if chance.random() < 0.8:
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
    return data[:at] + bytes(header) + data[at + BLOCK_BYTES :]


def manifest_bytes(data: bytes, chance: random.Random) -> bytes:
    """Change the manifest within its length."""
    size = int(data[124:135], 8)
    manifest = bytearray(data[BLOCK_BYTES : BLOCK_BYTES + size])
    for _ in range(chance.randint(1, 40)):
        manifest[chance.randrange(size)] = chance.choice(b'0123456789{}[]",:-eE.aZ\x00\xff')
    return data[:BLOCK_BYTES] + bytes(manifest) + data[BLOCK_BYTES + size :]


def shuffled_blocks(data: bytes, chance: random.Random) -> bytes:
    """Exchange two blocks of the file."""
    blocks = [data[i : i + BLOCK_BYTES] for i in range(0, len(data), BLOCK_BYTES)]
    a, b = chance.sample(range(len(blocks)), 2)
    blocks[a], blocks[b] = blocks[b], blocks[a]
    return b"".join(blocks)


BUNDLE: dict[str, Mutation] = {
    each.__name__.replace("_", "-"): each
    for each in (bit_flips, truncated, extended, tar_header, manifest_bytes, shuffled_blocks)
}


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Return each (holder, key) of a JSON document."""
    found: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list) and holder[key]:
                waiting.append(holder[key])
    return found
