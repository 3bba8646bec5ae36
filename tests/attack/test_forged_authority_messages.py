"""A taken-over process of the broker lies to the authority: its channel ends.

It holds streams and machines, and the authority decides what of that may be.  A
message that an honest process never sends ends the channel, and nothing of it is
permitted or recorded.
"""

from __future__ import annotations

import msgspec
import pytest
import trio

from broker.authority.audit.event_log import of
from broker.authority.channel.event_rights import KINDS
from broker.authority.permit import Request
from broker.core.limits import audit as audit_limits
from broker.core.limits import authority as authority_limits
from broker.core.services import DISPLAY, SSH_AGENT
from broker.ipc import authority as m
from broker.ipc.audit import log_rows, schema
from broker.ipc.session.permit_warrant import PermitWarrant
from broker.ipc.session.warrant import SIGNATURE_BYTES
from broker.viewer.authority.request_messages import asked_of
from broker.wire.call_messages import CancelMessage, ErrorMessage, ItemMessage
from broker.wire.row import Empty
from policy.records.device import DeviceFacts
from tests.kit.authority import SentMessage, call, frame_of, hostile
from tests.kit.eventually import eventually
from tests.kit.rulebook import VAULT, WORK, lease_of, no, yes

ALLOW = "t.Do * * @adminvm allow\n"
WRITTEN_HERE = {
    "broker.start",
    "broker.stop",
    "policy.loaded",
    "policy.refused",
    "decision",
    "question.asked",
    "question.answered",
    "grant.made",
    "grant.ended",
    "audit.migrated",
    "audit.gap",
    "audit.pruned",
    "lockdown.changed",
}
"""The kinds of events that only the authority writes."""


def ask(number, lease=WORK, **more):
    """A request for a permit."""
    return call(
        number,
        m.PERMIT,
        m.AskPermit(asked_of(Request(lease=lease, service="t.Do", **more))),
    )


def began(number, lease):
    """A host's record of a lease."""
    event = schema.LeaseBegin(**of(lease), record=lease.record)
    return record(number, event, "require")


def record(number, event, how="note"):
    return call(
        number, log_rows.RECORD, log_rows.RecordEvent(schema.encode(event), how)
    )


async def ends(made, match):
    """The channel ends, for that reason."""
    with trio.fail_after(30):
        await made.ended.wait()
    assert match in str(made.fault)


async def test_a_permit_for_a_lease_that_was_not_announced():
    async with hostile(ALLOW) as (made, client):
        await client.announce(WORK)
        await client.say(ask(2, VAULT))
        await ends(made, "a lease that it has not announced")
        assert made.events("decision") == []


async def test_a_permit_for_a_sandbox_that_has_stopped():
    """Its last request may cross the message that it ends: a no, and no more."""
    async with hostile(ALLOW) as (made, client):
        await client.announce(WORK)
        await client.say(
            call(2, log_rows.END_LEASE, log_rows.EndLease(WORK.id)), ask(3)
        )
        assert "has stopped" in (await client.hear(ErrorMessage)).message
        assert made.events("decision") == []
        assert not made.ended.is_set()


async def test_the_sandbox_of_a_request_is_the_one_that_was_announced():
    """The message has no name of a sandbox, only a lease."""
    async with hostile("t.Do * vault @adminvm allow\n") as (made, client):
        await client.announce(WORK)
        await client.say(ask(2))
        await client.hear(ErrorMessage)
        (event,) = made.events("decision")
        assert (event["sandbox"], event["verdict"]) == ("work", "deny")


async def test_a_stream_that_is_refused_is_not_recorded_as_opened():
    """Though its viewer says that one begins with the permit, and with a service's name."""
    async with hostile("t.Do * vault @adminvm allow\n") as (made, client):
        await client.announce(WORK)
        await client.say(
            ask(2, opens=True, stream=3), ask(3, opens=True, target="vault")
        )
        for _ in range(2):
            await client.hear(ErrorMessage)
        assert {e["verdict"] for e in made.events("decision")} == {"deny"}
        assert made.events("stream.opened", "stream.closed") == []


async def test_what_a_preview_opens_is_not_recorded():
    async with hostile(ALLOW) as (made, client):
        await client.announce(WORK)
        asked = m.PreviewRequest(
            WORK.sandbox, WORK.record, ask(0, opens=True).request.asked
        )
        await client.say(call(2, m.PREVIEW, m.PreviewRequests([asked])))
        await client.hear(m.Previews)
        assert made.events("decision", "stream.opened") == []


async def test_a_lease_is_announced_again_as_another_sandbox():
    async with hostile(ALLOW) as (made, client):
        await client.announce(WORK)
        await client.say(
            call(
                2,
                log_rows.ANNOUNCE_LEASE,
                log_rows.AnnounceLease(WORK.id, "vault", "vault", 1),
            )
        )
        await ends(made, "for another sandbox")


@pytest.mark.parametrize("kind", sorted(WRITTEN_HERE))
async def test_an_event_that_only_the_authority_writes(kind):
    """Decisions, questions, grants, rules in force: none can be forged."""
    body = msgspec.json.encode({"kind": kind, **_needed(kind)})
    assert schema.decode(body).kind == kind
    async with hostile() as (made, client):
        await client.announce(WORK)
        before = len(made.events(kind))
        await client.say(call(2, log_rows.RECORD, log_rows.RecordEvent(body, "note")))
        await ends(made, f"it may not record an event {kind}")
        assert len(made.events(kind)) == before


def _needed(kind):
    """The fields that an event of a kind must have."""
    made = next(one for one in schema.AnyEvent.__args__ if _tag(one) == kind)
    values = {
        str: "x",
        int: 1,
        bool: True,
        float: 1.0,
        list[str]: [],
        schema.EventVerdict: "allow",
    }
    return {
        field.encode_name: values.get(field.type, "x")
        for field in msgspec.structs.fields(made)
        if field.required
    }


def _tag(kind):
    return kind.__struct_config__.tag


def test_each_kind_has_an_owner():
    """A new kind is in the table of a role, or the authority's alone."""
    recorded = KINDS["host"] | KINDS["viewer"]
    assert recorded | WRITTEN_HERE == set(schema.KINDS)
    assert not recorded & WRITTEN_HERE


async def test_a_viewer_records_no_lease():
    async with hostile(role="viewer") as (made, client):
        await client.say(record(1, schema.LeaseBegin(sandbox="work", lease="1")))
        await ends(made, "it may not record an event lease.begin")
        assert made.events("lease.begin") == []


@pytest.mark.parametrize(
    "whose",
    [
        {"sandbox": "vault", "lease": VAULT.id, "generation": 1},
        {"sandbox": "vault", "lease": WORK.id, "generation": 1},
        {"sandbox": "work", "lease": WORK.id, "generation": 2},
    ],
)
async def test_an_event_about_the_lease_of_another(whose):
    async with hostile() as (made, client):
        await client.announce(WORK)
        await client.say(record(2, schema.StreamOpened(service=DISPLAY, **whose)))
        await ends(made, "fits no lease of its own")
        assert made.events("stream.opened") == []


async def test_an_event_without_a_lease_about_another_sandbox():
    async with hostile() as (made, client):
        await client.announce(WORK)
        event = schema.ClipboardEnded(sandbox="vault", outcome="refused")
        await client.say(record(2, event, "refused"))
        await ends(made, "is about no sandbox of its own")


@pytest.mark.parametrize(
    "event",
    [
        schema.ClipboardPasted(sandbox="@adminvm", target="vault"),
        schema.ClipboardEnded(sandbox="@adminvm", target="vault", outcome="refused"),
        schema.ClipboardEnded(sandbox="@adminvm", outcome="refused"),
        schema.ClipboardOffered(sandbox="@adminvm"),
        schema.StreamRefused(sandbox="@adminvm", outcome="refused"),
    ],
)
async def test_an_event_about_what_the_user_copied_for_another_sandbox(event):
    async with hostile() as (made, client):
        await client.announce(WORK)
        await client.say(record(2, event))
        await ends(made, "is about no sandbox of its own")
        assert made.events(event.kind) == []


async def test_what_the_user_copied_goes_to_a_sandbox_of_the_channel():
    """The user's own programs have no lease; an honest broker says this."""
    async with hostile() as (made, client):
        await client.announce(WORK)
        pasted = schema.ClipboardPasted(sandbox="@adminvm", target="work")
        await client.say(record(2, pasted, "require"))
        await client.hear(Empty)
        ended = schema.ClipboardEnded(
            sandbox="@adminvm", target="work", outcome="refused"
        )
        await client.say(record(3, ended, "refused"))
        await client.hear(Empty)
        assert not made.ended.is_set()
        (event,) = made.events("clipboard.pasted")
        assert (event["sandbox"], event["target"]) == ("@adminvm", "work")


async def test_an_answer_to_a_question_that_was_not_put():
    """A choice of the user's is named by its question, which must have been answered."""
    async with hostile("t.Do * * @adminvm ask\n") as (made, client):
        await client.announce(WORK)
        asked = asked_of(Request(lease=WORK, service="t.Do"))
        await client.say(call(2, m.PERMIT, m.AskPermit(asked, chosen=1)))
        await ends(made, "unknown or forgotten answer")
        assert made.person.asked == []


async def test_an_answer_to_a_question_about_something_else():
    """The user has chosen who gets a device; that permits nothing else."""
    rules = "vitrail.Device * * @adminvm ask\nt.Secret * * @adminvm ask\n"
    async with hostile(rules) as (made, client):
        await client.announce(WORK)
        made.person.says = yes(target="work")
        mouse = Request(lease=WORK, service="vitrail.Device", device=DeviceFacts("1:2"))
        await client.say(call(2, m.CHOOSE, m.ChoiceRequest([asked_of(mouse)])))
        chosen = (await client.hear(m.Chosen)).question
        secret = asked_of(Request(lease=WORK, service="t.Secret", argument="+bank"))
        made.person.says = no
        await client.say(call(3, m.PERMIT, m.AskPermit(secret, chosen=chosen)))
        assert (await client.hear(ErrorMessage)).call == 3
        assert len(made.person.asked) == 2, "the user is asked about that, too"


async def test_a_question_that_has_not_named_the_request():
    """One yes is for what its question has named, though one rule asks about both."""
    paste = "vitrail.ClipboardPaste"
    first, other = (
        asked_of(Request(lease=WORK, service=paste, argument=argument))
        for argument in ("+weather", "+bank")
    )
    async with hostile(f"{paste} * * @adminvm ask\n") as (made, client):
        await client.announce(WORK)
        made.person.says = yes()
        await client.say(call(2, m.PERMIT, m.AskPermit(first)))
        await client.hear(m.Permitted)
        made.person.says = no
        await client.say(call(3, m.PERMIT, m.AskPermit(other, covered=2)))
        assert (await client.hear(ErrorMessage)).call == 3
        assert len(made.person.asked) == 2


@pytest.mark.parametrize("service", ["vitrail.OpenURL", "vitrail.Folder", "t.Do"])
async def test_what_a_rule_wants_to_be_notified_of_is_not_left_to_the_viewer(service):
    """The viewer reports most outcomes; one that was taken over reports none."""
    rule = f"{service} * * * allow notify=yes\n"
    async with hostile(rule) as (made, client):
        await client.announce(WORK)
        asked = asked_of(Request(lease=WORK, service=service, argument="+a"))
        await client.say(call(2, m.PERMIT, m.AskPermit(asked)))
        await client.hear(m.Permitted)
        assert made.told == ["Vitrail: a request of work was allowed"]


@pytest.mark.parametrize(
    ("service", "told"),
    [("vitrail.Print", True), ("vitrail.Device", True), ("vitrail.OpenURL", False)],
)
async def test_a_refusal_is_reported_by_the_service_and_no_claim(service, told):
    async with hostile() as (made, client):
        await client.announce(WORK)
        asked = asked_of(Request(lease=WORK, service=service))
        await client.say(call(2, m.PERMIT, m.AskPermit(asked)))
        await client.hear(ErrorMessage)
        assert bool(made.told) is told


async def test_a_permit_ahead_of_its_uses_is_no_warrant_for_one():
    """A rule that asks about each use is a yes before, and carries nothing out."""
    async with hostile(f"{SSH_AGENT} * * @adminvm ask\n") as (made, client):
        await client.announce(WORK)
        asked = asked_of(Request(lease=WORK, service=SSH_AGENT, ahead=True))
        await client.say(call(2, m.PERMIT, m.AskPermit(asked)))
        signed = (await client.hear(m.Permitted)).warrant
        assert made.person.asked == []
        warrant = msgspec.json.decode(signed[SIGNATURE_BYTES:], type=PermitWarrant)
        assert warrant.ahead


@pytest.mark.parametrize("service", ["vitrail.OpenURL", "vitrail.Folder", "t.Do"])
async def test_a_permit_ahead_of_uses_that_there_are_not(service):
    """A rule that asks is a yes then, which no user is asked about."""
    async with hostile(f"{service} * * @adminvm ask\n") as (made, client):
        await client.announce(WORK)
        asked = asked_of(Request(lease=WORK, service=service, ahead=True))
        await client.say(call(2, m.PERMIT, m.AskPermit(asked)))
        await ends(made, "decided one by one")
        assert made.events("decision") == []


async def test_no_message_answers_a_question():
    """Answers come from the prompt agent and the control socket, not from a channel."""
    async with hostile("t.Do * * @adminvm ask\n") as (made, client):
        await client.announce(WORK)
        await client.say(ask(2))
        await made.person.wait_asked(1)
        # As the authority says that it is permitted.
        granted = msgspec.msgpack.encode({"granted": {"target": "dom0"}})
        await client.write(frame_of(ItemMessage(2, msgspec.Raw(granted))))
        await ends(made, "a call that is not open: 2")
        assert {e["verdict"] for e in made.events("decision")} <= {"deny"}
        assert made.events("question.answered")[0]["answer"] == "deny"


async def test_a_dialog_in_front_is_no_answer_and_a_token_is_a_short_line():
    """What a viewer that was taken over gains: the dialog that waits is seen."""
    async with hostile("t.Do * * @adminvm ask\n") as (made, client):
        await client.announce(WORK)
        await client.say(ask(2))
        await made.person.wait_asked(1)
        await client.say(SentMessage(m.SHOW_QUESTION, m.ShowQuestion("gnome_TIME12")))
        await eventually(lambda: made.raised)
        assert made.raised == ["gnome_TIME12"]
        assert made.events("question.answered") == []
        await client.say(SentMessage(m.SHOW_QUESTION, m.ShowQuestion("a\0b")))
        await ends(made, "an invalid ShowQuestion")
        assert len(made.raised) == 1


@pytest.mark.parametrize(
    ("again", "match"),
    [
        (ask(1), "sent call 1 after call 1"),
        (call(1, log_rows.RELOAD), "sent call 1 after call 1"),
        (SentMessage(m.PERMIT_OVER, m.PermitOver(9)), "a request that it has not sent"),
        (
            SentMessage(m.PERMIT_GONE, m.NamedPermit(9)),
            "a request that it has not sent",
        ),
    ],
    ids=["call", "another", "over", "gone"],
)
async def test_numbers_of_requests_are_used_once(again, match):
    async with hostile(ALLOW) as (made, client):
        await client.announce(WORK, request=1)
        await client.say(again)
        await ends(made, match)


async def test_a_way_to_record_that_there_is_not():
    async with hostile() as (made, client):
        await client.announce(WORK)
        event = schema.StreamOpened(sandbox="work", lease=WORK.id, generation=1)
        await client.say(record(2, event, "refused"))
        await ends(made, "in an unknown way")


async def test_what_has_ended_is_not_renewed(monkeypatch):
    """Also while its end is recorded; a live permit is."""
    async with hostile("t.Do * * @adminvm allow ttl=1s\n") as (made, client):
        await client.announce(WORK)
        await client.say(ask(2))
        given = await client.hear(m.Permitted)
        await client.say(SentMessage(m.RENEW_WARRANT, m.NamedPermit(2)))
        fresh = await client.hear(m.PermitNow)
        first, second = (
            msgspec.json.decode(one.warrant[SIGNATURE_BYTES:], type=PermitWarrant)
            for one in (given, fresh)
        )
        assert not first.renewed
        assert second.at > first.at
        assert second == msgspec.structs.replace(first, at=second.at, renewed=True)
        recorded = trio.Event()

        async def slowly(event):
            await recorded.wait()

        monkeypatch.setattr(made.log, "note", slowly)
        await client.hear(m.PermitCut)
        await client.say(
            SentMessage(m.RENEW_WARRANT, m.NamedPermit(2)), call(3, log_rows.REPORT)
        )
        await client.hear(log_rows.Report)
        assert not [one for _, one in client.heard if isinstance(one, m.PermitNow)]
        recorded.set()


async def test_a_renewal_of_another_clients_permit():
    async with hostile(ALLOW) as (made, client):
        await client.announce(WORK)
        await client.say(SentMessage(m.RENEW_WARRANT, m.NamedPermit(9)))
        await ends(made, "a request that it has not sent")


@pytest.mark.parametrize("leased", [True, False])
async def test_events_without_end_do_not_push_others_out(monkeypatch, leased):
    """It recorded 60 MiB a second: a log of 1 GiB was another one in 20 seconds."""
    monkeypatch.setattr(audit_limits, "AUDIT_SHARE_BYTES", 2 << 20)
    async with hostile() as (made, client):
        await client.announce(WORK)
        words = "x" * 60_000
        event = schema.ProcessDied(process="pump", reason=words)
        if leased:
            event = schema.StreamOpened(**of(WORK), service=DISPLAY, reason=words)
        many = 100
        await client.say(*(record(2 + at, event) for at in range(many)))
        # A refusal is answered at once, what is recorded once it is on the disk.
        answers = [await client.hear((ErrorMessage, Empty)) for _ in range(many)]
        refused = [one.message for one in answers if isinstance(one, ErrorMessage)]
        assert all("no share of the audit log" in one for one in refused)
        assert many / 2 < len(refused) < many
        assert len(made.events(event.kind)) == many - len(refused)
        assert made.fault is None


async def test_requests_in_the_users_name_do_not_push_others_out(monkeypatch):
    monkeypatch.setattr(audit_limits, "AUDIT_SHARE_BYTES", 2 << 20)
    async with hostile(ALLOW) as (made, client):
        await client.announce(WORK)
        many = 100
        long = "+" + "x" * 30_000
        await client.say(*(ask(2 + at, argument=long) for at in range(many)))
        refused = await client.hear(ErrorMessage)
        assert "no share of the audit log" in refused.message
        await client.say(call(2 + many, log_rows.REPORT))
        await client.hear(log_rows.Report)
        assert len(made.events("decision")) < many


async def test_refused_requests_use_up_no_share(monkeypatch):
    """A sandbox that asks for what is denied, as by flows, is permitted the rest."""
    monkeypatch.setattr(audit_limits, "AUDIT_SHARE_BYTES", 1 << 20)
    async with hostile("t.Do +yes * @adminvm allow\n") as (_made, client):
        await client.announce(WORK)
        for at in range(100):
            await client.say(ask(2 + at, argument="+" + "x" * 30_000))
            assert "denied" in (await client.hear(ErrorMessage)).message
        await client.say(ask(200, argument="+yes"))
        await client.hear(m.Permitted)


_HUGE = 10**400
"""No float holds it: 'brokerctl audit' and its statistics ended with an error."""


@pytest.mark.parametrize(
    ("role", "event"),
    [
        ("host", schema.LeaseRefused(count=_HUGE)),
        ("host", schema.SandboxStop(seconds=1e308)),
        ("host", schema.LeaseRefused(detail={"x": -_HUGE})),
        (
            "viewer",
            schema.StreamClosed(
                bytes_from_sandbox=_HUGE, bytes_to_sandbox=0, seconds=1.0
            ),
        ),
    ],
    ids=["count", "seconds", "detail", "bytes"],
)
async def test_a_number_that_no_reader_of_the_log_can_show(role, event):
    """One event would have kept the user from all others while the log had it."""
    async with hostile(role=role) as (made, client):
        await client.say(record(1, event))
        await ends(made, "a number that is too large")
        assert made.events(event.kind) == []


async def test_a_claim_of_a_worker_is_recorded():
    """A viewer passes on a worker's count, which may be the largest of its message."""
    async with hostile() as (made, client):
        event = schema.StreamClosed(
            bytes_from_sandbox=(1 << 63) - 1, bytes_to_sandbox=0, seconds=1.0
        )
        await client.say(record(1, event))
        await client.hear(Empty)
        assert made.fault is None


@pytest.mark.parametrize("data", [b"\xff" * 64, b"\0\0\0\0", b"\3\0\0\0\xc1\xc1\xc1"])
async def test_bytes_that_are_no_message(data):
    async with hostile() as (made, client):
        await client.write(data)
        await ends(made, "")


async def test_a_client_that_dies_ends_what_it_was_permitted():
    async with hostile(ALLOW) as (made, client):
        await client.announce(WORK)
        await client.say(ask(2))
        await client.hear(m.Permitted)
        assert len(made.authority.decider.live()) == 1
        client.close()
        with trio.fail_after(30):
            await made.ended.wait()
        assert not made.has_asked_to_stop
        assert made.authority.decider.live() == []


async def test_a_client_that_does_not_read_is_given_up():
    """It asks without end and takes no answer: what waits for it is bounded."""
    async with hostile(waiting=1 << 16) as (made, client):
        # Reports are the longest of the answers that cost the client least.
        with trio.move_on_after(30):
            number = 0
            while not made.ended.is_set():
                number += 1
                try:
                    await client.say(call(number, log_rows.REPORT))
                except OSError:
                    break
        with trio.fail_after(30):
            await made.ended.wait()


async def test_requests_without_end_are_bounded(monkeypatch):
    monkeypatch.setattr(authority_limits, "AUTHORITY_REQUESTS", 4)
    async with hostile("t.Do * * @adminvm ask\n") as (made, client):
        await client.announce(WORK)
        await client.say(*(ask(number, stream=number) for number in range(2, 6)))
        await eventually(lambda: len(made.person.asked) == 4)
        await client.say(ask(6))
        await ends(made, "too many calls of Permit at one time")


async def test_the_end_of_a_lease_has_a_place_though_all_are_taken(monkeypatch):
    """Refused, its permits outlived the sandbox."""
    monkeypatch.setattr(authority_limits, "AUTHORITY_REQUESTS", 4)
    async with hostile("t.Do * * @adminvm ask\n") as (made, client):
        await client.announce(WORK)
        await client.say(*(ask(number, stream=number) for number in range(2, 6)))
        await eventually(lambda: len(made.person.asked) == 4)
        await client.say(call(6, log_rows.END_LEASE, log_rows.EndLease(WORK.id)))
        await client.hear(Empty, of=6)
        assert made.fault is None


async def test_a_choice_that_is_given_up_in_the_same_read_is_not_shown():
    """It stood there, and an answer to it was for nobody."""
    async with hostile("t.Do * * @adminvm ask\n") as (made, client):
        await client.announce(WORK)
        mouse = Request(lease=WORK, service="vitrail.Device", device=DeviceFacts("1:2"))
        asked = [asked_of(mouse)]
        given_up = call(2, m.CHOOSE, m.ChoiceRequest(asked)).frame
        await client.write(given_up + frame_of(CancelMessage(2)))
        assert "cancelled" in (await client.hear(ErrorMessage)).message
        assert made.person.asked == []


async def test_previews_without_end_are_bounded():
    asked = m.PreviewRequest("work", "work", ask(1).request.asked)
    async with hostile(ALLOW) as (made, client):
        await client.say(
            call(
                2,
                m.PREVIEW,
                m.PreviewRequests([asked] * authority_limits.AUTHORITY_PREVIEWS),
            )
        )
        await client.hear(m.Previews)
        await client.say(
            call(
                3,
                m.PREVIEW,
                m.PreviewRequests([asked] * (authority_limits.AUTHORITY_PREVIEWS + 1)),
            )
        )
        await ends(made, "65 previews at one time")
        assert made.events("decision") == []


async def test_leases_without_end_are_bounded(monkeypatch):
    monkeypatch.setattr(authority_limits, "AUTHORITY_LEASES", 4)
    async with hostile() as (made, client):
        for number in range(1, 5):
            await client.announce(lease_of(f"s{number}", number), request=number)
        lease = lease_of("s5", 5)
        await client.say(
            call(
                5,
                log_rows.ANNOUNCE_LEASE,
                log_rows.AnnounceLease(
                    lease.id, lease.sandbox, lease.record, lease.generation
                ),
            )
        )
        await ends(made, "more than 4 leases")


@pytest.mark.parametrize(
    "question",
    [
        ask(2),
        call(2, m.CHOOSE, m.ChoiceRequest([])),
        call(2, m.PREVIEW, m.PreviewRequests([])),
        call(2, m.RULES_ABOUT, m.RulesRequest("t.Do", "work", "")),
    ],
    ids=lambda one: one.row.name,
)
async def test_a_host_asks_for_no_permit(question):
    """Whoever holds the machines of two decides nothing about them."""
    async with hostile(ALLOW, role="host") as (made, client):
        await client.say(began(1, WORK), question)
        await ends(made, f"the host may not call '{question.row.name}'")
        assert made.events("decision") == []


@pytest.mark.parametrize(
    "message",
    [
        call(
            2,
            log_rows.ANNOUNCE_LEASE,
            log_rows.AnnounceLease(WORK.id, WORK.sandbox, WORK.record, 1),
        ),
        call(2, log_rows.END_LEASE, log_rows.EndLease(WORK.id)),
        SentMessage(m.ACTED, m.Acted(WORK.id, 0.0)),
        SentMessage(m.SHOW_QUESTION, m.ShowQuestion("token")),
    ],
    ids=lambda one: one.row.name,
)
async def test_a_host_does_not_speak_for_its_viewer(message):
    """Neither a lease that may ask, nor input of the user's, comes from a host."""
    async with hostile(ALLOW, role="host") as (made, client):
        await client.say(began(1, WORK), message)
        await ends(made, f"the host may not call '{message.row.name}'")


@pytest.mark.parametrize("begun", [(), (VAULT,)], ids=["none", "another"])
async def test_a_viewer_announces_a_sandbox_that_no_host_began(begun):
    """On one machine a viewer that was taken over cannot invent sandboxes."""
    async with hostile(ALLOW, linked=False, begun=begun) as (made, client):
        await client.say(
            call(
                1,
                log_rows.ANNOUNCE_LEASE,
                log_rows.AnnounceLease(WORK.id, "work", "work", 1),
            )
        )
        await ends(made, "which its host did not announce")


async def test_a_viewer_renames_the_sandbox_that_its_host_began():
    async with hostile(ALLOW, linked=False, begun=(WORK,)) as (made, client):
        await client.say(
            call(
                1,
                log_rows.ANNOUNCE_LEASE,
                log_rows.AnnounceLease(WORK.id, "vault", "vault", 1),
            )
        )
        await ends(made, "which its host did not announce")


async def test_a_viewer_announces_what_its_host_began():
    async with hostile(ALLOW, linked=False, begun=(WORK,)) as (made, client):
        await client.announce(WORK)
        assert not made.ended.is_set()


@pytest.mark.parametrize(
    ("role", "event"),
    [
        ("host", schema.StreamOpened(sandbox="work", lease=WORK.id, generation=1)),
        ("host", schema.LinkUp(name="x")),
        ("viewer", schema.LinkUp(name="x")),
    ],
    ids=["stream", "host's link", "viewer's link"],
)
async def test_an_event_of_a_link_that_there_is_not(role, event):
    """On one machine a stream is the viewer's to record, and there is no link."""
    async with hostile(role=role, linked=False) as (made, client):
        before = [record(1, event)]
        if role == "host":
            before = [began(1, WORK), record(2, event)]
        await client.say(*before)
        await ends(made, f"it may not record an event {event.kind}")


async def test_a_host_records_the_streams_of_its_machines_only():
    async with hostile(role="host") as (made, client):
        await client.say(began(1, WORK))
        await client.hear(Empty)
        mine = schema.StreamOpened(
            sandbox="work", lease=WORK.id, generation=1, service=DISPLAY
        )
        await client.say(record(2, mine, "require"))
        await client.hear(Empty)
        other = schema.StreamOpened(
            sandbox="vault", lease=VAULT.id, generation=1, service=DISPLAY
        )
        await client.say(record(3, other, "require"))
        await ends(made, "fits no lease of its own")
        assert [e["sandbox"] for e in made.events("stream.opened")] == ["work"]


CHECKPOINTS = [
    call(1, log_rows.NEWEST_CHECKPOINT),
    call(1, log_rows.EVIDENCE, log_rows.EvidenceRequest(0, 1, 0)),
    call(1, log_rows.CHECKPOINT_WITNESSED, log_rows.CheckpointWitnessed("screen", "x")),
    call(1, log_rows.COMPARE_CHECKPOINT, log_rows.CompareCheckpoint("x")),
    call(
        1, log_rows.HOLD_CHECKPOINT, log_rows.HoldCheckpoint("screen", "x", 0, [], [])
    ),
]


@pytest.mark.parametrize("message", CHECKPOINTS, ids=lambda one: one.row.name)
async def test_a_broker_of_one_machine_has_no_witness(message):
    async with hostile(linked=False) as (made, client):
        await client.say(message)
        await ends(made, "has no link")


@pytest.mark.parametrize("role", ["host", "viewer"])
async def test_a_checkpoint_that_nobody_signed_is_not_kept(role):
    """What a peer's log said cannot be made up by the process that has the link."""
    async with hostile(role=role) as (made, client):
        await made.log._store.record(schema.ProcessDied(process="pump", pid=1))
        await client.say(call(1, log_rows.NEWEST_CHECKPOINT))
        note = (await client.hear(log_rows.NewestCheckpoint)).note
        forged = note.replace("\n1\n", "\n9\n", 1)
        await client.say(
            call(
                2,
                log_rows.HOLD_CHECKPOINT,
                log_rows.HoldCheckpoint("screen", forged, 0, [], []),
            )
        )
        assert (await client.hear(log_rows.StoredCheckpoint)).fate == "unsigned"
        await client.say(
            call(
                3,
                log_rows.HOLD_CHECKPOINT,
                log_rows.HoldCheckpoint("screen", "no note", 0, [], []),
            )
        )
        assert "checkpoint" in (await client.hear(ErrorMessage)).message
        assert not made.ended.is_set()


async def test_peers_without_end_are_bounded(monkeypatch):
    """Each name would be a row of the log's file for good."""
    monkeypatch.setattr(authority_limits, "AUTHORITY_PEERS", 4)
    async with hostile(role="viewer") as (made, client):
        await client.say(call(1, log_rows.NEWEST_CHECKPOINT))
        note = (await client.hear(log_rows.NewestCheckpoint)).note
        for number in range(2, 6):
            await client.say(
                call(
                    number,
                    log_rows.CHECKPOINT_WITNESSED,
                    log_rows.CheckpointWitnessed(f"peer{number}", note),
                )
            )
            await client.hear(Empty)
        await client.say(
            call(
                6,
                log_rows.CHECKPOINT_WITNESSED,
                log_rows.CheckpointWitnessed("peer6", note),
            )
        )
        await ends(made, "too many peers")


async def test_the_name_of_a_peer_is_text():
    async with hostile(role="viewer") as (made, client):
        await client.say(call(1, log_rows.NEWEST_CHECKPOINT))
        note = (await client.hear(log_rows.NewestCheckpoint)).note
        await client.say(
            call(
                2,
                log_rows.CHECKPOINT_WITNESSED,
                log_rows.CheckpointWitnessed("\x1b[2J", note),
            )
        )
        await ends(made, "an invalid peer")
