"""The launcher's and the guest's end of an identity understand each other."""

from __future__ import annotations

import ctypes
import json
import struct

import pytest

from broker.core.errors import PeerError
from broker.host.vmm.parent import parent_messages
from broker.host.vmm.parent.parent_messages import GuestWords, Identity
from shims.guest import parent as guest

WHOLE = Identity(
    name="web-0001",
    time=1_700_000_000_123_456_789,
    seed=bytes(range(64)),
    cid=77777,
    net="dhcp",
    dns="1.2.3.4",
    dns6="fd00::3",
    search="corp.example",
)


def body(frame: bytes) -> bytes:
    (size,) = struct.unpack_from("<I", frame)
    assert size == len(frame) - 4
    return frame[4:]


def word(name: str) -> bytes:
    text = json.dumps({"type": name}).encode()
    return struct.pack("<I", len(text)) + text


def test_the_guest_takes_what_the_launcher_sends():
    taken = guest.take_identity(body(WHOLE.encode()))
    assert taken == {
        "name": "web-0001",
        "time": 1_700_000_000_123_456_789,
        "seed": bytes(range(64)),
        "cid": 77777,
        "disposable": True,
        "net": "dhcp",
        "dns": "1.2.3.4",
        "dns6": "fd00::3",
        "search": "corp.example",
    }


def test_both_ends_have_the_same_constants():
    assert guest.FORK_PORT == parent_messages.PORT
    assert guest.FORK_FRAME_BYTES == parent_messages.FRAME_BYTES
    assert guest.FORK_SEED_BYTES == parent_messages.SEED_BYTES
    assert body(parent_messages.REHEARSE) == guest.REHEARSE
    assert body(parent_messages.BEGIN) == guest.BEGIN


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "AAAA"},
        {"seed": "*"},
        {"name": 1},
        {"cid": True},
        {"more": 1},
        {"time": None},
    ],
)
def test_the_guest_refuses_another_identity(change):
    fields = json.loads(body(WHOLE.encode())) | change
    with pytest.raises(guest.IdentityError):
        guest.take_identity(json.dumps(fields).encode())


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"[" * 4000, b"\xff"])
def test_the_guest_refuses_a_malformed_identity(text):
    with pytest.raises(guest.IdentityError):
        guest.take_identity(text)


def test_a_seed_has_its_length():
    with pytest.raises(ValueError, match="seed"):
        Identity(name="a", time=0, seed=b"short", cid=3).encode()


def test_words_are_heard_in_their_order_however_they_are_cut():
    words = GuestWords("taken", "linked")
    for byte in word("taken") + word("linked"):
        assert not words.complete
        words.feed(bytes([byte]))
    assert words.complete
    assert words.heard == ["taken", "linked"]


@pytest.mark.parametrize(
    "data",
    [
        word("linked"),
        word("ready"),
        word("taken") + word("taken"),
        word("taken") + word("linked") + word("linked"),
        word("hello"),
        struct.pack("<I", 2) + b"{}",
        struct.pack("<I", 0),
        struct.pack("<I", parent_messages.FRAME_BYTES + 1),
        struct.pack("<I", 3) + b"\xff\xff\xff",
    ],
)
def test_anything_else_ends_the_copy(data):
    words = GuestWords("taken", "linked")
    with pytest.raises(PeerError):
        words.feed(data)


def test_the_entropy_request_is_the_kernels():
    """linux/random.h: struct rand_pool_info { int, int, u32[] }, _IOW('R', 3, int[2])."""
    size = ctypes.sizeof(ctypes.c_int) * 2
    assert 1 << 30 | size << 16 | ord("R") << 8 | 3 == guest.RNDADDENTROPY
    assert ord("R") << 8 | 7 == guest.RNDRESEEDCRNG
