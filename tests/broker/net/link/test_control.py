"""The control channel: sealed records, requests with their replies, one book."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker.core import limits
from broker.core.errors import InternalError, RefusedError
from broker.core.framing import HEADER, encode_frame
from broker.core.lease import Lease
from broker.core.limits import link as link_limits
from broker.core.names import LeaseId, SandboxName
from broker.net.link import messages as m
from broker.net.link.control import TAG_BYTES, ControlChannel
from broker.net.link.wire_types import LinkRefusedError, RefusalReason, Role
from tests.kit.link.pair import sessions


def lease(n, name="web"):
    return Lease(LeaseId(f"{n:016x}"), SandboxName(name), SandboxName("web"), n)


def channels(seed=0):
    host, viewer = sessions(seed)
    return ControlChannel(host), ControlChannel(viewer)


def begin(host, of):
    return host.ask(lambda n: m.LeaseBegun.of(n, of, "cid 42"))


def ended(host, of):
    return host.ask(lambda n: m.LeaseEnded(n, of.id, "gone"))


def test_a_hidden_character_is_a_refusal_and_bye_fits_its_text():
    host, viewer = channels()
    viewer.feed(host.ask(m.LinkPing)[1])
    body = b'{"type":"bye","reason":"x\\u001b"}'
    refuse(viewer, host._record(body), "hidden character")
    host, viewer = channels()
    ((bye, _),) = viewer.feed(host.bye("two\nlines " * 100))
    assert bye.reason.startswith("two lines two")


def raw(channel, message):
    """A record with anything in it, past the checks of an honest end."""
    return channel._record(m.encode(message))


def announce(host, viewer, of):
    request, data = begin(host, of)
    assert viewer.feed(data) == [(request, None)]
    done = m.RequestDone(request.request)
    assert host.feed(viewer.reply(done)) == [(done, request)]


def test_requests_both_ways_and_their_replies():
    host, viewer = channels()
    announce(host, viewer, lease(1))
    start, data = viewer.ask(lambda n: m.StartSandbox(n, "web"))
    assert host.feed(data) == [(start, None)]
    assert len(host._requests.owed) == viewer.asked == 1
    started = m.SandboxStarted(start.request, lease(1).id)
    assert viewer.feed(host.reply(started)) == [(started, start)]
    assert len(host._requests.owed) == viewer.asked == 0


def test_lease_is_usable_from_done_to_its_end_on_both_ends():
    host, viewer = channels()
    one = lease(1)
    request, data = begin(host, one)
    viewer.feed(data)
    assert host.leases.usable(one.id) is None
    assert viewer.leases.usable(one.id) is None
    reply = viewer.reply(m.RequestDone(request.request))
    assert viewer.leases.usable(one.id).lease == one
    assert host.leases.usable(one.id) is None
    host.feed(reply)
    assert host.leases.usable(one.id).peer == "cid 42"
    _, data = ended(host, one)
    assert host.leases.usable(one.id) is None
    viewer.feed(data)
    assert viewer.leases.usable(one.id) is None
    assert host.leases.all() == viewer.leases.all() == []


def test_refused_announcement_has_no_streams_and_waits_for_its_end():
    host, viewer = channels()
    request, data = begin(host, lease(1))
    viewer.feed(data)
    host.feed(
        viewer.reply(m.RequestRefused(request.request, "refused", "no such sandbox"))
    )
    for end in (host, viewer):
        assert end.leases.usable(lease(1).id) is None
    viewer.feed(ended(host, lease(1))[1])
    assert host.leases.all() == viewer.leases.all() == []


def test_a_refusal_that_crosses_with_the_end_of_the_lease():
    """Found by the state machine below: it cut off two honest ends."""
    host, viewer = channels()
    request, data = begin(host, lease(1))
    viewer.feed(data)
    no = viewer.reply(m.RequestRefused(request.request, "refused", "no"))
    _, data = ended(host, lease(1))
    assert len(host.feed(no)) == 1
    assert len(host.feed(viewer.reply(viewer_done(viewer, data)))) == 1
    assert host.leases.all() == viewer.leases.all() == []


def viewer_done(viewer, data):
    ((request, _),) = viewer.feed(data)
    return m.RequestDone(request.request)


def test_a_lease_that_has_ended_is_not_announced_again():
    host, viewer = channels()
    old, one = begin(host, lease(1))
    _, two = ended(host, lease(1))
    with pytest.raises(InternalError, match="announced again"):
        begin(host, lease(1))
    viewer.feed(one + two)
    host.feed(viewer.reply(m.RequestDone(old.request)))
    for end in (host, viewer):
        assert end.leases.usable(lease(1).id) is None


def test_end_of_a_lease_before_its_announcement_was_answered():
    host, viewer = channels()
    request, one = begin(host, lease(1))
    end, two = ended(host, lease(1))
    viewer.feed(one + two)
    replies = viewer.reply(m.RequestDone(request.request)) + viewer.reply(
        m.RequestDone(end.request)
    )
    assert len(host.feed(replies)) == 2
    assert host.leases.all() == viewer.leases.all() == []


def refuse(channel, data, says):
    with pytest.raises(LinkRefusedError, match=says) as caught:
        channel.feed(data)
    assert not channel.open
    assert caught.value.answer == b""
    with pytest.raises(LinkRefusedError):
        channel.feed(b"")
    with pytest.raises(RefusedError):
        channel.ask(m.LinkPing)


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (m.LeaseBegun.of(9, lease(1), "p"), "announced twice"),
        (m.LeaseBegun.of(9, lease(2), "p"), "sandbox web has a second lease"),
        (m.LeaseEnded(9, lease(3).id, ""), "never announced"),
        (m.LinkPing(1), "request 1 follows request 1"),
        (m.RequestDone(1), "no request expects"),
        (m.StartSandbox(2, "web"), "an invalid control message"),
    ],
)
def test_a_host_that_breaks_the_rules_is_cut_off(second, says):
    host, viewer = channels()
    announce(host, viewer, lease(1))
    refuse(viewer, raw(host, second), says)


@pytest.mark.parametrize("reply", [m.SandboxStarted, m.RequestRefused, None])
def test_a_reply_of_the_wrong_type_is_a_refusal(reply):
    host, viewer = channels()
    ping, data = viewer.ask(m.LinkPing)
    host.feed(data)
    wrong = {
        m.SandboxStarted: m.SandboxStarted(ping.request, lease(1).id),
        m.RequestRefused: m.RequestRefused(ping.request, "refused", "no ping for you"),
        None: m.RequestDone(ping.request + 1),
    }[reply]
    refuse(viewer, raw(host, wrong), "no request expects")


def test_our_own_mistakes_are_found_before_they_are_sent():
    host, viewer = channels()
    for call in (
        lambda: host.ask(lambda n: m.StartSandbox(n, "web")),
        lambda: viewer.ask(lambda n: m.LeaseEnded(n, lease(1).id, "")),
        lambda: host.ask(lambda n: m.LeaseEnded(n, lease(1).id, "")),
        lambda: host.ask(lambda n: m.Cut(n, "host", 1, "two\nlines")),
        lambda: host.reply(m.RequestDone(1)),
    ):
        with pytest.raises(InternalError):
            call()
    assert host.asked == viewer.asked == 0
    announce(host, viewer, lease(1))  # nothing of it was counted or sent


def test_open_requests_at_n_and_n_plus_1():
    host, viewer = channels()
    data = b""
    for _ in range(link_limits.LINK_REQUESTS):
        data += host.ask(m.LinkPing)[1]
    with pytest.raises(RefusedError, match="unanswered"):
        host.ask(m.LinkPing)
    assert (
        len(viewer.feed(data))
        == len(viewer._requests.owed)
        == link_limits.LINK_REQUESTS
    )
    refuse(viewer, raw(host, m.LinkPing(link_limits.LINK_REQUESTS + 1)), "at one time")


def test_leases_at_n_and_n_plus_1():
    host, viewer = channels()
    for n in range(limits.LEASES):
        announce(host, viewer, lease(n + 1, f"s{n}"))
    with pytest.raises(InternalError, match="more than"):
        begin(host, lease(9999, "more"))
    refuse(viewer, raw(host, m.LeaseBegun.of(5000, lease(9999, "more"), "p")), "more")


def test_records_at_n_and_n_plus_1_bytes():
    _, viewer = channels()
    size = link_limits.LINK_RECORD_BYTES + TAG_BYTES
    viewer.feed(HEADER.pack(size))
    assert viewer.in_record
    _, viewer = channels()
    refuse(viewer, HEADER.pack(size + 1), "announces")


def test_no_nonce_is_used_again():
    host, viewer = channels()
    for end in (host._out, viewer._in):
        end._number = link_limits.LINK_COUNTER - 1
    viewer.feed(host.ask(m.LinkPing)[1])
    with pytest.raises(RefusedError, match="used up"):
        host.ask(m.LinkPing)
    refuse(viewer, encode_frame(b"x" * 40, 100), "used up")


def test_bye_is_the_end_and_its_absence_a_loss():
    host, viewer = channels()
    data = host.bye("stopped by a person")
    assert viewer.feed(data) == [(m.Bye("stopped by a person"), None)]
    viewer.eof()
    with pytest.raises(LinkRefusedError, match="after"):
        viewer.feed(b"x")
    with pytest.raises(RefusedError):
        host.ask(m.LinkPing)
    _, viewer = channels()
    with pytest.raises(LinkRefusedError, match="without Bye") as caught:
        viewer.eof()
    assert caught.value.reason is RefusalReason.CLOSED
    host, viewer = channels()
    ping = host.ask(m.LinkPing)[1]
    refuse(viewer, host.bye("x") + ping, "Bye|next control record")


def test_who_refuses_a_message_says_why_once():
    """A message of another release: else its sender knows of a lost connection only."""
    host, viewer = channels()
    body = b'{"type":"ping","request":1,"fresh":2}'
    refuse(viewer, host._record(body), "unknown field")
    ((bye, _),) = host.feed(viewer.bye("unknown field `fresh`"))
    assert bye == m.Bye("unknown field `fresh`")
    with pytest.raises(RefusedError):
        viewer.bye("again")
    assert viewer.feed(host._record(body)) == []


def test_what_crosses_with_our_own_bye_is_dropped():
    host, viewer = channels()
    data = viewer.ask(m.LinkPing)[1]
    host.bye("stopped")
    assert host.feed(data) == []
    host.eof()


@given(st.integers(1, 300))
def test_chunks_do_not_matter(size):
    host, viewer = channels()
    data = begin(host, lease(1))[1] + ended(host, lease(1))[1] + host.bye("end")
    got = []
    for at in range(0, len(data), size):
        got += viewer.feed(data[at : at + size])
    assert [type(message) for message, _ in got] == [m.LeaseBegun, m.LeaseEnded, m.Bye]


@given(st.lists(st.binary(max_size=100), max_size=5))
def test_any_bytes_are_refused_at_once_or_at_the_end(chunks):
    _, viewer = channels()
    with pytest.raises(LinkRefusedError):  # noqa: PT012  whichever it is
        for chunk in chunks:
            assert viewer.feed(chunk) == []
        viewer.eof()
    assert not viewer.open


@given(st.binary(min_size=1, max_size=200))
def test_any_body_sealed_by_the_true_other_end_is_a_message_or_a_refusal(body):
    host, viewer = channels()
    with pytest.raises(LinkRefusedError):
        viewer.feed(host._record(body))


class ControlMachine(RuleBasedStateMachine):
    """Both ends ask and reply as they like; bytes arrive in any pieces.

    Once everything is delivered, both books are the model's.
    """

    def __init__(self):
        super().__init__()
        self.ends = dict(zip(Role, channels(), strict=True))
        self.wire = {role: bytearray() for role in Role}  # towards it
        self.todo = {role: [] for role in Role}  # requests it has not answered
        self.live = {}
        self.next = 1

    def ask(self, role, make):
        if self.ends[role].asked < link_limits.LINK_REQUESTS:
            self.wire[role.other] += self.ends[role].ask(make)[1]

    @rule(name=st.sampled_from(["a", "b", "c"]))
    def lease_begins(self, name):
        if name not in self.live.values():
            one = lease(self.next, name)
            self.next += 1
            self.live[one.id] = name
            self.ask(Role.HOST, lambda n: m.LeaseBegun.of(n, one, "cid 9"))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def lease_ends(self, data):
        known = [i for i in self.live if i in self.ends[Role.HOST].leases._by_id]
        if known:
            which = data.draw(st.sampled_from(known))
            del self.live[which]
            self.ask(Role.HOST, lambda n: m.LeaseEnded(n, which, "over"))

    @rule()
    def viewer_starts(self):
        self.ask(Role.VIEWER, lambda n: m.StartSandbox(n, "web"))

    @rule(start=st.integers(1, 9))
    def host_tells(self, start):
        self.ask(Role.HOST, lambda n: m.StartProgress(n, start, "it takes a while"))

    @rule(role=st.sampled_from(Role))
    def ping(self, role):
        self.ask(role, m.LinkPing)

    @rule(role=st.sampled_from(Role), size=st.integers(1, 400))
    def deliver(self, role, size):
        data = bytes(self.wire[role][:size])
        del self.wire[role][:size]
        for message, request in self.ends[role].feed(data):
            if isinstance(message, m.LinkRequest):
                self.todo[role].append(message)
            else:
                assert request is not None
                if isinstance(request, m.LeaseBegun | m.LeaseEnded):
                    assert role is Role.HOST

    @precondition(lambda self: any(self.todo.values()))
    @rule(data=st.data(), refuse=st.booleans())
    def answer(self, data, refuse):
        role = data.draw(st.sampled_from([r for r in Role if self.todo[r]]))
        which = data.draw(st.integers(0, len(self.todo[role]) - 1))
        request = self.todo[role].pop(which)
        reply = m.RequestDone(request.request)
        if isinstance(request, m.StartSandbox):
            reply = m.SandboxStarted(request.request, lease(1).id)
        if refuse and m.RequestRefused in m.REPLIES[type(request)]:
            reply = m.RequestRefused(request.request, "refused", "no")
        self.wire[role.other] += self.ends[role].reply(reply)

    @invariant()
    def bounded(self):
        for end in self.ends.values():
            assert end.open
            assert end.asked <= link_limits.LINK_REQUESTS
            assert len(end._requests.owed) <= link_limits.LINK_REQUESTS

    def teardown(self):
        for _ in range(3):
            for role in Role:
                self.deliver(role, 10**6)
        host, viewer = (self.ends[role].leases for role in Role)
        assert {a.lease.id for a in host.all()} == set(self.live)
        assert host.all() == viewer.all()


def test_control_as_a_state_machine():
    run_state_machine_as_test(ControlMachine, settings=settings(stateful_step_count=40))
