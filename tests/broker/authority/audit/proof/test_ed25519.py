"""Our keys against RFC 8032 and another implementation, and refused signatures."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519 as other
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.authority.audit.proof.ed25519 import KEY_BYTES, PrivateKey, verify
from broker.core.errors import InternalError

ORDER = 2**252 + 27742317777372353535851937790883648493
SEED = bytes(range(32))
KEY = PrivateKey(SEED)
SIGNATURE = KEY.sign(b"x")


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            """e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155
            5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b""",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            """92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da
            085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00""",
        ),
    ],
)
def test_the_vectors_of_rfc_8032(
    seed: str, public: str, message: str, signature: str
) -> None:
    """Section 7.1, TEST 1 and 2."""
    key = PrivateKey(bytes.fromhex(seed))
    assert key.public().hex() == public
    assert key.sign(bytes.fromhex(message)) == bytes.fromhex(signature)


@settings(max_examples=50)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=80), st.integers(0, 511))
def test_another_implementation_agrees(seed: bytes, message: bytes, bit: int) -> None:
    ours, theirs = PrivateKey(seed), other.Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = ours.public(), ours.sign(message)
    assert public == theirs.public_key().public_bytes_raw()
    assert signature == theirs.sign(message)
    assert verify(public, signature, message)
    changed = bytearray(signature)
    changed[bit // 8] ^= 1 << bit % 8
    assert not verify(public, bytes(changed), message)


def test_signatures_that_must_be_refused() -> None:
    public = KEY.public()
    scalar = int.from_bytes(SIGNATURE[32:], "little") + ORDER
    again = SIGNATURE[:32] + scalar.to_bytes(32, "little")
    assert not verify(public, again, b"x"), "the same signature, written again"
    assert not verify(public, SIGNATURE[:63], b"x")
    assert not verify(public, SIGNATURE + b"\0", b"x")
    assert not verify(public, b"", b"x")
    assert not verify(public, SIGNATURE, b"")
    assert not verify(PrivateKey.generate().public(), SIGNATURE, b"x")
    assert not verify(b"\xff" * KEY_BYTES, SIGNATURE, b"x"), "no point"
    assert not verify(public[:31], SIGNATURE, b"x")
    assert not verify(public + b"\0", SIGNATURE, b"x")


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_seed_of_another_size_is_no_key(size: int) -> None:
    with pytest.raises(InternalError):
        PrivateKey(bytes(size))


def test_the_private_key_is_not_in_its_repr() -> None:
    assert SEED.hex() not in repr(KEY)
    assert str(SEED) not in repr(KEY)
