"""Attack: a data stream that the other broker did not open, or opened before.

Invariant: a preamble is taken at most once, in its epoch, by the role
that did not make it; no payload is due before the receiver's proof.
"""

from __future__ import annotations

import pytest

from broker.core.names import LeaseId
from broker.core.services import DISPLAY
from broker.net.link.epoch import Purpose, make_mac
from broker.net.link.preamble import (
    ANSWER_BYTES,
    PREAMBLE_BYTES,
    Opener,
    PreambleVerdict,
)
from broker.net.link.preamble_gate import PreambleGate, PreambleReader
from broker.net.link.wire_types import HEADER, Direction, LinkRefusedError, Role
from tests.kit.link.pair import sessions

LEASE = LeaseId("00000000000000aa")
OTHER = LeaseId("00000000000000bb")


@pytest.fixture
def ends():
    host, viewer = sessions()
    return host, viewer


def offered(host):
    return Opener(host).open(DISPLAY, LEASE)


def test_replayed(ends):
    host, viewer = ends
    gate, offer = PreambleGate(viewer), offered(host)
    gate.check(offer.preamble)
    for _ in range(3):
        with pytest.raises(LinkRefusedError, match="replayed"):
            gate.check(offer.preamble)


def test_forged_without_the_key(ends):
    host, viewer = ends
    signed = offered(host).preamble[:48]
    for key in (bytes(32), host.epoch * 2):
        with pytest.raises(LinkRefusedError, match="forged"):
            PreambleGate(viewer).check(signed + make_mac(key, signed))


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("direction", Direction)
def test_no_other_key_of_the_session_makes_a_preamble(ends, purpose, direction):
    host, viewer = ends
    signed = offered(host).preamble[:48]
    made = signed + make_mac(host.key(purpose, direction), signed)
    if (purpose, direction) == (Purpose.STREAM, Direction.TO_VIEWER):
        PreambleGate(viewer).check(made)
    else:
        with pytest.raises(LinkRefusedError, match="forged"):
            PreambleGate(viewer).check(made)


def test_lease_and_service_cannot_be_exchanged(ends):
    host, viewer = ends
    one = offered(host).preamble
    two = Opener(host).open(DISPLAY, OTHER).preamble
    gate = PreambleGate(viewer)
    with pytest.raises(LinkRefusedError, match="forged"):
        gate.check(one[:40] + two[40:48] + one[48:])
    with pytest.raises(LinkRefusedError, match="forged"):
        gate.check(one[:36] + b"\x64\x19\0\0" + one[40:])


def test_truncated_at_each_byte(ends):
    whole = offered(ends[0]).preamble
    for size in range(PREAMBLE_BYTES):
        reader = PreambleReader()
        assert reader.feed(whole[:size]) is None
        with pytest.raises(LinkRefusedError, match="truncated"):
            reader.eof()
        assert reader.needed == 0


def test_reflected(ends):
    host, _ = ends
    offer = offered(host)
    with pytest.raises(LinkRefusedError, match="reflected"):
        PreambleGate(host).check(offer.preamble)


def test_reflected_with_the_role_turned_around(ends):
    """The key of the other direction is another one."""
    host, _ = ends
    offer = offered(host)
    magic, version, kind, _ = HEADER.unpack_from(offer.preamble)
    head = HEADER.pack(magic, version, kind, Role.VIEWER)
    with pytest.raises(LinkRefusedError, match="forged"):
        PreambleGate(host).check(head + offer.preamble[HEADER.size :])


def test_old_epoch_after_a_reconnect(ends):
    host, _ = ends
    _, new_viewer = sessions(seed=2)
    with pytest.raises(LinkRefusedError, match="another epoch"):
        PreambleGate(new_viewer).check(offered(host).preamble)


def test_old_preamble_with_the_new_epoch_written_in(ends):
    host, _ = ends
    _, new_viewer = sessions(seed=2)
    preamble = offered(host).preamble
    patched = preamble[:12] + new_viewer.epoch + preamble[28:]
    with pytest.raises(LinkRefusedError, match="forged"):
        PreambleGate(new_viewer).check(patched)


def test_a_forger_uses_up_no_numbers(ends):
    host, viewer = ends
    gate, offer = PreambleGate(viewer), offered(host)
    for number in range(1, 3000):
        fake = offer.preamble[:28] + number.to_bytes(8, "little") + bytes(44)
        with pytest.raises(LinkRefusedError):
            gate.check(fake)
    gate.check(offer.preamble)


def test_a_squatter_that_answers_anything_at_all(ends):
    """Its preamble reflected, zeros, an answer to another stream: no verdict."""
    host, viewer = ends
    gate = PreambleGate(viewer)
    old = offered(host)
    gate.check(old.preamble)
    old_answer = gate.answer(old.preamble, PreambleVerdict.TAKEN)
    opener = Opener(host)
    opener.open(DISPLAY, LEASE)
    for answer in (
        bytes(ANSWER_BYTES),
        b"\x01" + bytes(ANSWER_BYTES - 1),
        old_answer,
        b"\x01\0\0\0" + opener.open(DISPLAY, LEASE).preamble[48:],
    ):
        offer = opener.open(DISPLAY, LEASE)
        with pytest.raises(LinkRefusedError, match="not the paired broker"):
            offer.feed(answer)
        assert offer.verdict is None


def test_a_denied_stream_s_answer_cannot_be_turned_into_a_taken_one(ends):
    host, viewer = ends
    gate, offer = PreambleGate(viewer), offered(host)
    gate.check(offer.preamble)
    answer = bytearray(gate.answer(offer.preamble, PreambleVerdict.DENIED))
    answer[0] = PreambleVerdict.TAKEN
    with pytest.raises(LinkRefusedError):
        offer.feed(bytes(answer))


def test_payload_is_never_read_in_front_of_the_answer(ends):
    """The reader asks for the preamble only; what follows stays in the kernel."""
    reader = PreambleReader()
    whole = offered(ends[0]).preamble
    while reader.needed:
        chunk, whole = whole[: min(7, reader.needed)], whole[min(7, reader.needed) :]
        reader.feed(chunk)
    assert whole == b""
