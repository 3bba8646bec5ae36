"""A sandbox that some rule lets use the security key, and attempts beyond that."""

from __future__ import annotations

import pytest

from broker.jail.security_key import cbor
from broker.jail.security_key.cbor import encode
from broker.jail.security_key.ctaphid import CtapHidCommand
from tests.kit.usb.key_guest import Guest, u2f
from tests.kit.usb.token import HANDLE, assertion


def untouched():
    guest = Guest()
    guest.token.touched = False
    return guest


def signed(guest, payload=b"c" * 32):
    """Whether a signature by the key has reached the guest."""
    for answer in guest.answers:
        if answer.command == CtapHidCommand.MSG and b"signature" in answer.payload:
            return True
        if answer.command == CtapHidCommand.CBOR and answer.payload[:1] == b"\0":
            found = cbor.decode(answer.payload[1:])
            if isinstance(found, dict) and any(found.get(3, b"")):
                return True
    return False


def test_assertion_without_a_touch_is_not_signed():
    """``up: false`` makes a key sign at once: so no signature passes."""
    guest = untouched()
    guest.cbor(assertion("bank.example", b"c" * 32, up=False))
    assert [(a.what, a.host) for a in guest.asked] == [("look", "bank.example")]
    guest.verdict(allow=True)
    assert not signed(guest)
    found = cbor.decode(guest.answers[-1].payload[1:])
    assert found[1] == HANDLE, "the browser learns what it looked for"
    assert len(found[2]) == 37
    assert set(found) == {1, 2, 3}, "and not who has registered"


def test_u2f_without_a_touch_is_not_signed():
    guest = untouched()
    guest.send(guest.channel, CtapHidCommand.MSG, u2f(2, 8))
    if guest.asked:
        guest.verdict(allow=True)
    assert not signed(guest)
    assert (CtapHidCommand.MSG, b"\0") not in guest.token.seen


@pytest.mark.parametrize("first", [0, 1, 4, 0x0F, 0x43, 0x80, 0x83])
def test_u2f_passes_with_the_parameters_of_its_specification_only(first):
    guest = untouched()
    guest.send(guest.channel, CtapHidCommand.MSG, u2f(2, first))
    assert guest.asked == []
    assert guest.answers[-1].payload == b"\x6a\x86"


def test_u2f_registration_tells_no_individual_attestation():
    guest = untouched()
    guest.send(guest.channel, CtapHidCommand.MSG, u2f(1, 0x83))
    assert guest.asked == []
    assert guest.answers[-1].payload == b"\x6a\x86"


_LOOK = {1: "bank.example", 2: b"c" * 32, 3: [HANDLE], 5: {"up": False}}


@pytest.mark.parametrize(
    "changed",
    [
        {3: []},
        {3: None},
        {3: 5},
        {4: {"hmac-secret": {}}},
        {6: b"x" * 16, 4: {}, 3: []},
    ],
    ids=str,
)
def test_look_is_at_named_credentials_and_has_no_extension(changed):
    """Without a list it tells the accounts; ``hmac-secret`` is the secret itself."""
    guest = untouched()
    asked = {k: v for k, v in (_LOOK | changed).items() if v is not None}
    guest.cbor(b"\x02" + encode(asked))
    assert guest.answers[-1].payload == b"\x2c"
    assert guest.asked == []
    assert len(guest.token.seen) == 1


@pytest.mark.parametrize("options", [5, [], {"up": 0}, {"up": "no"}, {1: False}])
def test_options_that_are_not_switches_are_refused_unasked(options):
    guest = untouched()
    guest.cbor(b"\x02" + encode(_LOOK | {5: options}))
    assert guest.answers[-1].payload == b"\x12"
    assert guest.asked == []


def test_registration_without_a_touch_is_refused():
    guest = untouched()
    entity = {1: b"c" * 32, 2: {"id": "bank.example"}, 7: {"up": False}}
    guest.cbor(b"\x01" + encode(entity))
    assert guest.answers[-1].payload == b"\x2c"
    assert guest.asked == []


def test_look_permits_no_signature():
    guest = untouched()
    guest.cbor(assertion("bank.example", up=False))
    guest.verdict(allow=True)
    guest.cbor(b"\x08")
    assert guest.answers[-1].payload == b"\x27"
    guest.cbor(assertion("bank.example", up=True))
    assert [a.what for a in guest.asked] == ["look", "sign in"]
    assert guest.answers == []


def test_u2f_check_is_asked_about_as_a_look():
    """It tells where the key is registered; a page may look at several handles."""
    guest = untouched()
    guest.send(guest.channel, CtapHidCommand.MSG, u2f(2, 7))
    assert [a.what for a in guest.asked] == ["look"]
    assert (CtapHidCommand.MSG, b"\0") not in guest.token.seen
    guest.verdict(allow=True)
    assert guest.answers[-1].payload == b"\x69\x85"
    guest.send(guest.channel, CtapHidCommand.MSG, u2f(2, 7))
    assert guest.answers[-1].payload == b"\x69\x85"
    assert len(guest.asked) == 1
    guest.send(guest.channel, CtapHidCommand.MSG, u2f(2, 7, b"b" * 32))
    assert len(guest.asked) == 2, "another service"


@pytest.mark.parametrize("answer", [b"\0", b"\0\x05", b"\0" + encode({2: b"x" * 37})])
def test_answer_to_a_look_that_is_not_understood_does_not_pass(answer):
    guest = untouched()
    guest.token._answer = lambda payload: answer
    guest.cbor(assertion("bank.example", up=False))
    guest.verdict(allow=True)
    assert guest.answers[-1].payload == b"\x7f"


def several_accounts(number=3):
    guest = Guest()
    guest.token.accounts = number
    guest.cbor(assertion("bank.example"))
    guest.verdict(allow=True)
    return guest


def test_further_credentials_pass_as_often_as_the_key_says():
    """Each is signed without a touch: it was one permission, which ends."""
    guest = several_accounts()
    assert guest.over == []
    answers = [guest.cbor(b"\x08")[-1].payload for _ in range(4)]
    assert answers == [b"\0", b"\0", b"\x27", b"\x27"]
    assert guest.over == [1]
    assert guest.token.seen.count((CtapHidCommand.CBOR, b"\x08")) == 2


def test_single_credential_has_no_next_one():
    """The key could continue with another program's."""
    guest = several_accounts(1)
    assert guest.over == [1]
    assert guest.cbor(b"\x08")[-1].payload == b"\x27"


def test_permission_that_is_revoked_has_no_next_credential():
    guest = several_accounts()
    guest.verdict(allow=False)
    assert guest.over == [1]
    assert guest.cbor(b"\x08")[-1].payload == b"\x27"


@pytest.mark.parametrize("between", [b"\x04", assertion("bank.example")], ids=len)
def test_other_request_ends_the_credentials(between):
    """The same relying party is asked about again, too."""
    guest = several_accounts()
    guest.cbor(between)
    guest.verdict(allow=False)
    assert guest.over[0] == 1
    assert guest.cbor(b"\x08")[-1].payload == b"\x27"


def test_credentials_end_with_their_time():
    guest = several_accounts()
    guest.now = guest.key.next_tick()
    guest.act(guest.key.tick(guest.now))
    assert guest.over == [1]
    assert guest.cbor(b"\x08")[-1].payload == b"\x27"


def test_key_that_fails_has_no_next_credential():
    guest = several_accounts()
    guest.token._answer = lambda payload: b"\x30"
    assert guest.cbor(b"\x08")[-1].payload == b"\x30"
    assert guest.over == [1]


def test_look_keeps_the_key_from_others_for_seconds():
    """It waits for no touch, and a sign-in of the same guest ends it."""
    guest = untouched()
    guest.cbor(assertion("bank.example", up=False))
    guest.verdict(allow=True)
    assert guest.over == []
    guest.now = guest.key.next_tick()
    assert guest.now <= 5
    guest.act(guest.key.tick(guest.now))
    assert guest.over == [1]
