"""Pairing: two people, two codes, and both ends know each other or neither."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker.cli.link.pairing.protocol import (
    SIZES,
    TABLE,
    MessageKind,
    Pairing,
    PairingState,
)
from broker.core.errors import InternalError
from broker.core.limits import link as limits
from broker.net.link.wire_types import (
    ConnectionKind,
    LinkRefusedError,
    RefusalReason,
    Role,
    refusal,
)
from tests.kit.link.hostile_wire import HostileWire
from tests.kit.link.pair import HOST_ID, VIEWER_ID, Wire, pairings


def shown(seed=0, **kw):
    """Both ends with their codes on the screen."""
    dialler, acceptor = pairings(seed, **kw)
    acceptor.feed(dialler.feed(acceptor.feed(dialler.start())))
    return dialler, acceptor


@pytest.mark.parametrize("host_dials", [True, False])
@pytest.mark.parametrize("first", [0, 1])
def test_both_learn_the_right_key_in_either_order(host_dials, first):
    ends = shown(host_dials=host_dials)
    one, two = ends[first], ends[1 - first]
    assert one.state is two.state is PairingState.COMPARE
    assert one.peer_key is two.peer_key is None
    confirm = one.confirm(two.code)
    assert one.state is PairingState.CONFIRMED
    two.feed(confirm)
    assert two.state is PairingState.CONFIRMED_THERE
    assert two.peer_key is None  # the person here has not confirmed
    one.feed(two.confirm(one.code))
    assert one.state is two.state is PairingState.PAIRED
    keys = {HOST_ID.public, VIEWER_ID.public}
    assert {one.peer_key, two.peer_key} == keys
    one.eof()


def test_codes_are_digits_and_differ_by_direction_and_run():
    seen = set()
    for seed in range(50):
        ends = shown(seed)
        for end in ends:
            assert end.code.isdecimal()
            assert len(end.code) == limits.PAIRING_DIGITS == 6
            seen.add(end.code)
    assert len(seen) > 95


def test_codes_are_spread_evenly():
    digits = "".join(end.code for seed in range(400) for end in shown(seed))
    counts = [digits.count(str(d)) for d in range(10)]
    assert min(counts) > 0.8 * len(digits) / 10


def test_spaces_and_dashes_do_not_matter():
    one, two = shown()
    code = two.code
    one.confirm(f" {code[:3]}-{code[3:]} ")
    assert one.state is PairingState.CONFIRMED


@pytest.mark.parametrize(
    "typed", ["", "own", "000000", "\N{ARABIC-INDIC DIGIT ONE}", "x" * 1000]
)
def test_one_wrong_code_ends_the_run_on_both_ends(typed):
    one, two = shown()
    with pytest.raises(LinkRefusedError) as caught:
        one.confirm(one.code if typed == "own" else typed)
    assert caught.value.reason is RefusalReason.PERSON
    assert one.state is PairingState.REFUSED
    with pytest.raises(LinkRefusedError, match="user did not confirm"):
        two.feed(caught.value.answer)
    with pytest.raises(InternalError):
        one.confirm(two.code)
    assert one.peer_key is two.peer_key is None
    assert one.code is None


def test_reject_without_typing():
    one, two = shown()
    error = one.reject()
    with pytest.raises(LinkRefusedError):
        two.feed(error.answer)
    with pytest.raises(LinkRefusedError, match="has ended"):
        one.feed(b"")


def test_no_code_before_both_nonces_are_known():
    dialler, acceptor = pairings()
    assert dialler.code is acceptor.code is None
    nonce = acceptor.feed(dialler.start())
    assert acceptor.code is acceptor.peer_fingerprint is None
    opened = dialler.feed(nonce)
    assert dialler.code is not None
    assert dialler.peer_fingerprint == VIEWER_ID.public.fingerprint
    acceptor.feed(opened)
    assert acceptor.code is not None


def test_misuse_is_our_own_fault():
    dialler, acceptor = pairings()
    with pytest.raises(InternalError):
        dialler.feed(b"x")
    with pytest.raises(InternalError):
        acceptor.start()
    with pytest.raises(InternalError):
        acceptor.confirm("000000")


def test_the_table_refuses_missing_keys():
    for state in PairingState:
        for kind in MessageKind:
            if (state, kind) in TABLE or state is PairingState.NEW:
                continue
            machine, _ = pairings()
            machine.state = state
            head = refusal(
                ConnectionKind.PAIRING, kind, Role.VIEWER, RefusalReason.BUSY
            )[:12]
            with pytest.raises(LinkRefusedError):
                machine.feed(head.ljust(SIZES[kind], b"\0"))
            # what two people have confirmed is not undone by a late byte
            assert machine.state is (
                PairingState.PAIRED
                if state is PairingState.PAIRED
                else PairingState.REFUSED
            )


def test_one_role_twice_refuses_both():
    def make(identity, dials):
        return Pairing(
            role=Role.HOST, dials=dials, identity=identity, random=lambda n: b"r" * n
        )

    wire = Wire(make(HOST_ID, dials=True), make(VIEWER_ID, dials=False))
    wire.run()
    assert [e.reason for e in wire.refused] == [RefusalReason.ROLE] * 2


@given(st.lists(st.binary(max_size=100), max_size=5), st.booleans())
def test_any_bytes_end_in_a_refusal(chunks, dials):
    machine = pairings()[0 if dials else 1]
    if dials:
        machine.start()
    with pytest.raises(LinkRefusedError):  # noqa: PT012  whichever chunk it is
        for chunk in chunks:
            machine.feed(chunk)
        machine.eof()
    assert machine.state is PairingState.REFUSED
    assert machine.code is None


class PairingMachine(HostileWire):
    """People type codes or not."""

    ends = staticmethod(pairings)

    @precondition(lambda self: self.wire)
    @rule(end=st.integers(0, 1))
    def person_types(self, end):
        """An honest person types what the other screen shows, if it shows one."""
        here, there = self.wire.ends[end], self.wire.ends[1 - end]
        if (
            here.state in {PairingState.COMPARE, PairingState.CONFIRMED_THERE}
            and there.code
        ):
            code = there.code
            self.wire.call(end, lambda: here.confirm(code))

    @invariant()
    def only_right_keys(self):
        if self.wire is None:
            return
        for end in (0, 1):
            key = self.wire.ends[end].peer_key
            other = self.wire.ends[1 - end]
            assert key in (None, other._identity.public)
            if key is not None:
                assert other.state in {
                    PairingState.CONFIRMED,
                    PairingState.PAIRED,
                    PairingState.REFUSED,
                }


def test_pairing_as_a_state_machine():
    run_state_machine_as_test(PairingMachine, settings=settings(stateful_step_count=30))


@pytest.mark.long
def test_pairing_as_a_state_machine_long():
    run_state_machine_as_test(
        PairingMachine, settings=settings(max_examples=3000, stateful_step_count=40)
    )
