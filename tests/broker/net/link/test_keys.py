"""Identities, public keys as text, and the file of pinned peers."""

from __future__ import annotations

import contextlib

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import RefusedError, SetupError
from broker.core.limits import link as limits
from broker.net.link.keys import (
    BrokerIdentity,
    Peers,
    PinnedPeer,
    PublicKey,
    format_peers,
    parse_peers,
    take_public_key,
)
from broker.net.link.wire_types import Role

ME = BrokerIdentity.from_seed(bytes(range(32)))
OTHER = BrokerIdentity.from_seed(b"o" * 32)


def key(n):
    return PublicKey(n.to_bytes(32, "big"))


def test_identity_survives_its_pem():
    again = BrokerIdentity.from_pem(ME.to_pem(), "id.pem")
    assert again.public == ME.public
    assert again.to_pem() == ME.to_pem()
    assert ME.public.verifies(again.sign(b"x"), b"x")


def test_rfc_8032_test_vector_1():
    seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    identity = BrokerIdentity.from_seed(bytes.fromhex(seed))
    assert identity.public.raw.hex() == public
    assert identity.sign(b"").hex().startswith("e5564300c360ac729086e2cc806e828a")


def other_pem():
    return X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"\0" * 100,
        ME.to_pem()[:-40],
        ME.to_pem().replace(b"M", b"N", 1),
        other_pem(),
        # The same with the number of X448, whose keys are longer.
        ME.to_pem().replace(b"MC4CAQAwBQYDK2Vw", b"MC4CAQAwBQYDK2Vv"),
    ],
    ids=["empty", "zeros", "cut", "changed", "x25519", "x448"],
)
def test_damaged_identity_is_a_set_up_error_that_names_the_file(pem):
    with pytest.raises(SetupError) as caught:
        BrokerIdentity.from_pem(pem, "/state/link/identity.pem")
    assert caught.value.where == "/state/link/identity.pem"
    assert caught.value.hint


@given(st.binary(max_size=300))
def test_any_bytes_as_pem_give_an_identity_or_a_set_up_error(data):
    with pytest.raises(SetupError):
        BrokerIdentity.from_pem(data, "x")


def test_fingerprint_tells_keys_apart_and_is_groups_of_four():
    assert ME.public.fingerprint != OTHER.public.fingerprint
    groups = ME.public.fingerprint.split("-")
    assert [len(g) for g in groups] == [4] * 8


def test_signature_of_another_key_or_message_does_not_verify():
    signature = ME.sign(b"a")
    assert not OTHER.public.verifies(signature, b"a")
    assert not ME.public.verifies(signature, b"b")
    assert not ME.public.verifies(b"", b"a")


def test_public_key_as_text():
    assert take_public_key(str(ME.public)) == ME.public


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.removeprefix("ed25519:"),
        lambda t: t[:-1],
        lambda t: t + "=",
        lambda t: t + "\n",
        lambda t: t.replace("ed25519", "rsa"),
        # the last base64 digit has bits that the 32 bytes do not use
        lambda t: t[:-2] + chr(ord(t[-2]) + 1) + "=",
        lambda t: "ed25519:",
        lambda t: "ed25519:\N{SNOWMAN}",
    ],
)
def test_only_the_one_spelling_of_a_key_is_read(change):
    with pytest.raises(RefusedError):
        take_public_key(change(str(ME.public)))


def test_peers_file_round_trip():
    peers = (
        PinnedPeer("desk", Role.HOST, key(1)),
        PinnedPeer("screen-2", Role.VIEWER, key(2)),
    )
    assert parse_peers(format_peers(peers).encode(), "p", ME.public).all == peers
    assert parse_peers(b"", "p", ME.public).all == ()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("host desk", "three words"),
        (f"host desk {key(1)} more", "three words"),
        (f"guest desk {key(1)}", "not a role"),
        (f"host Desk {key(1)}", "not the name of a broker"),
        (f"host {'d' * 32} {key(1)}", "not the name of a broker"),
        ("host desk ssh-ed25519", "not a public key"),
        (f"host desk {ME.public}", "own key"),
        (f"host one {key(1)}", "is already accepted"),
        (f"host desk {key(9)}", "is already accepted"),
        ("host d\N{LATIN SMALL LETTER E WITH ACUTE}sk x", "not ASCII"),
    ],
)
def test_a_wrong_line_refuses_the_whole_file_and_is_named(line, says):
    text = f"# head\nviewer desk {key(1)}\n{line}\n"
    with pytest.raises(SetupError, match=says) as caught:
        parse_peers(text.encode(), "/etc/peers", ME.public)
    assert caught.value.where == "/etc/peers:3"


def test_limits_of_the_peers_file():
    peers = [
        PinnedPeer(f"p{n}", Role.HOST, key(n + 1)) for n in range(limits.LINK_PEERS)
    ]
    text = format_peers(peers).encode()
    assert len(parse_peers(text, "p", ME.public).all) == limits.LINK_PEERS
    with pytest.raises(SetupError, match="more than"):
        parse_peers(text + f"host extra {key(999)}\n".encode(), "p", ME.public)
    padding = b"#" * (limits.LINK_PEERS_BYTES - len(text))
    assert parse_peers(text + padding, "p", ME.public).all
    with pytest.raises(SetupError, match="larger"):
        parse_peers(text + padding + b"#", "p", ME.public)


@given(
    st.binary(max_size=400) | st.text(max_size=200).map(lambda t: f"host {t}".encode())
)
def test_any_bytes_as_peers_file_give_peers_or_a_set_up_error(data):
    with contextlib.suppress(SetupError):
        parse_peers(data, "p", ME.public)


def test_find_add_and_remove():
    peers = Peers().with_peer(PinnedPeer("a", Role.HOST, key(1)))
    assert peers.find(key(1).raw) == peers.all[0]
    assert peers.find(key(2).raw) is None
    assert peers.without("a").find(key(1).raw) is None
    with pytest.raises(ValueError, match="32 bytes"):
        PublicKey(b"short")
