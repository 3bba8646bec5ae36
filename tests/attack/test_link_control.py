"""Attack: change, repeat, reorder, drop or turn around control records.

Invariant: the messages that one end takes are a beginning of those that the
other end sent, in order; whatever else happens, the connection is over.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import PeerError
from broker.core.framing import HEADER, encode_frame
from broker.ipc.host_rows import LEASE_BEGUN, LeaseBegun, SandboxStarted
from broker.net.link.link_rows import LINK_ROWS
from broker.net.link.sealed_records import SealedRecords
from broker.net.link.wire_types import LinkRefusedError, RefusalReason
from broker.wire.call_messages import CallMessage, encode_message
from broker.wire.calls import Calls
from broker.wire.row import ProcessKind
from tests.kit.link.pair import sessions
from tests.kit.wire_bytes import answer_bytes, call_bytes


def pair(seed=0):
    host, viewer = sessions(seed)
    return SealedRecords(host), SealedRecords(viewer)


def sealed(end, count):
    return [end.seal(bytes([number])) for number in range(count)]


def test_each_changed_byte_is_refused():
    (record,) = sealed(pair()[0], 1)
    for at in range(len(record)):
        for bit in (0, 7):
            changed = bytearray(record)
            changed[at] ^= 1 << bit
            viewer = pair()[1]
            try:
                assert viewer.feed(bytes(changed)) == []
            except LinkRefusedError:
                continue
            assert viewer.in_record, "a longer length waits, with a deadline"


def test_each_truncation_waits_for_its_rest():
    """The end of the connection is then one in the middle of a record."""
    (record,) = sealed(pair()[0], 1)
    for size in range(1, len(record)):
        viewer = pair()[1]
        assert viewer.feed(record[:size]) == []
        assert viewer.in_record


@given(st.permutations(range(4)), st.lists(st.integers(0, 3), max_size=3))
def test_only_the_true_order_is_taken(order, repeats):
    host, viewer = pair()
    records = sealed(host, 4)
    sequence = [*order, *repeats]
    good = 0
    while good < len(sequence) and sequence[good] == good:
        good += 1
    for n in sequence[:good]:
        assert viewer.feed(records[n]) == [bytes([n])]
    if good < len(sequence):
        with pytest.raises(LinkRefusedError) as caught:
            viewer.feed(records[sequence[good]])
        assert caught.value.reason is RefusalReason.PROOF
        with pytest.raises(LinkRefusedError, match="after"):
            viewer.feed(records[good % 4])


def test_reflected():
    host, viewer = pair()
    (record,) = sealed(host, 1)
    with pytest.raises(LinkRefusedError, match="next control record"):
        host.feed(record)
    assert viewer.feed(record)


def test_of_another_epoch():
    (record,) = sealed(pair(1)[0], 1)
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


def raw_call(row, request):
    """A call whose body is any mapping."""
    body = msgspec.Raw(msgspec.msgpack.encode(request))
    return encode_message(CallMessage(1, row, body))


LEASE = "0" * 15 + "1"


@pytest.mark.parametrize(
    "data",
    [
        raw_call("Start", {"record": "web", "argv": ["/bin/sh"]}),
        raw_call("Start", {"record": "../../etc"}),
        raw_call("Start", {"record": "web\n"}),
        raw_call("Start", {"record": "Web"}),
        raw_call("Exec", {"argv": ["/bin/sh"]}),
        raw_call("Stop", {"lease": LEASE, "grace": -1.0, "reason": ""}),
        raw_call("Stop", {"lease": LEASE, "grace": float("nan"), "reason": ""}),
        raw_call("Stop", {"lease": LEASE, "grace": 1.0, "reason": "\x1b[2J"}),
        raw_call("Stop", {"lease": LEASE.upper() + "\n", "grace": 1.0, "reason": ""}),
        raw_call("Stop", {"lease": LEASE, "grace": 1.0, "reason": "", "idle": True}),
        call_bytes(1, "MountFolder", LeaseBegun(LEASE, "web", "web", 1, "x")),
        call_bytes(1, LEASE_BEGUN, LeaseBegun(LEASE, "web", "web", 1, "x")),
        answer_bytes(1, SandboxStarted(LEASE)),
    ],
)
def test_a_taken_over_viewer_can_send_no_command_and_no_name_with_a_path(data):
    """The types have no place for one; the host's records do the rest."""
    host = Calls(ProcessKind.HOST, ProcessKind.VIEWER, LINK_ROWS)
    with pytest.raises(PeerError):
        host.receive(data)


@pytest.mark.parametrize(
    "data",
    [
        raw_call("LeaseEnded", {"lease": "0123456789ABCDEF", "reason": ""}),
        raw_call("LeaseEnded", {"lease": "0123456789abcdef\n", "reason": ""}),
        raw_call("LeaseEnded", {"lease": LEASE, "reason": "\u202e"}),
        raw_call("LeaseEnded", {"lease": LEASE, "reason": "x" * 10_000}),
        raw_call("Cut", {"opened_by": "guest", "stream": 1, "reason": ""}),
        raw_call(
            "OfferStream", {"lease": LEASE, "service": "x", "stream": 1, "peer": ""}
        ),
    ],
)
def test_a_taken_over_host_sends_no_hidden_text_and_no_row_of_one_machine(data):
    viewer = Calls(ProcessKind.VIEWER, ProcessKind.HOST, LINK_ROWS)
    with pytest.raises(PeerError):
        viewer.receive(data)
