"""Stream preambles, their answers, and the window of numbers."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker.core.errors import InternalError, RefusedError
from broker.core.limits import link as limits
from broker.core.names import LeaseId
from broker.core.services import AGENT, DISPLAY, PORTS
from broker.net.link.preamble import (
    ANSWER_BYTES,
    PREAMBLE_BYTES,
    Opener,
    PreambleVerdict,
)
from broker.net.link.preamble_gate import CounterWindow, PreambleGate, PreambleReader
from broker.net.link.wire_types import LinkRefusedError, RefusalReason, Role
from tests.kit.link.pair import sessions

LEASE = LeaseId("0123456789abcdef")


def both(seed=0):
    host, viewer = sessions(seed)
    return Opener(host), PreambleGate(viewer)


def test_sizes_are_the_documented_ones():
    assert (PREAMBLE_BYTES, ANSWER_BYTES) == (80, 36)


@pytest.mark.parametrize("opened_by", Role)
@pytest.mark.parametrize("service", list(PORTS))
def test_a_stream_opened_by_either_side_is_known_at_the_other(opened_by, service):
    ends = {session.role: session for session in sessions()}
    opener, gate = Opener(ends[opened_by]), PreambleGate(ends[opened_by.other])
    for number in (1, 2, 3):
        offer = opener.open(service, LEASE)
        asked = gate.check(offer.preamble)
        assert (asked.opened_by, asked.number) == (opened_by, number)
        assert (asked.service, asked.lease) == (service, LEASE)
        assert opener.last == number
        for verdict in PreambleVerdict:
            again = type(offer)(offer.preamble, offer._key)
            assert again.feed(gate.answer(offer.preamble, verdict)) is verdict


def test_every_single_byte_counts():
    opener, _ = both()
    whole = opener.open(DISPLAY, LEASE).preamble
    for at in range(PREAMBLE_BYTES):
        changed = bytearray(whole)
        changed[at] ^= 1
        gate = both()[1]
        with pytest.raises(LinkRefusedError):
            gate.check(PreambleReader().feed(bytes(changed)))
        gate.check(whole)  # a forged one has used nothing up


def test_every_byte_of_the_answer_counts():
    opener, gate = both()
    offer = opener.open(DISPLAY, LEASE)
    answer = gate.answer(offer.preamble, PreambleVerdict.TAKEN)
    for at in range(ANSWER_BYTES):
        changed = bytearray(answer)
        changed[at] ^= 1
        again = type(offer)(offer.preamble, offer._key)
        with pytest.raises(LinkRefusedError):
            again.feed(bytes(changed))
        assert again.verdict is None
        assert again.needed == 0


def test_an_answer_is_for_one_stream_only():
    opener, gate = both()
    one, two = opener.open(DISPLAY, LEASE), opener.open(DISPLAY, LEASE)
    with pytest.raises(LinkRefusedError, match="not the paired broker"):
        two.feed(gate.answer(one.preamble, PreambleVerdict.TAKEN))


def test_a_proved_verdict_that_we_do_not_know_is_a_refusal():
    opener, gate = both()
    offer = opener.open(DISPLAY, LEASE)
    with pytest.raises(LinkRefusedError, match="unknown verdict 99"):
        offer.feed(gate.answer(offer.preamble, 99))


def test_a_proved_port_that_we_do_not_know_is_a_refusal(monkeypatch):
    opener, gate = both()
    monkeypatch.setattr("broker.net.link.preamble.LINK_PORTS", {AGENT: 9})
    offer = opener.open(AGENT, LEASE)
    with pytest.raises(LinkRefusedError, match="port 9"):
        gate.check(offer.preamble)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=90))
def test_chunks_do_not_matter_and_needed_never_lies(sizes):
    opener, gate = both()
    offer = opener.open(DISPLAY, LEASE)
    reader, got, at = PreambleReader(), None, 0
    for size in [*sizes, PREAMBLE_BYTES]:
        take = min(size, reader.needed)
        assert got is None or take == 0
        got = got or reader.feed(offer.preamble[at : at + take])
        at += take
    assert got == offer.preamble
    assert reader.needed == 0
    reader.eof()
    answer, at = gate.answer(got, PreambleVerdict.DENIED), 0
    for size in [*sizes, ANSWER_BYTES]:
        take = min(size, offer.needed)
        if take:
            offer.feed(answer[at : at + take])
        at += take
    assert offer.verdict is PreambleVerdict.DENIED
    offer.eof()


@given(st.binary(max_size=PREAMBLE_BYTES), st.integers(0, PREAMBLE_BYTES))
def test_any_bytes_are_refused_at_once_or_at_the_end(data, keep):
    """Also bytes that begin as a real preamble does."""
    opener, gate = both()
    true = opener.open(DISPLAY, LEASE).preamble
    data = (true[:keep] + data)[:PREAMBLE_BYTES]
    assume(data != true)
    reader = PreambleReader()
    with pytest.raises(LinkRefusedError):  # noqa: PT012  whichever comes first
        for n in range(len(data)):
            if (whole := reader.feed(data[n : n + 1])) is not None:
                gate.check(whole)
        reader.eof()
    assert reader.needed == 0


def test_reading_more_than_needed_is_our_own_fault():
    opener, gate = both()
    with pytest.raises(InternalError):
        PreambleReader().feed(b"V" * (PREAMBLE_BYTES + 1))
    with pytest.raises(InternalError):
        opener.open(DISPLAY, LEASE).feed(b"x" * (ANSWER_BYTES + 1))
    with pytest.raises(InternalError):
        gate.check(b"short")


def test_closed_before_the_end():
    opener, _ = both()
    offer = opener.open(DISPLAY, LEASE)
    reader = PreambleReader()
    reader.feed(offer.preamble[:-1])
    with pytest.raises(LinkRefusedError, match="truncated") as caught:
        reader.eof()
    assert caught.value.reason is RefusalReason.CLOSED
    with pytest.raises(LinkRefusedError, match="without an answer"):
        offer.eof()


# -- the window ------------------------------------------------------------------


def test_window_at_its_width_and_one_below():
    width = limits.LINK_WINDOW
    window = CounterWindow()
    assert window.use(5000)
    assert window.use(5000 - width + 1)
    assert not window.use(5000 - width)
    assert not window.use(5000)


def test_numbers_at_their_limit_and_one_above():
    assert CounterWindow().use(limits.LINK_COUNTER)
    assert not CounterWindow().use(limits.LINK_COUNTER + 1)
    assert not CounterWindow().use(0)
    opener, gate = both()
    opener._last = limits.LINK_COUNTER - 1
    assert gate.check(opener.open(DISPLAY, LEASE).preamble)
    with pytest.raises(RefusedError, match="used up"):
        opener.open(DISPLAY, LEASE)


def test_window_memory_stays_small_after_a_great_jump():
    window = CounterWindow()
    window.use(1)
    window.use(limits.LINK_COUNTER)
    assert window._seen.bit_length() <= limits.LINK_WINDOW


@given(st.lists(st.integers(0, 3000) | st.integers(0, 1 << 64), max_size=60))
def test_window_equals_its_plain_definition(numbers):
    window, used, highest = CounterWindow(), set(), 0
    for number in numbers:
        expected = (
            1 <= number <= limits.LINK_COUNTER
            and number not in used
            and number > highest - limits.LINK_WINDOW
        )
        assert window.use(number) is expected
        if expected:
            used.add(number)
            highest = max(highest, number)


class StreamMachine(RuleBasedStateMachine):
    """Opens, delivers in any order, repeats, changes, reconnects.

    Model: of each epoch's preambles the gate takes each once, in that epoch.
    """

    def __init__(self):
        super().__init__()
        self.old = []
        self.epoch = -1
        self.reconnect()

    @rule()
    def reconnect(self):
        self.epoch += 1
        self.host, self.viewer = sessions(self.epoch)
        self.opener, self.gate = Opener(self.host), PreambleGate(self.viewer)
        self.old += getattr(self, "waiting", []) + getattr(self, "taken", [])
        self.waiting, self.taken = [], []

    @rule(service=st.sampled_from(list(PORTS)))
    def open(self, service):
        self.waiting.append(self.opener.open(service, LEASE))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def deliver(self, data):
        n = data.draw(st.integers(0, len(self.waiting) - 1))
        offer = self.waiting.pop(n)
        assert self.gate.check(offer.preamble).lease == LEASE
        verdict = data.draw(st.sampled_from(list(PreambleVerdict)))
        assert offer.feed(self.gate.answer(offer.preamble, verdict)) is verdict
        self.taken.append(offer)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def replay(self, data):
        offer = data.draw(st.sampled_from(self.taken))
        with pytest.raises(LinkRefusedError, match="replayed"):
            self.gate.check(offer.preamble)

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def old_epoch(self, data):
        offer = data.draw(st.sampled_from(self.old))
        with pytest.raises(LinkRefusedError, match="another epoch"):
            self.gate.check(offer.preamble)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), at=st.integers(0, PREAMBLE_BYTES - 1))
    def forge(self, data, at):
        offer = data.draw(st.sampled_from(self.waiting))
        changed = bytearray(offer.preamble)
        changed[at] ^= data.draw(st.integers(1, 255))
        with pytest.raises(LinkRefusedError):
            self.gate.check(PreambleReader().feed(bytes(changed)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def reflect(self, data):
        offer = data.draw(st.sampled_from(self.waiting))
        with pytest.raises(LinkRefusedError, match="reflected"):
            PreambleGate(self.host).check(offer.preamble)


def test_streams_as_a_state_machine():
    run_state_machine_as_test(StreamMachine, settings=settings(stateful_step_count=30))
