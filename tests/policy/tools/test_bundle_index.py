"""Indexes of bundles: signed for one bundle, never an older one; and changed keys."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policy.tools import limits as tool_limits
from policy.tools.bundles.bundle import (
    BundleError,
    Signer,
    newer,
    sign,
    trusted_after,
    trusted_keys,
    verify,
    written_key,
)
from policy.tools.bundles.index import (
    RingEntry,
    RolloutIndex,
    entry_of,
    is_index,
    read_index,
    sign_index,
    verify_index,
)

KEY, OTHER, THIRD = (
    Ed25519PrivateKey.from_private_bytes(text * 32) for text in (b"1", b"2", b"3")
)
PUBLIC, PUBLIC_2, PUBLIC_3 = (
    written_key(key.public_key()) for key in (KEY, OTHER, THIRD)
)
TRUSTED = {PUBLIC: Signer("acme", frozenset({"acme"}))}
FILES = {"policy.d/30-site.policy": "a * work vault deny\n"}
RINGS = {
    "canary": RingEntry(43, "0" * 64, "b43"),
    "all": RingEntry(42, "1" * 64, "b42", 99),
}
INDEX = RolloutIndex("acme", 7, RINGS, 1000)


def test_index_comes_back_and_each_changed_byte_is_found():
    made = sign_index(KEY, INDEX)
    assert is_index(made)
    assert not is_index(sign(KEY, "acme", 1, FILES))
    assert verify_index(made, TRUSTED) == INDEX
    for at in range(len(made)):
        with pytest.raises(BundleError):
            verify_index(bytes([*made[:at], made[at] ^ 1, *made[at + 1 :]]), TRUSTED)
        with pytest.raises(BundleError):
            verify_index(made[:at], TRUSTED)


def test_key_of_every_name_is_left_with_the_index_alone():
    """Attack: a key that was moved to a server still signs rules."""
    every = {PUBLIC: Signer("ops", None)}
    after = trusted_after(every, "acme", [PUBLIC_2, f"index {PUBLIC}"])
    assert verify_index(sign_index(KEY, INDEX), after) == INDEX
    with pytest.raises(BundleError, match="may not sign"):
        verify(sign(KEY, "acme", 44, FILES), after)
    assert verify(sign(OTHER, "acme", 44, FILES), after).version == 44
    assert verify(sign(KEY, "other", 1, FILES), after).name == "other"
    gone = trusted_after(every, "acme", [PUBLIC_2])
    with pytest.raises(BundleError, match="may not sign"):
        verify_index(sign_index(KEY, INDEX), gone)


def test_signature_of_a_bundle_is_not_one_of_an_index():
    made = sign(KEY, "acme", 1, FILES)
    with pytest.raises(BundleError):
        verify_index(made.replace(b"vitrail-bundle 1", b"vitrail-index 1"), TRUSTED)
    with pytest.raises(BundleError, match="was changed"):
        verify(
            sign_index(KEY, INDEX).replace(b"vitrail-index 1", b"vitrail-bundle 1"),
            TRUSTED,
        )


def test_key_signs_the_index_of_its_own_bundles_only():
    other = replace(INDEX, name="site")
    with pytest.raises(BundleError, match="may not sign 'site'"):
        verify_index(sign_index(KEY, other), TRUSTED)
    alone = trusted_keys(f"rollout {PUBLIC_2} acme/index\n")
    assert verify_index(sign_index(OTHER, INDEX), alone) == INDEX
    with pytest.raises(BundleError, match="may not sign 'acme'"):
        verify(sign(OTHER, "acme", 1, FILES), alone)


def test_ring_that_is_not_there_and_an_index_that_expired_say_nothing():
    assert INDEX.ring("canary", 999).version == 43
    with pytest.raises(BundleError, match="no ring 'x'; it has all, canary"):
        INDEX.ring("x", 999)
    with pytest.raises(BundleError, match="expired"):
        INDEX.ring("all", 1000)
    assert replace(INDEX, expires=0).ring("all", 1e12).version == 42


WRONG = [
    lambda d: d.update(more=1),
    lambda d: d.pop("expires"),
    lambda d: d.update(rings={}),
    lambda d: d.update(rings=[]),
    lambda d: d.update(serial=0),
    lambda d: d.update(serial=True),
    lambda d: d.update(serial=tool_limits.BUNDLE_VERSION + 1),
    lambda d: d.update(expires=-1),
    lambda d: d.update(expires=False),
    lambda d: d.update(expires=1.5),
    lambda d: d.update(name="../x"),
    lambda d: d["rings"].update(A=d["rings"]["all"]),
    lambda d: d["rings"].update({"a b": d["rings"]["all"]}),
    lambda d: d["rings"]["all"].update(file="../x"),
    lambda d: d["rings"]["all"].update(file="https://x.example/y"),
    lambda d: d["rings"]["all"].update(file="//x.example/y"),
    lambda d: d["rings"]["all"].update(file="?a"),
    lambda d: d["rings"]["all"].update(digest="0" * 63),
    lambda d: d["rings"]["all"].update(version="42"),
    lambda d: d["rings"]["all"].update(more=1),
    lambda d: d["rings"]["all"].pop("file"),
    lambda d: d.update(rings={f"r{n}": RINGS["all"].__dict__ for n in range(33)}),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_payload_that_is_signed_is_still_checked(number):
    payload = sign_index(KEY, INDEX).partition(b"\n\n")[2]
    data = json.loads(payload)
    WRONG[number](data)
    with pytest.raises(BundleError):
        read_index(json.dumps(data).encode())


def test_bundle_replaces_the_keys_of_its_name_and_no_others():
    trusted = trusted_keys(f"acme {PUBLIC} acme site\nany {PUBLIC_3} *\n")
    made = verify(sign(KEY, "acme", 1, FILES, [PUBLIC_2]), trusted)
    after = trusted_after(trusted, "acme", made.keys)
    assert verify(sign(OTHER, "acme", 2, FILES), after).version == 2
    for key in (KEY, THIRD):
        with pytest.raises(BundleError, match="may not sign 'acme'"):
            verify(sign(key, "acme", 2, FILES), after)
        with pytest.raises(BundleError, match="may not sign 'acme'"):
            verify_index(sign_index(key, INDEX), after)
        assert verify(sign(key, "site", 2, FILES), after).name == "site"
    with pytest.raises(BundleError, match="may not sign 'site'"):
        verify(sign(OTHER, "site", 2, FILES), after)
    # A second change, back to the first key, which is trusted for another name, too.
    again = trusted_after(after, "acme", [PUBLIC, f"index {PUBLIC_3}"])
    assert verify(sign(KEY, "acme", 3, FILES), again).version == 3
    assert verify(sign(KEY, "site", 3, FILES), again).version == 3
    with pytest.raises(BundleError):
        verify(sign(OTHER, "acme", 3, FILES), again)


def test_key_of_the_index_signs_no_bundle():
    after = trusted_after(TRUSTED, "acme", [PUBLIC, f"index {PUBLIC_2}"])
    assert verify_index(sign_index(OTHER, INDEX), after) == INDEX
    with pytest.raises(BundleError, match="may not sign 'acme'"):
        verify(sign(OTHER, "acme", 2, FILES), after)


@pytest.mark.parametrize(
    "keys",
    [
        ["x"],
        ["ed25519:" + base64.b64encode(b"1" * 31).decode()],
        [f"index {PUBLIC}"],
        [PUBLIC] * 17,
        [f"other {PUBLIC}"],
    ],
)
def test_keys_of_a_bundle_are_keys(keys):
    with pytest.raises(BundleError):
        sign(KEY, "acme", 1, FILES, keys)


def test_only_the_bundle_before_comes_back():
    old = verify(sign(KEY, "acme", 42, FILES), TRUSTED)
    before = (42, old.digest)
    assert newer(old, 43, "x", back_to=before)
    for back_to in ((41, old.digest), (42, "0" * 64), (0, "")):
        with pytest.raises(BundleError, match="older"):
            newer(old, 43, "x", back_to=back_to)
    assert entry_of(old, "b") == RingEntry(42, old.digest, "b")
