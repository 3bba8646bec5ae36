"""Attack: a man in the middle of a pairing.

Invariant: he gets one blind guess at each screen; no work of his makes the
two codes agree, and a code typed from the other screen never pins his key
unless he guessed it.
"""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import trio

from broker.cli.link import pair
from broker.cli.link.pairing.protocol import Pairing, PairingState
from broker.core.errors import UpstreamError
from broker.core.limits import link as limits
from broker.net.addresses import UnixEndpoint
from broker.net.link.keys import BrokerIdentity
from broker.net.link.wire_types import LinkRefusedError, RefusalReason, Role
from broker.net.link_service.config import LinkConfig
from tests.kit.link.pair import (
    HOST_ID,
    MALLORY_ID,
    VIEWER_ID,
    Wire,
    must_not_hang,
    pairings,
)


def machine(role, identity, *, dials, seed):
    return Pairing(
        role=role, dials=dials, identity=identity, random=random.Random(seed).randbytes
    )


def run(one, two):
    two.feed(one.feed(two.feed(one.start())))


def in_the_middle(seed):
    """Host – Mallory – viewer, each leg a perfect pairing."""
    host = machine(Role.HOST, HOST_ID, dials=True, seed=seed)
    left = machine(Role.VIEWER, MALLORY_ID, dials=False, seed=seed + 1)
    right = machine(Role.HOST, MALLORY_ID, dials=True, seed=seed + 2)
    viewer = machine(Role.VIEWER, VIEWER_ID, dials=False, seed=seed + 3)
    run(host, left)
    run(right, viewer)
    return host, viewer


def test_both_screens_differ_and_the_typed_code_ends_it():
    for seed in range(0, 400, 4):
        host, viewer = in_the_middle(seed)
        assert host.state is viewer.state is PairingState.COMPARE
        for here, there in ((host, viewer), (viewer, host)):
            code = there.code
            if code is None:  # the other end has refused already
                continue
            with pytest.raises(LinkRefusedError) as caught:
                here.confirm(code)
            assert caught.value.reason is RefusalReason.PERSON
        assert host.peer_key is viewer.peer_key is None


def test_a_nonce_chosen_after_seeing_the_other_one_is_refused():
    """What the commitment is for: without it this search takes a second."""
    viewer = machine(Role.VIEWER, VIEWER_ID, dials=False, seed=1)
    mallory = machine(Role.HOST, MALLORY_ID, dials=True, seed=2)
    nonce = viewer.feed(mallory.start())
    mallory._nonce = bytes(32)  # another one than committed to
    with pytest.raises(LinkRefusedError, match="differs from its commitment") as caught:
        viewer.feed(mallory.feed(nonce))
    assert caught.value.reason is RefusalReason.PROOF


def test_a_key_chosen_after_the_commitment_is_refused():
    viewer = machine(Role.VIEWER, VIEWER_ID, dials=False, seed=1)
    mallory = machine(Role.HOST, MALLORY_ID, dials=True, seed=2)
    nonce = viewer.feed(mallory.start())
    mallory._identity = BrokerIdentity.from_seed(b"z" * 32)
    with pytest.raises(LinkRefusedError, match="differs from its commitment"):
        viewer.feed(mallory.feed(nonce))


def test_the_acceptor_s_code_cannot_be_steered_by_the_dialler_s_search(monkeypatch):
    """The search that works with three digits and no commitment fails with it.

    Shown at 10**3: an attacker who may choose his nonce last finds a match;
    one who is bound by his commitment hits about one time in a thousand.
    """
    monkeypatch.setattr(limits, "PAIRING_DIGITS", 3)
    hits = 0
    for seed in range(0, 4000, 4):
        host, viewer = in_the_middle(seed)
        hits += host.code == viewer._code(by_dialler=True)
    assert hits <= 8  # 1000 runs, expectation 1; 9 or more: one in a million


async def test_no_code_is_drawn_again_and_again(tmp_path, monkeypatch):
    """He leaves when he has seen the acceptor's nonce, and so its code, and comes back.

    Meanwhile the host shows its code and waits: he would draw until the viewer's screen
    is to show what the host expects, a million times in five minutes.
    """
    path = tmp_path / "meet"
    store = SimpleNamespace(identity=lambda: VIEWER_ID)
    drawn, waits = [], trio.Event()
    monkeypatch.setattr(pair.render, "note", lambda _text: waits.set())

    async def draw():
        for seed in range(10):
            mallory = machine(Role.HOST, MALLORY_ID, dials=True, seed=seed)
            try:
                async with await trio.open_unix_socket(path) as stream:
                    await stream.send_all(mallory.start())
                    mallory.feed(await stream.receive_some(76))
            except (OSError, trio.BrokenResourceError):
                return  # the run has ended
            drawn.append(mallory._code(by_dialler=False))

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def let_in():
            config = LinkConfig(UnixEndpoint(path))
            with pytest.raises(
                UpstreamError, match="the pairing ended before its codes were known"
            ):
                await pair._pair(config, Role.VIEWER, store)

        await waits.wait()
        await draw()
        nursery.cancel_scope.cancel()
    assert len(drawn) == 1


def test_each_changed_byte_leads_to_no_pin():
    """With honest people: either refused at once, or the codes differ."""
    for message, size in enumerate((44, 76, 76, 76)):
        for at in range(size):
            wire = Wire(*pairings())
            for step in range(min(message, 3)):
                wire.deliver(1 - step % 2, 10**6)
            if message == 3:  # the first CONFIRM
                one, two = wire.ends
                code = two.code
                wire.call(0, lambda end=one, typed=code: end.confirm(typed))
            towards = 1 if message in (0, 2, 3) else 0
            wire.held[towards][at] ^= 0x40
            wire.run()
            for end in (0, 1):
                here, there = wire.ends[end], wire.ends[1 - end]
                ready = here.state in (
                    PairingState.COMPARE,
                    PairingState.CONFIRMED_THERE,
                )
                if ready and there.code:
                    code = there.code
                    wire.call(end, lambda here=here, typed=code: here.confirm(typed))
                    wire.run()
            must_not_hang(wire)
            assert [end.peer_key for end in wire.ends] == [None, None], (message, at)


def test_our_own_messages_sent_back():
    dialler, _ = pairings()
    commit = dialler.start()
    with pytest.raises(LinkRefusedError):
        dialler.feed(commit)
    # the same key in the other role: our key was copied
    host = machine(Role.HOST, HOST_ID, dials=True, seed=1)
    twin = machine(Role.VIEWER, HOST_ID, dials=False, seed=2)
    with pytest.raises(LinkRefusedError, match="own key"):
        host.feed(twin.feed(host.start()))


def test_a_confirm_of_another_run_or_another_end_is_refused():
    def shown(seed):
        ends = pairings(seed)
        run(*ends)
        return ends

    one, two = shown(1)
    other_one, other_two = shown(2)
    with pytest.raises(LinkRefusedError) as caught:
        two.feed(other_one.confirm(other_two.code))
    assert caught.value.reason is RefusalReason.PROOF
    one, two = shown(1)
    mine = two.confirm(one.code)
    flipped = mine[:11] + bytes([Role.HOST]) + mine[12:]
    with pytest.raises(LinkRefusedError):
        two.feed(flipped)


def test_key_without_its_private_half_is_not_pinned():
    """Mallory shows the host's true public key and cannot confirm with it."""
    viewer = machine(Role.VIEWER, VIEWER_ID, dials=False, seed=1)
    identity = BrokerIdentity(MALLORY_ID._private)
    identity.public = HOST_ID.public
    fake = machine(Role.HOST, identity, dials=True, seed=2)
    run(fake, viewer)
    viewer.confirm(fake.code)
    with pytest.raises(LinkRefusedError, match="does not have the private key"):
        viewer.feed(fake.confirm(viewer.code))
    assert viewer.peer_key is None
