"""A client of the authority: permits, notifications and refusals by messages."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import pytest
import trio

from broker.authority.audit.event_log import of
from broker.authority.channel.request_messages import request_of
from broker.authority.permit import USER, Request
from broker.core.errors import (
    InternalError,
    RefusedError,
    SetupError,
    UpstreamError,
    sole,
)
from broker.core.limits import authority as authority_limits
from broker.core.services import AUDIO
from broker.ipc import authority as m
from broker.ipc.audit import log_rows, schema
from broker.viewer.authority.authority_client import AuthorityClient
from broker.viewer.authority.request_messages import asked_of
from broker.wire.call_messages import (
    AnswerMessage,
    CallMessage,
    ErrorMessage,
    ErrorReport,
    PingMessage,
    decode_message,
    encode_message,
)
from broker.wire.calls import PONG, Calls
from broker.wire.faults import NotFoundError
from broker.wire.frame_carrier import Frames
from broker.wire.row import Empty, ProcessKind
from policy.records.device import DeviceFacts, take_interface
from tests.kit.authority import client_of, stage
from tests.kit.eventually import eventually
from tests.kit.rulebook import VAULT, WORK, no, yes
from tests.kit.world import record

FACTS = DeviceFacts(
    id="1d6b:0002", port="1-2", interfaces=(take_interface("03:01:02"),)
)


def request(service="t.Do", lease=WORK, **more):
    return Request(lease=lease, service=service, **more)


async def carry(client, step):
    """Do something that is permitted, for as long as it is."""
    with trio.fail_after(30):
        async with client.permit(request()):
            await step()


def test_a_request_is_the_same_beyond_the_channel():
    """Each field has a value that is not its default, so a forgotten one is noticed."""
    made = Request(
        lease=WORK,
        service="vitrail.SecurityKey",
        argument="+x",
        target="work",
        mime="text/plain",
        scheme="https",
        host="h",
        size=3,
        gesture=0.5,
        device=FACTS,
        stream=4,
        peer="cid 5",
        source="@adminvm",
        way="sign in",
        about="its hash",
        claims=(("wrong PINs", "2"),),
        settled=True,
        raw=True,
        write=True,
        ahead=True,
        asks=True,
        opens=True,
        counts_bytes=False,
    )
    body = msgspec.msgpack.encode(asked_of(made))
    asked = msgspec.msgpack.decode(body, type=m.AskedRequest)
    assert request_of(asked, WORK) == made
    assert set(m.AskedRequest.__struct_fields__) == set(Request.__dataclass_fields__)


@pytest.mark.parametrize(
    "kind", [NotFoundError, RefusedError, UpstreamError, SetupError]
)
def test_an_error_is_the_same_beyond_the_channel(kind):
    made = ErrorMessage.of(1, kind("what", hint="do", where="f:1")).error()
    assert type(made) is kind
    assert (made.message, made.hint, made.where) == ("what", "do", "f:1")


async def test_a_permit_is_live_while_its_block_runs():
    async with client_of("t.Do * work @adminvm allow\n") as (s, client):
        await client.lease_begun(WORK)
        async with client.permit(request()) as permit:
            assert (permit.target, permit.number > 0) == ("dom0", True)
            assert len(s.authority.decider.live()) == 1
        await eventually(lambda: not s.authority.decider.live())
        (event,) = s.events("decision")
        assert (event["sandbox"], event["verdict"]) == ("work", "allow")


async def test_a_permit_has_a_new_warrant_when_it_wants_one():
    async with client_of("t.Do * work @adminvm allow\n") as (_, client):
        await client.lease_begun(WORK)
        async with client.permit(request()) as permit:
            first = permit.renewed()
            await eventually(lambda: permit.warrant != first)


async def test_a_denial_says_where():
    async with client_of("t.Do * work @adminvm deny\n") as (_, client):
        await client.lease_begun(WORK)
        with pytest.raises(RefusedError, match="denied") as caught:
            async with client.permit(request()):
                raise AssertionError
        assert caught.value.where.endswith("50-test.policy:1")


async def test_a_changed_file_cuts_the_block():
    async with client_of("t.Do * work @adminvm allow\n") as (s, client):
        await client.lease_begun(WORK)

        async def change():
            s.book.write("50-test.policy", "t.Do * work @adminvm deny\n")
            await client.reload()
            await trio.sleep_forever()

        with pytest.raises(RefusedError, match="denied now"):
            await carry(client, change)


async def test_the_time_of_a_rule_cuts_the_block():
    async with client_of("t.Do * work @adminvm allow ttl=1s\n") as (s, client):
        await client.lease_begun(WORK)
        with pytest.raises(RefusedError, match="the time limit of the rule"):
            await carry(client, trio.sleep_forever)
        await eventually(lambda: len(s.events("decision")) == 2)


async def test_a_cut_is_told_before_it_is_recorded(monkeypatch):
    """A log that is slow, or full, delays no revocation."""
    async with client_of("t.Do * work @adminvm allow ttl=1s\n") as (s, client):
        await client.lease_begun(WORK)

        async def never(event):
            await trio.sleep_forever()

        async def stop_the_log():
            monkeypatch.setattr(s.log, "note", never)
            await trio.sleep_forever()

        with pytest.raises(RefusedError, match="the time limit of the rule"):
            await carry(client, stop_the_log)


async def test_the_user_is_asked():
    async with client_of("t.Do * work @adminvm ask\n") as (s, client):
        await client.lease_begun(WORK)
        told = []

        async def on_ask():
            told.append(True)

        s.person.says = yes()
        async with client.permit(request(), on_ask=on_ask) as permit:
            assert permit.answered
        assert told == [True]
        s.person.says = no
        with pytest.raises(RefusedError, match="the user said no"):
            async with client.permit(request(), on_ask=on_ask):
                raise AssertionError


async def test_who_gives_up_withdraws_the_question():
    async with client_of("t.Do * work @adminvm ask\n") as (s, client):
        await client.lease_begun(WORK)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def ask():
                    async with client.permit(request()):
                        raise AssertionError

                nursery.start_soon(ask)
                await s.person.wait_asked(1)
                assert len(s.person.open) == 1
                scope.cancel()
        await eventually(lambda: not s.person.open)


async def test_a_request_that_cannot_be_sent_ends_no_channel():
    """Its end is not told either: the authority would take that for a lie."""
    async with client_of("t.Do * work @adminvm allow\n") as (s, client):
        await client.lease_begun(WORK)
        unfit = request(argument="+\udc80")
        with pytest.raises(InternalError):
            async with client.permit(unfit):
                raise AssertionError
        with pytest.raises(InternalError):
            await client.choose([unfit])
        with trio.move_on_after(10):
            async with client.permit(request()):
                pass
        assert s.fault is None


async def test_requests_that_are_given_up_are_bounded_here(monkeypatch):
    """Else the authority, whose disk is slow, counts more of them than there may be."""
    monkeypatch.setattr(authority_limits, "AUTHORITY_REQUESTS", 8)
    async with client_of("t.Do * work @adminvm allow\n") as (s, client):
        await client.lease_begun(WORK)
        disk, record = trio.Event(), s.log.require

        async def slow(event):
            with trio.CancelScope(shield=True):
                await disk.wait()
            await record(event)

        async def give_up(step):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(step)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()

        async def fill(step):
            for _ in range(8):
                await give_up(step)

        monkeypatch.setattr(s.log, "require", slow)
        event = schema.StreamOpened(**of(WORK))
        steps = (
            partial(carry, client, trio.sleep_forever),
            partial(client.require, event),
        )
        try:
            for step in steps:
                for _ in range(3):
                    await give_up(step)
            for step in steps:
                with pytest.raises(ExceptionGroup) as refused:
                    await fill(step)
                assert "too many calls" in str(sole(refused.value))
        finally:
            disk.set()
        await eventually(lambda: client.peer.oldest_pending is None)
        assert s.fault is None
        async with client.permit(request()):
            pass


async def test_a_yes_after_the_program_went_is_for_its_next_request():
    async with client_of(f"{AUDIO} * work @adminvm ask\n") as (s, client):
        plays = record("persistent") + '[audio]\nplayback = "allow"\n'
        s.book.write_record("work", plays)
        await client.reload()
        await client.lease_begun(WORK)
        gone = trio.Event()

        async def late(question):
            gone.set()
            await eventually(lambda: s.person.missing)
            return yes()(question)

        s.person.says = late
        with pytest.raises(RefusedError, match="given up before the answer"):
            async with client.permit(request(AUDIO), gone=gone):
                raise AssertionError
        async with client.permit(request(AUDIO)):
            assert len(s.person.asked) == 1


async def test_a_covered_request_is_not_asked_about_again():
    paste, claims = "vitrail.ClipboardPaste", (("type", "x/a"), ("type", "x/b"))
    async with client_of(f"{paste} * work @adminvm ask mime=x/*\n") as (s, client):
        await client.lease_begun(WORK)
        s.person.says = yes()
        async with (
            client.permit(request(paste, mime="x/a", claims=claims)) as first,
            client.permit(request(paste, mime="x/b"), covered=first),
        ):
            assert len(s.person.asked) == 1


async def test_the_user_chooses_one_of_several():

    device = {"service": "vitrail.Device", "device": DeviceFacts("0951:1666")}
    async with client_of("vitrail.Device * @anyvm @adminvm ask\n") as (s, client):
        for lease in (WORK, VAULT):
            await client.lease_begun(lease)
        s.person.says = yes(target="vault")
        requests = [request(lease=lease, **device) for lease in (WORK, VAULT)]
        found = await client.choose(requests)
        assert found.request.lease == VAULT
        async with client.permit(found.request, chosen=found.asked):
            assert len(s.person.asked) == 1


async def test_a_permit_follows_the_rules_in_force():
    rule = "t.Do * work @adminvm allow max-size={} {}\n"
    async with client_of(rule.format(9, "return=yes")) as (s, client):
        await client.lease_begun(WORK)
        async with client.permit(request()) as permit:
            assert (permit.max_size, permit.returns) == (9, True)
            s.book.write("50-test.policy", rule.format(5, ""))
            await client.reload()
            await eventually(lambda: (permit.max_size, permit.returns) == (5, False))


async def verdict_of(client, asked):
    (answer,) = await client.preview([asked])
    return answer.verdict


async def test_a_preview_is_by_what_is_in_force():
    async with client_of("t.Do * work @adminvm allow\n") as (s, client):
        await client.lease_begun(WORK)
        assert await verdict_of(client, request()) == "allow"
        s.book.write("50-test.policy", "t.Do * work @adminvm deny\n")
        s.book.write_record("third", "[sandbox]\n")
        await client.reload()
        await eventually(lambda: client.records.digest == s.authority.records.digest)
        assert await verdict_of(client, request()) == "deny"
        with trio.fail_after(30):
            await client.wait_changed()


async def test_a_preview_is_asked_for_once_until_something_changes(monkeypatch):
    async with client_of("t.Do * @anyvm @adminvm allow\n") as (s, client):
        await client.lease_begun(WORK)
        asked = []
        preview = s.authority.decider.preview

        async def counted(requests):
            asked.extend(requests)
            return await preview(requests)

        monkeypatch.setattr(s.authority.decider, "preview", counted)
        for _ in range(2):
            assert await verdict_of(client, request()) == "allow"
        assert len(asked) == 1
        await client.lease_begun(VAULT)
        await verdict_of(client, request())
        await client.lease_ended(VAULT.id)
        await verdict_of(client, request())
        assert len(asked) == 3


async def test_a_preview_that_crosses_a_change_is_not_kept(monkeypatch):
    async with client_of("t.Do * work @adminvm allow\n") as (s, client):
        await client.lease_begun(WORK)
        preview, held = s.authority.decider.preview, trio.Event()

        async def late(requests):
            answers = await preview(requests)
            await held.wait()
            return answers

        monkeypatch.setattr(s.authority.decider, "preview", late)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(verdict_of, client, request())
            await trio.testing.wait_all_tasks_blocked()
            s.book.write("50-test.policy", "t.Do * work @adminvm deny\n")
            await client.reload()
            held.set()
        assert await verdict_of(client, request()) == "deny"


async def test_many_previews_are_several_messages():
    async with client_of("t.Do * work @adminvm allow\n") as (_, client):
        await client.lease_begun(WORK)
        many = authority_limits.AUTHORITY_PREVIEWS + 1
        answers = await client.preview([request(size=n) for n in range(many)])
        assert [one.verdict for one in answers] == ["allow"] * many
        assert await client.preview([]) == []


async def test_rules_are_shown_as_they_are_written():
    rules = (
        "t.Do +a work @adminvm allow mime=text/plain max-size=9 ttl=5s\n"
        "t.Do * vault @adminvm allow\n"
        "t.Other * work @adminvm deny\n"
        "t.Do * work vault ask mode=observe\n"
        "* * @anyvm vault deny host=example.org\n"
    )
    async with client_of(rules) as (_, client):
        await client.lease_begun(WORK)
        first, last = await client.rules_about("t.Do", "work")
        assert (first.argument, first.target, first.action) == (
            "+a",
            "@adminvm",
            "allow",
        )
        assert (first.mime, first.max_size, first.ttl) == (("text/plain",), 9, 5)
        assert (last.service, last.host) == (None, ("example.org",))
        assert await client.rules_about("t.Do", "work", "vault") == [last]


async def test_the_users_own_requests_are_for_the_rules_alone():
    rules = "t.Do * @adminvm work allow target=vault return=yes\n"
    async with client_of(rules) as (_, client):
        asked = request(lease=USER, target="work")
        (answer,) = await client.preview([asked])
        assert (answer.verdict, answer.target, answer.returns) == (
            "allow",
            "vault",
            True,
        )
        await client.lease_begun(WORK)
        with pytest.raises(RefusedError):
            async with client.permit(request(service="t.None")):
                raise AssertionError


async def test_rules_with_an_error_deny_everything_that_is_shown():
    async with client_of("t.Do * work\n") as (_, client):
        await client.lease_begun(WORK)
        assert await verdict_of(client, request()) == "deny"


async def test_events_are_recorded_before_they_are_answered():
    async with client_of() as (s, client):
        await client.lease_begun(WORK)
        whose = {"sandbox": "work", "lease": WORK.id, "generation": 1}
        await client.require(schema.StreamOpened(service="x", **whose))
        assert len(s.events("stream.opened")) == 1
        await client.refused(schema.StreamRefused(outcome="refused", **whose))
        assert client.digest(b"x").startswith("hmac:")
        assert client.content_digest(b"x") == client.digest(b"x")


@pytest.mark.parametrize("moment", ["asked", "written", "answered"])
async def test_a_stream_that_is_given_up_as_it_is_opened_has_an_end(
    moment, monkeypatch
):
    """At any moment: each stream on record as opened is on record as closed."""
    async with client_of("t.Do * work @adminvm allow\n") as (s, client):
        await client.lease_begun(WORK)
        scope, require, wait = (
            trio.CancelScope(),
            s.log.require,
            client._wait_for_permit,
        )

        async def give_up():
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()

        async def written(*events):
            if moment == "asked":
                with trio.CancelScope(shield=True):
                    await give_up()
            await require(*events)
            if moment == "written":
                with trio.CancelScope(shield=True):
                    await give_up()

        async def answered(*asked):
            permit = await wait(*asked)
            if moment == "answered":
                scope.cancel()
                await trio.lowlevel.checkpoint()
            return permit

        monkeypatch.setattr(s.log, "require", written)
        monkeypatch.setattr(client, "_wait_for_permit", answered)
        with scope:
            async with client.permit(request(opens=True, stream=7)):
                raise AssertionError
        (closed,) = await eventually(lambda: s.events("stream.closed"))
        assert (closed["stream"], len(s.events("stream.opened"))) == (7, 1)


async def test_a_stream_whose_permit_is_cut_as_it_is_opened_has_an_end(monkeypatch):
    async with client_of("t.Do * work @adminvm allow\n") as (s, client):
        await client.lease_begun(WORK)
        wait = client._wait_for_permit

        async def cut(*asked):
            permit = await wait(*asked)
            s.book.write("50-test.policy", "t.Do * work @adminvm deny\n")
            await client.reload()
            await eventually(lambda: permit.over)
            return permit

        monkeypatch.setattr(client, "_wait_for_permit", cut)
        with pytest.raises(RefusedError):
            async with client.permit(request(opens=True, stream=7)):
                raise AssertionError
        await eventually(lambda: s.events("stream.closed"))
        monkeypatch.undo()
        s.book.write("50-test.policy", "t.Do * work @adminvm allow\n")
        await client.reload()
        async with client.permit(request(opens=True, stream=8)):
            pass  # its end is the client's to record
        await eventually(lambda: not s.authority.decider.live())
        assert [e["stream"] for e in s.events("stream.closed")] == [7]


async def test_an_event_that_cannot_be_recorded_is_an_error(monkeypatch):
    async with client_of() as (s, client):
        await client.lease_begun(WORK)

        async def full(event):
            raise UpstreamError("the disk is full", hint="make room")

        monkeypatch.setattr(s.log, "require", full)
        event = schema.StreamOpened(sandbox="work", lease=WORK.id, generation=1)
        with pytest.raises(UpstreamError, match="the disk is full"):
            await client.require(event)


async def test_a_share_of_the_log_that_is_used_up(monkeypatch):
    async with client_of() as (s, client):
        await client.lease_begun(WORK)
        client.check_share(WORK)

        def used_up(lease):
            raise RefusedError("its share is used up")

        monkeypatch.setattr(s.log, "check_share", used_up)
        event = schema.StreamOpened(sandbox="work", lease=WORK.id, generation=1)
        await client.require(event)
        with pytest.raises(RefusedError, match="its share is used up"):
            client.check_share(WORK)
        client.check_share(VAULT)


async def test_what_ends_with_the_authority():
    async with client_of("t.Do * work @adminvm ask\n") as (s, client):
        await client.lease_begun(WORK)
        async with trio.open_nursery() as nursery:

            async def ask():
                with pytest.raises(UpstreamError, match="the authority has exited"):
                    await carry(client, trio.sleep_forever)

            nursery.start_soon(ask)
            await s.person.wait_asked(1)
            s.channel._link.close()
        with trio.fail_after(30):
            await client.lost.wait()
        with pytest.raises(UpstreamError, match="the authority has exited"):
            await client.reload()


@asynccontextmanager
async def scripted(monkeypatch, answers):
    """A client whose authority is the test; ``answers`` takes each report asked for.

    Yields what the client says when it has lost the authority.
    """
    monkeypatch.setattr(authority_limits, "AUTHORITY_BEAT_SECONDS", 0.01)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    send, lost = trio.open_memory_channel(1)
    with ours, theirs:
        far = Frames(ours, receive_bytes=1 << 20, send_bytes=1 << 20, waiting=1 << 20)
        near = Frames(
            theirs, receive_bytes=1 << 20, send_bytes=1 << 20, waiting=1 << 20
        )
        client = AuthorityClient(near, lost=send.send_nowait)

        async def authority():
            calls = Calls(ProcessKind.AUTHORITY, ProcessKind.VIEWER, m.AUTHORITY_ROWS)
            welcome = log_rows.Welcome(1, b"a key", clipboard_digest=True)
            far.put(calls.notify(log_rows.WELCOME, welcome))
            far.put(calls.notify(log_rows.POLICY_CHANGED, log_rows.PolicyChanged("")))
            while True:
                frame = (await far.receive()).data
                await answers(far, decode_message(frame))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(authority)
            await nursery.start(client.run)
            yield client, lost
            nursery.cancel_scope.cancel()


async def test_an_authority_that_does_not_answer_is_lost(monkeypatch):
    """It reads, and its process has not ended: nothing else would show it."""
    monkeypatch.setattr(authority_limits, "AUTHORITY_SILENT_SECONDS", 1)

    async def silent(far, message):
        del far
        assert isinstance(message, PingMessage)

    async with scripted(monkeypatch, silent) as (_, lost):
        with trio.fail_after(30):
            assert "did not answer" in await lost.receive()


async def test_pings_are_sent_though_all_places_are_taken(monkeypatch):
    monkeypatch.setattr(authority_limits, "AUTHORITY_SILENT_SECONDS", 1)
    monkeypatch.setattr(authority_limits, "AUTHORITY_REQUESTS", 2)

    async def silent(far, message):
        del far, message

    async with (
        scripted(monkeypatch, silent) as (client, lost),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.reload)
        nursery.start_soon(client.reload)
        await eventually(lambda: len(client.peer._pending) >= 2)
        with pytest.raises(RefusedError, match="too many calls"):
            await client.reload()
        with trio.fail_after(30):
            await lost.receive()
        nursery.cancel_scope.cancel()


async def test_shielded_request_ends_when_its_client_is_cancelled(monkeypatch):
    """Killed under load, the viewer waited for ever for an event that it recorded."""

    async def silent(far, message):
        del far, message

    async def record(client):
        with (
            trio.CancelScope(shield=True),
            pytest.raises(UpstreamError, match="exited"),
        ):
            await client.reload()

    with trio.fail_after(30):
        async with (
            trio.open_nursery() as nursery,
            scripted(monkeypatch, silent) as (client, _),
        ):
            nursery.start_soon(record, client)
            await eventually(lambda: client.peer.oldest_pending)


async def test_an_authority_that_answers_late_is_not_lost(monkeypatch):
    """Each answer comes in the second of two seconds."""
    monkeypatch.setattr(authority_limits, "AUTHORITY_SILENT_SECONDS", 2)
    answered = []

    async def late(far, message):
        await trio.sleep(1.2)
        answered.append(message)
        far.put(PONG)

    async with scripted(monkeypatch, late) as (_, lost):
        await eventually(lambda: len(answered) == 2, deadline=30)
        with pytest.raises(trio.WouldBlock):
            lost.receive_nowait()


async def test_a_broker_that_ends_says_so():
    async with client_of() as (s, client):
        await client.serve_control()
        assert s.served == 1
        assert (await client.report()).warnings == ["a warning"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.stop, "over")
            with trio.fail_after(30):
                await s.ended.wait()
            assert s.has_asked_to_stop
            s.channel.put(log_rows.STOPPED, Empty())


async def test_a_start_that_fails_is_the_start_s_error():
    async with stage() as (s, sock):
        error = ErrorReport.of(SetupError("a broker runs already"))
        s.channel.put(log_rows.START_FAILED, log_rows.StartFailed(error))
        link = Frames(sock, receive_bytes=1 << 20, send_bytes=1 << 20, waiting=1 << 20)
        client = AuthorityClient(link, lost=list)
        s.channel._told = (s.authority.rules.now.rules, s.authority.records)
        with pytest.raises(ExceptionGroup) as caught:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.run)
        assert "a broker runs already" in repr(caught.value.exceptions)


async def test_the_end_of_a_lease_is_sent_though_all_places_are_taken(monkeypatch):
    monkeypatch.setattr(authority_limits, "AUTHORITY_REQUESTS", 1)
    ended = trio.Event()

    async def silent(far, message):
        if isinstance(message, CallMessage) and message.row == "EndLease":
            ended.set()
            nothing = msgspec.Raw(msgspec.msgpack.encode(Empty()))
            far.put(encode_message(AnswerMessage(message.call, nothing)))

    async with (
        scripted(monkeypatch, silent) as (client, _),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.reload)
        await eventually(lambda: client.peer.oldest_pending)
        with pytest.raises(RefusedError, match="too many calls"):
            await client.reload()
        await client.lease_ended(WORK.id)
        nursery.cancel_scope.cancel()
    assert ended.is_set()
