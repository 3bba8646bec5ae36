"""Attack: change, repeat, reorder, drop or turn around control records.

Invariant: the messages that one end takes are a beginning of those that the
other end sent, in order; whatever else happens, the channel is over.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.framing import HEADER, encode_frame
from broker.net.link import messages as m
from broker.net.link.control import ControlChannel
from broker.net.link.wire_types import LinkRefusedError, RefusalReason
from tests.kit.link.pair import sessions


def pair(seed=0):
    host, viewer = sessions(seed)
    return ControlChannel(host), ControlChannel(viewer)


def pings(channel, count):
    return [channel.ask(m.LinkPing)[1] for _ in range(count)]


def test_each_changed_byte_is_refused():
    (record,) = pings(pair()[0], 1)
    for at in range(len(record)):
        for bit in (0, 7):
            changed = bytearray(record)
            changed[at] ^= 1 << bit
            viewer = pair()[1]
            with pytest.raises(LinkRefusedError):  # noqa: PT012  a longer length waits
                viewer.feed(bytes(changed))
                viewer.eof()
            assert not viewer.open


def test_each_truncation_is_a_loss():
    (record,) = pings(pair()[0], 1)
    for size in range(len(record)):
        viewer = pair()[1]
        assert viewer.feed(record[:size]) == []
        with pytest.raises(LinkRefusedError) as caught:
            viewer.eof()
        assert caught.value.reason is RefusalReason.CLOSED


@given(st.permutations(range(4)), st.lists(st.integers(0, 3), max_size=3))
def test_only_the_true_order_is_taken(order, repeats):
    host, viewer = pair()
    records = pings(host, 4)
    sequence = [*order, *repeats]
    good = 0
    while good < len(sequence) and sequence[good] == good:
        good += 1
    for n in sequence[:good]:
        ((message, _),) = viewer.feed(records[n])
        assert message.request == n + 1
    if good < len(sequence):
        with pytest.raises(LinkRefusedError) as caught:
            viewer.feed(records[sequence[good]])
        assert caught.value.reason is RefusalReason.PROOF
        assert not viewer.open


def test_reflected():
    host, viewer = pair()
    (record,) = pings(host, 1)
    with pytest.raises(LinkRefusedError, match="next control record"):
        host.feed(record)
    assert viewer.open


def test_of_another_epoch():
    (record,) = pings(pair(1)[0], 1)
    with pytest.raises(LinkRefusedError, match="next control record"):
        pair(2)[1].feed(record)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 100])
def test_records_without_a_right_tag(size):
    with pytest.raises(LinkRefusedError, match="next control record"):
        pair()[1].feed(encode_frame(bytes(size), 1000))


def test_an_announced_gigabyte_is_refused_at_its_header():
    viewer = pair()[1]
    with pytest.raises(LinkRefusedError, match="announces"):
        viewer.feed(HEADER.pack(1 << 30))


def test_a_taken_over_viewer_can_send_no_command_and_no_name_with_a_path():
    """The types have no place for one; the host's records do the rest."""
    for body in (
        b'{"type":"start","request":1,"record":"web","argv":["/bin/sh"]}',
        b'{"type":"start","request":1,"record":"../../etc"}',
        b'{"type":"exec","request":1,"argv":["/bin/sh"]}',
        m.encode(m.LeaseBegun(1, "0" * 16, "web", "web", 1, "x")),
        b'{"type":"started","request":1,"lease":"0000000000000001"}',
    ):
        host, viewer = pair()
        with pytest.raises(LinkRefusedError):
            host.feed(viewer._record(body))
        assert not host.open
