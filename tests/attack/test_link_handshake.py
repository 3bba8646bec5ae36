"""Attack: get a session on the link without a pinned key, or tell ends apart.

Invariant: a session names the peer that holds the pinned private key now, and
two ends that have sessions of one connection have the same one.
"""

from __future__ import annotations

import time

import pytest

from broker.net.link.handshake import Fresh, Handshake, HandshakeState
from broker.net.link.keys import BrokerIdentity, Peers, PinnedPeer, PublicKey
from broker.net.link.wire_types import HEADER, LinkRefusedError, RefusalReason, Role
from tests.kit.link.pair import (
    HOST_ID,
    KNOWN_TO_HOST,
    KNOWN_TO_VIEWER,
    MALLORY_ID,
    VIEWER_ID,
    Wire,
    handshakes,
    must_not_hang,
    sessions,
)


def conversation():
    """The four messages of an honest handshake."""
    dialler, acceptor = handshakes()
    hello = dialler.start()
    reply = acceptor.feed(hello)
    proof = dialler.feed(reply)
    ready = acceptor.feed(proof)
    return [hello, reply, proof, ready]


LENGTHS = [len(message) for message in conversation()]


@pytest.mark.parametrize("message", range(4), ids=["HELLO", "REPLY", "PROOF", "READY"])
def test_each_changed_bit_of_each_byte_is_refused(message):
    for at in range(LENGTHS[message]):
        for bit in (0, 7):
            wire = Wire(*handshakes())
            towards = 1 - message % 2
            for step in range(message):
                wire.deliver(1 - step % 2, 10**6)
            wire.held[towards][at] ^= 1 << bit
            wire.run()
            must_not_hang(wire)
            dialler, acceptor = wire.ends
            assert dialler.session is None
            # Only READY is after the acceptor's own decision.
            assert (acceptor.session is None) is (message != 3)


@pytest.mark.parametrize("message", range(4), ids=["HELLO", "REPLY", "PROOF", "READY"])
def test_each_truncation_is_a_refusal_and_not_a_wait(message):
    for size in range(LENGTHS[message]):
        wire = Wire(*handshakes())
        for step in range(message):
            wire.deliver(1 - step % 2, 10**6)
        del wire.held[1 - message % 2][size:]
        wire.run()
        must_not_hang(wire)
        assert wire.ends[0].session is None


def test_a_recorded_handshake_replayed_to_the_acceptor():
    old = conversation()
    _, acceptor = handshakes(seed=7)  # another fresh key
    acceptor.feed(old[0])
    with pytest.raises(LinkRefusedError) as caught:
        acceptor.feed(old[2])
    assert caught.value.reason is RefusalReason.PROOF


def test_a_recorded_handshake_replayed_to_the_dialler():
    old = conversation()
    dialler, _ = handshakes(seed=7)
    dialler.start()
    with pytest.raises(LinkRefusedError) as caught:
        dialler.feed(old[1])
    assert caught.value.reason is RefusalReason.PROOF


def test_everything_reflected():
    dialler, acceptor = handshakes()
    hello = dialler.start()
    with pytest.raises(LinkRefusedError):
        dialler.feed(hello)
    reply = acceptor.feed(conversation()[0])
    with pytest.raises(LinkRefusedError):
        acceptor.feed(reply)


def test_the_dialler_s_own_hello_dressed_up_as_a_reply():
    """Role and kind turned around, our own key and curve point sent back."""
    dialler, _ = handshakes()
    hello = dialler.start()
    magic, version, _, _ = HEADER.unpack_from(hello)
    head = HEADER.pack(magic, version, 2, Role.VIEWER)
    with pytest.raises(LinkRefusedError) as caught:
        dialler.feed(head + hello[HEADER.size :] + bytes(96))
    assert caught.value.reason is RefusalReason.UNKNOWN_KEY


def mallory(role, shows, *, dials, peers):
    """Speaks the protocol perfectly, shows another's public key."""
    identity = BrokerIdentity(MALLORY_ID._private)
    identity.public = shows
    return Handshake(
        role=role,
        dials=dials,
        identity=identity,
        peers=peers,
        fresh=Fresh.make(lambda n: b"M" * n),
    )


@pytest.mark.parametrize("shows", [HOST_ID.public, MALLORY_ID.public])
def test_a_stranger_that_dials_the_viewer(shows):
    _, viewer = handshakes()
    wire = Wire(mallory(Role.HOST, shows, dials=True, peers=KNOWN_TO_HOST), viewer)
    wire.run()
    assert viewer.session is None
    known = shows == HOST_ID.public
    assert wire.refused[1].reason is (
        RefusalReason.PROOF if known else RefusalReason.UNKNOWN_KEY
    )


@pytest.mark.parametrize("shows", [VIEWER_ID.public, MALLORY_ID.public])
def test_a_squatter_that_accepts_in_the_viewer_s_place(shows):
    host, _ = handshakes()
    fake = mallory(Role.VIEWER, shows, dials=False, peers=KNOWN_TO_VIEWER)
    wire = Wire(host, fake)
    wire.run()
    assert host.session is None
    assert fake.session is None


def test_a_man_in_the_middle_with_keys_of_his_own_on_both_sides():
    host, viewer = handshakes()
    to_host = mallory(Role.VIEWER, VIEWER_ID.public, dials=False, peers=KNOWN_TO_VIEWER)
    to_viewer = mallory(Role.HOST, HOST_ID.public, dials=True, peers=KNOWN_TO_HOST)
    for wire in (Wire(host, to_host), Wire(to_viewer, viewer)):
        wire.run()
    assert host.session is viewer.session is None


def test_a_man_in_the_middle_who_swaps_only_the_fresh_keys():
    """Signatures cover them: passing on the true signatures does not help."""
    dialler, acceptor = handshakes()
    hello = bytearray(dialler.start())
    other = Fresh.make(lambda n: b"S" * n).private.public_key().public_bytes_raw()
    hello[44:76] = other
    reply = bytearray(acceptor.feed(bytes(hello)))
    reply[44:76] = other
    with pytest.raises(LinkRefusedError) as caught:
        dialler.feed(bytes(reply))
    assert caught.value.reason is RefusalReason.PROOF


@pytest.mark.parametrize(
    "point", [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"]
)
def test_points_of_small_order_give_no_secret(point):
    dialler, acceptor = handshakes()
    hello = bytearray(dialler.start())
    hello[44:76] = point
    with pytest.raises(LinkRefusedError) as caught:
        acceptor.feed(bytes(hello))
    assert caught.value.reason is RefusalReason.PROOF


def test_identity_is_not_misbound_to_another_pinned_peer():
    """A second pinned host relays the first one's handshake as its own."""
    peers = Peers(
        (
            PinnedPeer("desk", Role.HOST, HOST_ID.public),
            PinnedPeer("evil", Role.HOST, MALLORY_ID.public),
        )
    )
    viewer = Handshake(
        role=Role.VIEWER,
        dials=False,
        identity=VIEWER_ID,
        peers=peers,
        fresh=Fresh.make(lambda n: b"F" * n),
    )
    host, _ = handshakes()
    hello = bytearray(host.start())
    hello[12:44] = MALLORY_ID.public.raw
    reply = viewer.feed(bytes(hello))
    with pytest.raises(LinkRefusedError):  # it signed that it speaks to evil
        host.feed(reply)
    assert viewer.session is None


def test_a_pinned_key_of_zeros_is_refused():
    """All-zero Ed25519 keys are of small order; none of our signatures has it."""
    weak = Peers((PinnedPeer("weak", Role.HOST, PublicKey(bytes(32))),))
    viewer = Handshake(
        role=Role.VIEWER,
        dials=False,
        identity=VIEWER_ID,
        peers=weak,
        fresh=Fresh.make(lambda n: b"F" * n),
    )
    fake = mallory(Role.HOST, PublicKey(bytes(32)), dials=True, peers=KNOWN_TO_HOST)
    wire = Wire(fake, viewer)
    wire.run()
    assert viewer.session is None


def test_ten_thousand_strangers_cost_no_curve():
    """10,000 HELLOs of unknown keys: table look-ups, well under a second."""
    hello = bytearray(handshakes()[0].start())
    hello[12:44] = MALLORY_ID.public.raw
    fresh = Fresh.make(lambda n: b"F" * n)
    began = time.process_time()
    for _ in range(10_000):
        viewer = Handshake(
            role=Role.VIEWER,
            dials=False,
            identity=VIEWER_ID,
            peers=KNOWN_TO_VIEWER,
            fresh=fresh,
        )
        with pytest.raises(LinkRefusedError):
            viewer.feed(bytes(hello))
        assert viewer.state is HandshakeState.REFUSED
        assert viewer._shared == b""
    assert time.process_time() - began < 5  # 10,000 signatures alone are slower


def test_sessions_of_two_connections_have_nothing_in_common():
    one, two = sessions(1)[0], sessions(2)[0]
    assert one.epoch != two.epoch
    assert not set(one._keys.values()) & set(two._keys.values())
