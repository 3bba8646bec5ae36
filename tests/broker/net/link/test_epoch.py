"""Session keys and MACs."""

from __future__ import annotations

from broker.net.link.epoch import Purpose, derive, mac_holds, make_mac
from broker.net.link.wire_types import Direction
from tests.kit.link.pair import sessions


def test_hmac_is_rfc_4231_case_2():
    mac = make_mac(b"Jefe", b"what do ya want ", b"for nothing?")
    assert mac.hex().startswith("5bdcc146bf60754e6a042426089575c7")
    assert mac_holds(mac, b"Jefe", b"what do ya want for nothing?")
    assert not mac_holds(mac[:-1], b"Jefe", b"what do ya want for nothing?")
    assert not mac_holds(mac, b"jefe", b"what do ya want for nothing?")


def test_keys_depend_on_secret_transcript_and_use():
    keys = {
        derive(secret * 32, salt * 32, info)
        for secret in (b"a", b"b")
        for salt in (b"c", b"d")
        for info in (b"e", b"f")
    }
    assert len(keys) == 8
    assert {len(key) for key in keys} == {32}


def test_directions_are_seen_from_each_end():
    host, viewer = sessions()
    assert host.sends is viewer.receives is Direction.TO_VIEWER
    assert viewer.sends is host.receives is Direction.TO_HOST
    for purpose in Purpose:
        assert host.key(purpose, host.sends) == viewer.key(purpose, viewer.receives)
        assert host.key(purpose, host.sends) != host.key(purpose, host.receives)
