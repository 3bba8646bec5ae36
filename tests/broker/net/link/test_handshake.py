"""The handshake: both ends agree, or both refuse; nothing hangs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, run_state_machine_as_test

from broker.core.errors import InternalError
from broker.net.link.handshake import (
    SIZES,
    TABLE,
    Fresh,
    Handshake,
    HandshakeKind,
    HandshakeState,
)
from broker.net.link.keys import Peers, PinnedPeer
from broker.net.link.wire_types import (
    VERSION,
    ConnectionKind,
    LinkRefusedError,
    RefusalReason,
    Role,
    refusal,
)
from tests.kit.link.hostile_wire import HostileWire
from tests.kit.link.pair import (
    HOST_ID,
    KNOWN_TO_VIEWER,
    VIEWER_ID,
    Wire,
    handshakes,
    sessions,
)


def agree(one, two):
    assert one.epoch == two.epoch
    assert one._keys == two._keys
    assert {one.role, two.role} == set(Role)
    assert one.peer.role is two.role


@pytest.mark.parametrize("host_dials", [True, False])
def test_both_ends_agree_in_either_direction(host_dials):
    host, viewer = sessions(host_dials=host_dials)
    agree(host, viewer)
    assert host.peer.name == "screen"
    assert viewer.peer.name == "desk"
    assert len(set(host._keys.values())) == 6  # a key of its own for each use
    assert len(host.epoch) == 16


def test_keys_do_not_appear_in_a_session_s_repr():
    host, _ = sessions()
    assert not any(key.hex() in repr(host) for key in host._keys.values())
    assert "_keys" not in repr(host)


def test_every_handshake_is_another_epoch_with_other_keys():
    one, _ = sessions(1)
    two, _ = sessions(2)
    assert one.epoch != two.epoch
    assert not set(one._keys.values()) & set(two._keys.values())


def test_message_sizes_are_the_documented_ones():
    assert SIZES == {1: 84, 2: 180, 3: 108, 4: 44, 5: 13}


@given(st.integers(1, 200))
def test_chunks_do_not_matter(size):
    wire = Wire(*handshakes())
    wire.run(size)
    assert wire.refused == [None, None]
    agree(wire.ends[0].session, wire.ends[1].session)


def test_bytes_behind_the_last_message_are_the_control_channel_s():
    dialler, acceptor = handshakes()
    out = dialler.feed(acceptor.feed(dialler.start()))
    ready = acceptor.feed(out + b"early")
    assert acceptor.rest() == b"early"
    assert dialler.feed(ready + b"record") == b""
    assert dialler.rest() == b"record"
    with pytest.raises(InternalError):
        dialler.feed(b"x")


def test_a_changed_last_message_gives_the_dialler_no_session():
    dialler, acceptor = handshakes()
    ready = bytearray(acceptor.feed(dialler.feed(acceptor.feed(dialler.start()))))
    ready[-1] ^= 1
    with pytest.raises(LinkRefusedError):
        dialler.feed(bytes(ready))
    assert dialler.session is None


def test_the_dialler_has_a_session_only_after_the_acceptor():
    dialler, acceptor = handshakes()
    proof = dialler.feed(acceptor.feed(dialler.start()))
    assert dialler.session is None
    ready = acceptor.feed(proof)
    assert acceptor.session is not None
    assert dialler.session is None
    dialler.feed(ready)
    assert dialler.session is not None


def test_the_table_has_no_way_out_of_an_end_and_refuses_missing_keys():
    assert not {s for s, _ in TABLE} & {
        HandshakeState.SESSION,
        HandshakeState.REFUSED,
        HandshakeState.NEW,
    }
    for state in HandshakeState:
        for kind in HandshakeKind:
            if (state, kind) in TABLE or state in {
                HandshakeState.NEW,
                HandshakeState.SESSION,
            }:
                continue
            machine, _ = handshakes()
            machine.state = state
            head = refusal(
                ConnectionKind.CONTROL, kind, Role.VIEWER, RefusalReason.BUSY
            )[:12]
            with pytest.raises(LinkRefusedError):
                machine.feed(head.ljust(SIZES[kind], b"\0"))
            assert machine.state is HandshakeState.REFUSED


def test_misuse_is_our_own_fault():
    dialler, acceptor = handshakes()
    with pytest.raises(InternalError):
        dialler.feed(b"x")
    with pytest.raises(InternalError):
        acceptor.start()
    with pytest.raises(InternalError):
        acceptor.rest()


def refuse_reasons(dialler, acceptor):
    wire = Wire(dialler, acceptor)
    wire.run()
    assert [end.session for end in wire.ends] == [None, None]
    return [error.reason for error in wire.refused]


def make(role, identity, peers, *, dials, seed):
    return Handshake(
        role=role,
        dials=dials,
        identity=identity,
        peers=peers,
        fresh=Fresh.make(lambda n: bytes([seed]) * n),
    )


def test_two_of_one_role_refuse_and_both_are_told():
    known = Peers((PinnedPeer("x", Role.VIEWER, VIEWER_ID.public),))
    one = make(Role.HOST, HOST_ID, known, dials=True, seed=1)
    two = make(Role.HOST, VIEWER_ID, KNOWN_TO_VIEWER, dials=False, seed=2)
    wire = Wire(one, two)
    wire.run()
    assert [error.reason for error in wire.refused] == [
        RefusalReason.ROLE,
        RefusalReason.ROLE,
    ]
    assert "both brokers claim to be the host" in wire.refused[1].message


def test_a_key_pinned_for_one_role_is_not_accepted_in_the_other():
    wrong = Peers((PinnedPeer("x", Role.VIEWER, HOST_ID.public),))
    dialler, _ = handshakes()
    acceptor = make(Role.VIEWER, VIEWER_ID, wrong, dials=False, seed=3)
    assert refuse_reasons(dialler, acceptor) == [RefusalReason.ROLE, RefusalReason.ROLE]


def test_unknown_dialler_is_refused_before_any_curve_and_told_to_pair():
    dialler, _ = handshakes()
    acceptor = make(Role.VIEWER, VIEWER_ID, Peers(), dials=False, seed=3)
    wire = Wire(dialler, acceptor)
    wire.run()
    assert [e.reason for e in wire.refused] == [RefusalReason.UNKNOWN_KEY] * 2
    assert all("brokerctl pair" in e.hint for e in wire.refused)
    assert acceptor._shared == b""


def test_unknown_acceptor_is_refused_by_the_dialler():
    dialler = make(Role.HOST, HOST_ID, Peers(), dials=True, seed=1)
    _, acceptor = handshakes()
    assert refuse_reasons(dialler, acceptor) == [RefusalReason.UNKNOWN_KEY] * 2


def test_another_version_is_told_to_both_ends(monkeypatch):
    dialler, acceptor = handshakes()
    hello = bytearray(dialler.start())
    hello[8] = 9
    with pytest.raises(LinkRefusedError, match="version 9") as caught:
        acceptor.feed(bytes(hello))
    # An end of version 9 reads our version in the header of our refusal.
    assert caught.value.answer[8:10] == VERSION.to_bytes(2, "little")
    with pytest.raises(LinkRefusedError, match="another version"):
        dialler.feed(caught.value.answer)


def test_a_refusal_is_not_answered_by_a_refusal():
    dialler, _ = handshakes()
    dialler.start()
    message = refusal(
        ConnectionKind.CONTROL, HandshakeKind.REFUSED, Role.VIEWER, RefusalReason.BUSY
    )
    with pytest.raises(LinkRefusedError) as caught:
        dialler.feed(message)
    assert caught.value.answer == b""
    assert caught.value.reason is RefusalReason.BUSY
    with pytest.raises(LinkRefusedError) as caught:
        dialler.feed(b"more")
    assert caught.value.answer == b""


@given(st.lists(st.binary(max_size=100), max_size=5), st.booleans())
def test_any_bytes_end_in_a_refusal(chunks, dials):
    machine = handshakes()[0 if dials else 1]
    if dials:
        machine.start()
    with pytest.raises(LinkRefusedError):  # noqa: PT012  whichever chunk it is
        for chunk in chunks:
            machine.feed(chunk)
        machine.eof()
    assert machine.state is HandshakeState.REFUSED
    assert machine.session is None


class HandshakeMachine(HostileWire):
    """After the READY, what is injected is no longer the handshake's."""

    ends = staticmethod(handshakes)

    @invariant()
    def ends_agree(self):
        if self.wire is None:
            return
        dialler, acceptor = (end.session for end in self.wire.ends)
        if dialler is not None:
            assert acceptor is not None, "the dialler is never alone"
            agree(dialler, acceptor)

    def teardown(self):
        if self.wire is not None and not self.touched:
            self.wire.run()
            assert self.wire.refused == [None, None]
            assert all(end.session for end in self.wire.ends)
        super().teardown()


def test_handshake_as_a_state_machine():
    run_state_machine_as_test(
        HandshakeMachine, settings=settings(stateful_step_count=25)
    )


@pytest.mark.long
def test_handshake_as_a_state_machine_long():
    run_state_machine_as_test(
        HandshakeMachine, settings=settings(max_examples=1500, stateful_step_count=40)
    )
