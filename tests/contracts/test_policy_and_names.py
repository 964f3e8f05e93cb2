# SPDX-License-Identifier: Apache-2.0
"""Policy files, names and versions: what cannot be read stops."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet.contracts.errors import PolicyError
from edgefleet.contracts.names import is_name, is_version, version_key
from edgefleet.contracts.policy import read_policy

GOOD = b"""\
format_version = 1
[device.trial]
requests = 10
[rollout]
waves = [{percent = 10.0}, {percent = 100.0}]
[rollout.gate]
accuracy_drop = 0.05
"""


def test_a_policy_is_read_and_pinned_by_the_hash_of_its_file() -> None:
    pinned = read_policy(GOOD, source="p.toml")
    assert pinned.sha256 == hashlib.sha256(GOOD).hexdigest()
    assert pinned.policy.device.trial.requests == 10
    assert [wave.percent for wave in pinned.policy.rollout.waves] == [10.0, 100.0]


BAD = {
    "not TOML": (b"= 1", "p.toml is not TOML: Invalid statement (at line 1, column 1)"),
    "not text": (b"\xff\xfe", "p.toml is not UTF-8 text"),
    "a wrong key": (
        GOOD + b"acuracy_drop = 1\n",
        "p.toml: Object contains unknown field `acuracy_drop` - at `$.rollout.gate`",
    ),
    "no waves": (
        b"format_version = 1\n[rollout]\nwaves = []\n",
        "p.toml: Expected `array` of length >= 1 - at `$.rollout.waves`",
    ),
    "no last wave": (
        GOOD.replace(b"100.0", b"90.0"),
        "p.toml: the last of rollout.waves is 90.0 percent, expected 100",
    ),
    "shrinking waves": (
        GOOD.replace(b"10.0}", b"100.0}", 1),
        "p.toml: rollout.waves must grow, got [100.0, 100.0]",
    ),
    "NaN": (GOOD.replace(b"0.05", b"nan"), "p.toml: Expected `float` >= 0.0 - at `$.rollout.gate.accuracy_drop`"),
    "a number without end": (
        GOOD.replace(b"10", b"9" * 5000, 1),
        "p.toml has a number or nesting that is beyond reading",
    ),
    "nested without end": (
        b"a = " + b"[" * 5000,
        "p.toml has a number or nesting that is beyond reading",
    ),
    "a file without end": (b"#" * (1 << 21), "p.toml is 2097152 bytes, over the limit of 1048576"),
    "a count beyond JSON": (
        GOOD.replace(b"requests = 10", b"requests = 9007199254740992"),
        "p.toml: Expected `int` <= 9007199254740991 - at `$.device.trial.requests`",
    ),
    "a rule without limit": (
        GOOD.replace(b"requests = 10", b"limit_s = inf"),
        "p.toml: Expected `float` <= 3200000000.0 - at `$.device.trial.limit_s`",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_an_unreadable_policy_stops(case: str) -> None:
    data, message = BAD[case]
    with pytest.raises(PolicyError) as caught:
        read_policy(data, source="p.toml")
    assert caught.value.message == message
    assert caught.value.exit_status == 3


@given(st.text(max_size=70))
def test_a_name_is_safe_in_paths_topics_and_patterns(text: str) -> None:
    if is_name(text):
        assert text.isascii()
        assert not set(text) & set("/\\+#*?[]. \n")


def test_versions_sort_as_semver_says() -> None:
    ordered = [
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
    ]
    assert all(is_version(v) for v in ordered)
    shuffled = ordered[3:] + ordered[:3]
    assert sorted(shuffled, key=version_key) == ordered
    assert not any(is_version(v) for v in ("1.0", "01.0.0", "1.0.0+build", "v1.0.0", "1.0.0-", "1.0.0\n"))
