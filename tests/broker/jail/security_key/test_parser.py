"""What of a guest's FIDO messages reaches the real key, and about whom one is asked."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import PeerError
from broker.core.limits import devices as limits
from broker.jail.security_key import cbor
from broker.jail.security_key.cbor import encode
from broker.jail.security_key.ctaphid import (
    BROADCAST,
    Assembler,
    CtapHidCommand,
    CtapHidMessage,
    reports_of,
)
from broker.jail.security_key.parser import SecurityKey
from tests.kit.usb.key_guest import Guest, u2f
from tests.kit.usb.token import CHANNEL, Token, assertion

_NONCE = b"12345678"


def test_assertion_is_signed_after_a_yes_about_its_relying_party():
    guest = Guest()
    challenge = b"c" * 32
    assert guest.cbor(assertion("bank.example", challenge)) == []
    assert [(a.what, a.host) for a in guest.asked] == [("sign in", "bank.example")]
    assert (CtapHidCommand.CBOR, b"\x02") not in guest.token.seen
    keepalive, answer = guest.verdict(allow=True)
    assert keepalive.command == CtapHidCommand.KEEPALIVE
    found = cbor.decode(answer.payload[1:])
    guest.token.private.public_key().verify(
        found[3], found[2] + challenge, ec.ECDSA(hashes.SHA256())
    )
    assert guest.over == [1]


def test_no_reaches_the_guest_and_never_the_key():
    guest = Guest()
    guest.cbor(assertion("bank.example"))
    (answer,) = guest.verdict(allow=False)
    assert answer.payload == b"\x27"
    assert [c for c, _ in guest.token.seen] == [CtapHidCommand.INIT]


def test_information_passes_without_a_question():
    guest = Guest()
    _, answer = guest.cbor(b"\x04")
    assert cbor.decode(answer.payload[1:])[1] == ["FIDO_2_0"]
    assert guest.asked == []


def test_guest_that_is_faster_than_the_key_waits():
    key, token = SecurityKey(_NONCE), Token()
    begin = key.begin()
    for _ in range(4):
        for report in reports_of(
            CtapHidMessage(BROADCAST, CtapHidCommand.INIT, b"abcdefgh")
        ):
            assert key.from_guest(report, 0.0) == []
    (busy,) = key.from_guest(report, 0.0)
    assert busy.report[4:8] == b"\xbf\x00\x01\x06"
    answers = [
        a for r in begin for back in token.feed(r.report) for a in key.from_key(back)
    ]
    assert len(answers) == 4


def test_key_does_not_blink_for_a_sandbox():
    guest = Guest()
    assert guest.capabilities == 0x04
    (answer,) = guest.send(guest.channel, CtapHidCommand.WINK, b"")
    assert answer.command == CtapHidCommand.ERROR


@pytest.mark.parametrize(
    "command", [0x07, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x40, 0x41, 0xFF]
)
def test_management_never_reaches_the_key(command):
    guest = Guest()
    (answer,) = guest.cbor(bytes([command]) + encode({1: 1}))
    assert answer.payload == b"\x01"
    assert len(guest.token.seen) == 1


@pytest.mark.parametrize("sub", [3, 4, 6, 8, 10, 100])
def test_pins_are_not_set_or_changed(sub):
    guest = Guest()
    (answer,) = guest.cbor(b"\x06" + encode({1: 2, 2: sub}))
    assert answer.payload == b"\x27"
    assert len(guest.token.seen) == 1


def test_next_assertion_needs_one_that_was_allowed():
    guest = Guest()
    guest.token.accounts = 2
    (answer,) = guest.cbor(b"\x08")
    assert answer.payload == b"\x27"
    guest.cbor(assertion("bank.example"))
    guest.verdict(allow=True)
    assert guest.cbor(b"\x08")[-1].payload == b"\0"
    guest.cbor(assertion("other.example"))
    guest.verdict(allow=False)
    (answer,) = guest.cbor(b"\x08")
    assert answer.payload == b"\x27"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        encode({2: b"x"}),
        encode({1: 5}),
        encode({1: ""}),
        encode({1: "a b"}),
        encode({1: "\u202eelpmaxe"}),
        encode({1: "a" * 254}),
        encode({1: "a"}) + b"\0",
        b"\xa2\x01\x61a\x01\x61b",
        b"\xbf\x01\x61a\xff",
        b"\xa1\x18\x01\x61a",
        b"\xc0\xa1\x01\x61a",
    ],
)
def test_ambiguous_requests_are_refused_unasked(body):
    guest = Guest()
    (answer,) = guest.cbor(b"\x02" + body)
    assert answer.payload == b"\x12"
    assert guest.asked == []
    assert len(guest.token.seen) == 1


def test_other_commands_are_refused_while_one_waits():
    guest = Guest()
    guest.cbor(assertion("bank.example"))
    (answer,) = guest.cbor(b"\x04")
    assert (answer.command, answer.payload) == (CtapHidCommand.ERROR, b"\x06")


def test_verdict_about_one_request_is_not_for_the_next():
    guest = Guest()
    guest.cbor(assertion("bank.example"))
    first = guest.asked[0].number
    guest.send(guest.channel, CtapHidCommand.CANCEL, b"")
    assert guest.over == [first]
    guest.cbor(assertion("evil.example"))
    guest.act(guest.key.verdict(first, 0.0, allow=True))
    assert (CtapHidCommand.CBOR, b"\x02") not in guest.token.seen


def test_guest_is_kept_waiting_and_not_for_ever():
    guest = Guest()
    guest.cbor(assertion("bank.example"))
    guest.now = guest.key.next_tick()
    guest.act(guest.key.tick(guest.now))
    assert guest.answers[-1].command == CtapHidCommand.KEEPALIVE
    guest.now = limits.CTAP_SECONDS
    guest.act(guest.key.tick(guest.now))
    assert guest.answers[-1].command == CtapHidCommand.ERROR
    assert guest.over == [1]
    assert guest.key.next_tick() is None


def test_key_that_does_not_answer_is_cancelled():
    guest = Guest()
    guest.token.silent = True
    guest.cbor(b"\x04")
    guest.now = limits.CTAP_SECONDS
    guest.act(guest.key.tick(guest.now))
    assert guest.token.seen[-1][0] == CtapHidCommand.CANCEL
    assert guest.answers[-1].command == CtapHidCommand.ERROR


def test_u2f_is_asked_about_once_while_it_is_repeated():
    guest = Guest()
    guest.token.touched = False
    guest.send(guest.channel, CtapHidCommand.MSG, u2f(2, 3))
    assert guest.asked[0].digest == (b"a" * 32).hex()
    guest.verdict(allow=True)
    guest.send(guest.channel, CtapHidCommand.MSG, u2f(2, 3))
    assert len(guest.asked) == 1
    assert guest.over == [], "the permission is in use until the key is touched"
    guest.send(guest.channel, CtapHidCommand.MSG, u2f(2, 3, b"b" * 32))
    assert len(guest.asked) == 2
    assert guest.over == [1]


def test_u2f_signature_is_one_use():
    """A second one is asked about, however soon: the person touches for the first."""
    guest = Guest()
    guest.token.touched = False
    guest.send(guest.channel, CtapHidCommand.MSG, u2f(2, 3))
    guest.verdict(allow=True)
    guest.token.touched = True
    _, signed = guest.send(guest.channel, CtapHidCommand.MSG, u2f(2, 3))
    assert signed.payload.endswith(b"\x90\x00")
    assert guest.over == [1]
    signatures = guest.token.seen.count((CtapHidCommand.MSG, b"\0"))
    guest.send(guest.channel, CtapHidCommand.MSG, u2f(2, 3))
    assert len(guest.asked) == 2
    assert guest.token.seen.count((CtapHidCommand.MSG, b"\0")) == signatures


def test_revoked_u2f_is_not_repeated():
    guest = Guest()
    guest.token.touched = False
    guest.send(guest.channel, CtapHidCommand.MSG, u2f(2, 3))
    guest.verdict(allow=True)
    guest.act(guest.key.verdict(1, guest.now, allow=False))
    assert guest.over == [1]
    guest.send(guest.channel, CtapHidCommand.MSG, u2f(2, 3))
    assert len(guest.asked) == 2


def test_u2f_permission_ends_with_its_time():
    guest = Guest()
    guest.token.touched = False
    guest.send(guest.channel, CtapHidCommand.MSG, u2f(2, 3))
    guest.verdict(allow=True)
    assert guest.key.next_tick() == limits.CTAP_SECONDS
    guest.now = limits.CTAP_SECONDS
    guest.act(guest.key.tick(guest.now))
    assert guest.over == [1]
    assert guest.key.next_tick() is None


def from_token(command, payload):
    return reports_of(CtapHidMessage(CHANNEL, command, payload))


def asked_and_allowed(guest):
    """An assertion that waits for a touch."""
    guest.token.silent = True
    guest.cbor(assertion("bank.example"))
    guest.verdict(allow=True)
    assert (CtapHidCommand.CBOR, b"\x02") in guest.token.seen


def test_permission_revoked_before_the_touch_is_cancelled_at_the_key():
    guest = Guest()
    asked_and_allowed(guest)
    (answer,) = guest.verdict(allow=False)
    assert answer.payload == b"\x27"
    assert guest.token.seen[-1][0] == CtapHidCommand.CANCEL
    assert guest.over == [1]
    # The person touched it in the same moment: the signature is not delivered.
    guest.answers.clear()
    for report in from_token(CtapHidCommand.CBOR, b"\0signature"):
        guest.act(guest.key.from_key(report))
    assert guest.answers == []


def test_answer_to_a_cancelled_request_is_not_the_next_ones():
    guest = Guest()
    asked_and_allowed(guest)
    guest.verdict(allow=False)
    guest.token.silent = False
    assert guest.cbor(b"\x04") == [], "it waits for what the key still owes"
    assert (CtapHidCommand.CBOR, b"\x04") not in guest.token.seen
    for report in from_token(CtapHidCommand.CBOR, b"\0signature"):
        guest.act(guest.key.from_key(report))
    _, answer = guest.answers
    assert cbor.decode(answer.payload[1:])[1] == ["FIDO_2_0"]


def test_key_that_never_answers_a_cancelled_request_is_not_waited_for():
    guest = Guest()
    asked_and_allowed(guest)
    guest.verdict(allow=False)
    guest.token.silent = False
    for _ in range(4):
        assert guest.cbor(b"\x04") == []
    (busy,) = guest.cbor(b"\x04")
    assert (busy.command, busy.payload) == (CtapHidCommand.ERROR, b"\x06")
    (cancelled,) = guest.send(guest.channel, CtapHidCommand.CANCEL, b"")
    assert cancelled.payload == b"\x2d"
    guest.cbor(b"\x04")
    guest.now = guest.key.next_tick()
    guest.act(guest.key.tick(guest.now))
    assert guest.token.seen[-1] == (CtapHidCommand.CBOR, b"\x04")


@pytest.mark.parametrize(
    "apdu",
    [b"", b"\0\x02", b"\0\x02\x03\0", u2f(2, 3)[:40], b"\x80\x01\0\0", u2f(0x40, 0)],
)
def test_malformed_u2f_never_reaches_the_key(apdu):
    guest = Guest()
    (answer,) = guest.send(guest.channel, CtapHidCommand.MSG, apdu)
    assert answer.payload[:1] in {b"\x67", b"\x6d"}
    assert len(guest.token.seen) == 1


def test_channels_are_bounded_and_strange_ones_refused():
    guest = Guest()
    for _ in range(3 * limits.CTAP_CHANNELS):
        guest.send(BROADCAST, CtapHidCommand.INIT, b"abcdefgh")
    assert len(guest.key._channels) == limits.CTAP_CHANNELS
    (answer,) = guest.cbor(b"\x04")
    assert (answer.command, answer.payload) == (CtapHidCommand.ERROR, b"\x0b")


@given(st.lists(st.binary(min_size=64, max_size=64), max_size=20))
def test_any_reports_reach_the_key_only_as_harmless_messages(reports):
    guest = Guest()
    for report in reports:
        data = guest.channel.to_bytes(4, "big") + report[4:]
        guest.act(guest.key.from_guest(data, 0.0))
    for command, first in guest.token.seen[1:]:
        assert command in {
            CtapHidCommand.CBOR,
            CtapHidCommand.MSG,
            CtapHidCommand.CANCEL,
        }
        assert command != CtapHidCommand.CBOR or first in {b"\x04", b"\x06"}


@pytest.mark.parametrize("size", [0, 63, 65])
def test_reports_have_64_bytes(size):
    with pytest.raises(PeerError):
        Guest().key.from_guest(b"x" * size, 0.0)


@given(st.binary(max_size=limits.CTAP_MESSAGE_BYTES))
def test_messages_come_together_as_they_were_cut(payload):
    assembler = Assembler()
    message = CtapHidMessage(7, CtapHidCommand.CBOR, payload)
    found = [assembler.feed(report) for report in reports_of(message)]
    assert found[-1] == message
    assert not any(found[:-1])


def test_messages_are_bounded():
    with pytest.raises(ValueError, match="7610"):
        reports_of(CtapHidMessage(7, 3, b"x" * (limits.CTAP_MESSAGE_BYTES + 1)))
    head = (7).to_bytes(4, "big") + b"\x90" + (7610).to_bytes(2, "big")
    channel, _ = Assembler().feed(head.ljust(64, b"\0"))
    assert channel == 7


@given(st.binary(max_size=60))
def test_any_bytes_are_cbor_or_refused(data):
    try:
        cbor.decode(data)
    except PeerError:
        return


def test_nesting_is_bounded():
    assert cbor.decode(b"\x81\x81\x81\x01") == [[[1]]]
    with pytest.raises(PeerError, match="levels"):
        cbor.decode(b"\x81\x81\x81\x81\x01")


@pytest.mark.parametrize("during", [False, True])
def test_half_a_message_to_another_program_does_not_hide_the_answer(during):
    """A device node gives each reader all reports, and loses those it is too slow for."""
    guest = Guest()
    half = reports_of(CtapHidMessage(0x77777777, CtapHidCommand.CBOR, b"x" * 200))[0]
    if during:
        feed = guest.token.feed
        guest.token.feed = lambda report: [half, *feed(report)]
    else:
        assert guest.key.from_key(half) == []
    _, answer = guest.cbor(b"\x04")
    assert answer.payload[:1] == b"\0"


def test_program_that_ends_within_a_message_blocks_no_other():
    """The programs of a guest have one device: theirs are its channels."""
    guest = Guest()
    first, *_ = reports_of(CtapHidMessage(guest.channel, 0x10, b"x" * 200))
    guest.act(guest.key.from_guest(first, guest.now))
    (answer,) = guest.send(BROADCAST, CtapHidCommand.INIT, b"abcdefgh")
    other = int.from_bytes(answer.payload[8:12], "big")
    answers = []
    for _ in range(10):  # it asks again each half second
        answers += guest.send(other, CtapHidCommand.CBOR, b"\x04")
        guest.now += 0.5
    assert answers[0].command == CtapHidCommand.ERROR
    assert answers[-1].payload[:1] == b"\0"


def test_slow_message_is_whole_all_the_same():
    guest = Guest()
    reports = reports_of(CtapHidMessage(guest.channel, CtapHidCommand.PING, b"x" * 600))
    for report in reports:
        guest.now += 1
        guest.act(guest.key.from_guest(report, guest.now))
    assert guest.answers[-1].payload == b"x" * 600


def test_half_an_answer_does_not_hide_the_next_one():
    """A device node loses reports that its reader is too slow for."""
    guest = Guest()
    torn = reports_of(CtapHidMessage(CHANNEL, CtapHidCommand.CBOR, b"\0" * 200))[0]
    guest.act(guest.key.from_key(torn))
    _, answer = guest.cbor(b"\x04")
    assert answer.payload[:1] == b"\0"
