"""What the rules, the record and the person say together, and when it ends."""

from __future__ import annotations

import pytest
import trio

from broker.core import limits
from broker.core.errors import RefusedError, UpstreamError
from broker.core.question import CONTROL_SOCKET, Keep, PersonAnswer
from broker.core.services import PRINT
from policy.rules.rule import ONCE_FILE
from policy.tools.recorded import recorded
from tests.kit.rulebook import VAULT, WORK, lease_of, no, rulebook, yes
from tests.kit.world import record

ASKS = "t.Ask * @anyvm @adminvm ask"


def refused(match):
    return pytest.raises(RefusedError, match=match)


async def test_without_own_rules_the_shipped_ones_apply():
    """Windows by the record, and nothing that crosses."""
    async with rulebook() as b:
        assert await b.once("vitrail.Display") == "dom0"
        for service in ("vitrail.ClipboardPaste", "vitrail.AudioInput", "x", "", "\0"):
            for target in (
                "@adminvm",
                "vault",
                "@default",
                "",
                "@dispvm:work",
                "\udc80",
            ):
                with refused("denied"):
                    await b.once(service, target=target)


async def test_the_stricter_of_record_and_rule_wins():
    async with rulebook("vitrail.Display * work @adminvm deny\n") as b:
        with refused("denied by .*50-test.policy:1"):
            await b.once("vitrail.Display")
        assert await b.once("vitrail.Display", lease=VAULT) == "dom0"
        b.write_record("vault", record("persistent", display="none"))
        await b.reload()
        with refused(': denied: the record .*display = "none"') as caught:
            await b.once("vitrail.Display", lease=VAULT)
        assert caught.value.where.endswith("vault.toml:2:1")


MICROPHONE = '[audio]\nplayback = "allow"\nmicrophone = "{}"\n'
HEARS = "vitrail.AudioInput * work @adminvm"


def with_microphone(b, word):
    b.write_record("work", record("persistent", top=MICROPHONE.format(word)))


@pytest.mark.parametrize(
    ("word", "rule", "asked"),
    [
        ("allow", "allow", 0),
        ("allow", "ask", 1),
        ("ask", "allow", 1),
        ("ask", "ask", 1),
    ],
)
async def test_a_record_that_asks_makes_an_ask_of_an_allow(word, rule, asked):
    async with rulebook(f"{HEARS} {rule}\n") as b:
        with_microphone(b, word)
        await b.reload()
        b.person.says = yes()
        assert await b.once("vitrail.AudioInput") == "dom0"
        assert len(b.person.asked) == asked
        b.person.says = no
        if asked:
            assert b.person.asked[0].targets == ("dom0",)
            with refused("no"):
                await b.once("vitrail.AudioInput")
            reason = b.events("decision")[0]["reason"]
            by_record = (word, rule) == ("ask", "allow")
            assert ("the record asks: " in reason) is by_record
            for event in b.events("decision"):
                assert event["detail"].get("record-asks", False) is by_record
                assert recorded(event).verdict == ("allow" if by_record else "ask")


async def test_the_logs_questions_have_numbers_of_their_own_after_a_restart():
    """As those of 'brokerctl pending' have, so that one can be found in the log."""
    async with rulebook(f"{HEARS} ask\n") as b:
        with_microphone(b, "allow")
        b.last_question = 7
        await b.start()
        b.person.says = yes()
        await b.once("vitrail.AudioInput")
        (asked,) = b.events("question.asked")
        assert asked["question"] == 8


@pytest.mark.parametrize("rule", ["allow", "ask"])
async def test_a_record_that_denies_asks_no_question(rule):
    async with rulebook(f"{HEARS} {rule}\n") as b:
        with_microphone(b, "deny")
        await b.reload()
        with refused('microphone = "deny"'):
            await b.once("vitrail.AudioInput")
        assert not b.person.asked


@pytest.mark.parametrize("says", [yes(), no])
async def test_a_record_that_asks_from_now_on_asks_about_live_streams(says):
    async with rulebook(f"{HEARS} allow\n") as b, trio.open_nursery() as nursery:
        with_microphone(b, "allow")
        await b.reload()
        mine = await live(b, nursery, service="vitrail.AudioInput")
        assert not b.person.asked
        b.person.says = says
        with_microphone(b, "ask")
        await b.reload()
        await settled()
        assert len(b.person.asked) == 1
        assert mine.ended.is_set() is (says is no)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("text", ["class = 7\n", ""])
async def test_a_sandbox_without_a_valid_record_asks_nothing(text):
    async with rulebook("* * * * allow\n", work=text) as b:
        with refused("denied"):
            await b.once()
        with refused("no record"):
            await b.once(lease=lease_of("other", 9))


async def test_a_decision_is_recorded_whole_before_its_effect():
    rule = "t.Ask * @anyvm vault allow mime=image/* max-size=10M rate=5/min ttl=10m\n"
    async with rulebook(rule) as b:
        request = b.request(target="vault", mime="image/png", size=5, argument="+x")
        async with b.decider.permit(request) as permit:
            (event,) = b.events("decision")
            assert permit.max_size == 10 << 20
        assert event["verdict"] == "allow"
        assert event["rule"].endswith("50-test.policy:1")
        assert event["policy"] == b.rules.digest
        assert event["target"] == "vault"
        assert event["argument"] == "+x"
        assert event["detail"] == {
            "asked": "vault",
            "mime": "image/png",
            "size": 5,
            "max-size": 10 << 20,
            "rate": "5/60s",
            "ttl": 600,
            "records": b.records.digest,
            # Of a service without a key: that there is a valid record.
            "record": str(b.records.records["work"].source),
        }


async def test_what_cannot_be_recorded_does_not_happen(monkeypatch):
    async with rulebook("t.Ask * @anyvm @adminvm allow\n") as b:

        async def full(event):
            raise UpstreamError("the audit log cannot be written")

        monkeypatch.setattr(b.log._store, "record", full)
        with pytest.raises(UpstreamError):
            async with b.decider.permit(b.request()):
                raise AssertionError("it happened")
        assert b.decider.live() == []


# -- limits --------------------------------------------------------------------


async def test_rate_is_terminal_and_counted_for_each_sandbox():
    """Beyond it the laxer rule after it is not reached; a reload counts on."""
    text = "t.Ask * @anyvm @adminvm allow rate=3/h\nt.Ask * * * allow\n"
    async with rulebook(text) as b:
        for _ in range(3):
            await b.once()
        with refused("more than 3 calls in 3600 s"):
            await b.once()
        await b.change("60-more.policy", "# nothing\n")
        await b.change("50-test.policy", "# moved\n" + text)
        with refused("more than 3 calls"):
            await b.once()
        await b.once(lease=VAULT)


async def test_refusal_after_the_one_call_that_was_allowed_is_recorded_whole():
    """'brokerctl allow' explains it: it answers the next call, too."""
    text = "t.Ask + work @adminvm allow rate=1/692s\n"
    async with rulebook("") as b:
        await b.change(ONCE_FILE, text)
        await b.once(mime="a/b")
        with refused("the one call that was allowed has been made"):
            await b.once(mime="a/b")
        (event,) = (e for e in b.events("decision") if e["verdict"] == "deny")
        then = recorded(event, limits_of=ONCE_FILE)
        assert (then.call.target, then.call.mime) == ("@adminvm", "a/b")


async def test_limit_of_one_call_has_the_singular():
    async with rulebook("t.Ask * @anyvm @adminvm allow rate=1/h\n") as b:
        await b.once()
        with refused("more than 1 call in 3600 s"):
            await b.once()


async def test_rate_with_the_clock(autojump_clock):
    async with rulebook("t.Ask * @anyvm @adminvm allow rate=2/min\n") as b:
        await b.once()
        await b.once()
        with refused("more than 2"):
            await b.once()
        await trio.sleep(62)
        await b.once()


async def test_as_many_counters_as_the_limit(monkeypatch):
    monkeypatch.setattr(limits, "RATE_COUNTERS", 2)
    text = "".join(f"s{n} * * @adminvm allow rate=1/h\n" for n in range(3))
    async with rulebook(text) as b:
        await b.once("s0")
        await b.once("s1")
        with refused("more than 1 call in"):
            await b.once("s2")


async def test_gesture(autojump_clock):
    """None is known: no.  A recent one: yes.  An old one: no."""
    async with rulebook("t.Ask * @anyvm @adminvm allow gesture=5s\n") as b:
        with refused("no input in a window"):
            await b.once()
        b.decider.acted(WORK.id)
        await b.once()
        with refused("no input in a window"):
            await b.once(lease=VAULT)
        await trio.sleep(6)
        with refused("no input in a window"):
            await b.once()
        assert await b.once(gesture=1.0) == "dom0"
        with refused("no input in a window"):
            await b.once(gesture=5.5)


async def test_a_time_to_live_ends_live_streams(autojump_clock):
    async with rulebook("t.Ask * @anyvm @adminvm allow ttl=10m\n") as b:
        began = trio.current_time()
        with refused("the time limit of the rule has passed"):
            async with b.decider.permit(b.request()):
                await trio.sleep_forever()
        assert trio.current_time() - began == pytest.approx(600)
        assert b.decisions()[-1] == ("deny", "cut", "50-test.policy:1")


async def test_a_size_limit_without_a_counter_denies():
    async with rulebook("t.Ask * @anyvm @adminvm allow max-size=1K\n") as b:
        with refused(": denied: max-size= cannot be enforced for t.Ask"):
            await b.once(counts_bytes=False)
        with refused("2000 bytes"):
            await b.once(size=2000)
        await b.once(size=1024)


async def test_what_only_observes_is_told_and_decides_nothing():
    text = "t.Ask * work @adminvm deny mode=observe\nt.Ask * * @adminvm allow\n"
    async with rulebook(text) as b:
        await b.once()
        (event,) = b.events("decision")
        assert event["verdict"] == "allow"
        (told,) = event["detail"]["observed"]
        assert told.startswith("deny by ")
        assert told.endswith("50-test.policy:1")


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("allow", []),
        ("allow notify=yes", ["Vitrail: a request of work was allowed"]),
        ("deny", ["Vitrail: a request of work was refused"]),
        ("deny notify=no", []),
    ],
)
async def test_who_is_told_on_the_desktop(rule, told):
    async with rulebook(f"{PRINT} * * @adminvm {rule}\n") as b:
        try:
            await b.once(PRINT)
        except RefusedError:
            assert "deny" in rule
        assert [title for title, _ in b.told] == told


# -- asking ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "offered", "default"),
    [
        ("@adminvm", ("dom0",), "dom0"),
        ("vault", ("vault",), "vault"),
        ("app", ("@dispvm:app",), "@dispvm:app"),
        ("@default", ("@dispvm:app", "dom0", "vault"), ""),
    ],
)
async def test_a_copy_that_says_where_to_is_asked_about_that_target(
    target, offered, default
):
    rules = "@anyvm", "@adminvm", "@default"
    text = "".join(f"vitrail.FileCopy * work {one} ask\n" for one in rules)
    async with rulebook(text) as b:
        b.write_record("app", record())
        await b.reload()
        b.person.says = yes()
        assert await b.once("vitrail.FileCopy", target=target) == offered[0]
        (question,) = b.person.asked
        assert (question.targets, question.default_target) == (offered, default)
        assert question.words == "to copy files out of it"


async def test_the_person_is_asked_in_plain_words_and_chooses():
    async with rulebook("t.Ask * work @anyvm ask default_target=vault\n") as b:
        b.person.says = yes(target="vault")
        request = b.request(
            target="@default", argument="+\x1b[31m\u202e", mime="text/\u0430" * 90
        )
        async with b.decider.permit(request) as permit:
            assert permit.target == "vault"
        (question,) = b.person.asked
        assert question.targets == ("vault",)
        assert question.default_target == "vault"
        assert (question.sandbox, question.colour) == ("work", "#009e73")
        assert question.words == "to call the service t.Ask"
        assert (
            question.argument == "\\\\x1b[31m\\\\u202e" or question.argument.isascii()
        )
        assert all(
            value.isascii() and len(value) <= 80 for _, value in question.details
        )
        assert b.decisions() == [("allow", "person", "50-test.policy:1")]
        kinds = ("question.asked", "question.answered", "decision")
        asked, answered, decided = b.events(*kinds)
        assert [e["kind"] for e in (asked, answered, decided)] == list(kinds)
        assert asked["question"] == answered["question"] == decided["question"] == 1
        assert asked["detail"]["targets"] == ["vault"]
        assert (answered["answer"], answered["answered_by"]) == ("allow", "person")


@pytest.mark.parametrize(
    ("says", "said"),
    [
        (no, "the user said no"),
        (yes(target="work"), "not offered"),
        (yes(target="dom0"), "not offered"),
        (yes(target="@dispvm:work"), "not offered"),
        (lambda question: PersonAnswer(allow=True), "not offered"),
        (yes(keep=Keep.SESSION), "longer than was offered"),
        (yes(keep=Keep.TIME), "longer than was offered"),
    ],
)
async def test_an_answer_that_was_not_offered_is_a_no(says, said):
    async with rulebook("t.Ask * work vault ask\n") as b:
        b.person.says = says
        with refused(said):
            await b.once(target="vault")
        assert b.decisions()[-1][0] == "deny"
        assert b.events("question.answered")[-1]["question"] == 1
        assert b.decider.grants.all(trio.current_time()) == []


async def test_rules_that_change_while_the_person_thinks():
    async with rulebook("t.Ask * work @anyvm ask\n") as b:

        async def think(question):
            await b.rules.reload()
            return PersonAnswer(allow=True, target="vault")

        offers_less = "t.Ask * work vault deny\nt.Ask * work @anyvm ask\n"
        for text, target, said in [
            ("t.Ask * work @anyvm deny\n", "vault", "denied by"),
            (offers_less, "vault", "denied by"),
            (offers_less, "@default", "no target to choose|no longer offered"),
        ]:
            asks = "t.Ask * work @default ask\nt.Ask * work @anyvm ask\n"
            b.write("50-test.policy", asks)
            await b.reload()
            b.person.says = think
            b.write("50-test.policy", text)
            with refused(said):
                await b.once(target=target)


@pytest.mark.parametrize(("says", "goes"), [(no, False), (yes(), True)])
async def test_rules_that_ask_come_while_a_yes_is_written(monkeypatch, says, goes):
    """It was not live yet when they came; it must not continue unasked for that."""
    async with rulebook("t.Ask * * @adminvm allow\n") as b:
        b.person.says = says
        require = b.log.require

        async def slow_disk(event):
            await require(event)
            if event.kind == "decision" and not b.person.asked:
                await b.change("50-test.policy", ASKS)

        monkeypatch.setattr(b.log, "require", slow_disk)
        on_ask = []

        async def told():
            on_ask.append(True)

        async def use():
            async with b.decider.permit(b.request(), on_ask=told) as permit:
                assert permit.answered
                assert goes, "the person has said no"

        if goes:
            await use()
        else:
            with refused("the user was asked again: the user said no"):
                await use()
        assert len(b.person.asked) == len(on_ask) == 1
        assert b.decider.live() == []


async def test_a_stream_that_its_permit_opens_is_recorded_with_the_decision(
    monkeypatch,
):
    """In one call; one that is refused after all is closed again in the log."""
    async with rulebook("t.Ask * * @adminvm allow\n") as b:
        request = b.request(opens=True, stream=7, peer="cid 5")
        calls, require = [], b.log.require

        async def counting(*events):
            calls.append([event.kind for event in events])
            await require(*events)
            if len(calls) == 2:
                await b.change("50-test.policy", "t.Ask * * @adminvm deny\n")

        monkeypatch.setattr(b.log, "require", counting)
        async with b.decider.permit(request):
            (opened,) = b.events("stream.opened")
        assert (opened["stream"], opened["peer"], opened["mode"]) == (
            7,
            "cid 5",
            "worker",
        )
        assert opened["lease"] == request.lease.id
        assert b.events("stream.closed") == []
        with refused("denied"):
            async with b.decider.permit(request):
                raise AssertionError("it happened")
        assert calls[:2] == [["decision", "stream.opened"]] * 2
        (closed,) = b.events("stream.closed")
        assert (closed["stream"], closed["bytes_from_sandbox"]) == (7, None)
        with refused("denied"):
            async with b.decider.permit(request):
                raise AssertionError("it happened")
        assert len(b.events("stream.opened")) == 2


async def test_a_grant_is_taken_back_while_a_use_of_it_is_written(monkeypatch):
    async with rulebook(f"{ASKS} remember=session\n") as b:
        b.person.says = yes(keep=Keep.SESSION)
        await b.once()
        (grant,) = b.decider.grants.all(trio.current_time())
        require = b.log.require

        async def slow_disk(event):
            await require(event)
            await b.decider.revoke([grant], "revoked")

        monkeypatch.setattr(b.log, "require", slow_disk)
        with refused("the grant has ended"):
            await b.once()
        assert b.decisions()[-1][0] == "deny"


async def test_an_unrecorded_grant_does_not_apply(monkeypatch):
    async with rulebook(f"{ASKS} remember=session\n") as b:
        b.person.says = yes(keep=Keep.SESSION)
        require = b.log.require

        async def full_disk(event):
            if event.kind == "grant.made":
                raise UpstreamError("no room")
            await require(event)

        monkeypatch.setattr(b.log, "require", full_disk)
        with pytest.raises(UpstreamError, match="no room"):
            await b.once()
        assert b.decider.grants.all(trio.current_time()) == []


async def test_less_is_offered_when_the_answer_comes():
    """The question is still valid, but not the chosen target, nor the time."""
    async with rulebook("t.Ask * work @anyvm ask remember=session\n") as b:
        b.write_record("third", record("persistent"))
        await b.reload()

        async def think(question):
            assert question.targets == ("third", "vault")
            await b.rules.reload()
            return PersonAnswer(
                allow=True, target="vault", keep=Keep.SESSION, by="person"
            )

        b.person.says = think
        b.write(
            "50-test.policy",
            "t.Ask * work vault deny\nt.Ask * work @anyvm ask remember=session\n",
        )
        with refused(": denied: the chosen target is no longer offered"):
            await b.once(target="third")
        await b.change("50-test.policy", "t.Ask * work @anyvm ask remember=session\n")
        b.write("50-test.policy", "t.Ask * work @anyvm ask remember=stream\n")
        assert await b.once(target="third") == "vault"
        assert b.decider.grants.all(trio.current_time()) == [], "it counted once"


async def test_too_many_targets_are_no_choice(monkeypatch):
    monkeypatch.setattr(limits, "QUESTION_TARGETS", 1)
    async with rulebook("t.Ask * work @anyvm ask\n") as b:
        b.person.says = yes(target="vault")
        assert await b.once(target="vault") == "vault"
        b.write_record("third", record("persistent"))
        await b.reload()
        with refused("too many to choose"):
            await b.once(target="vault")
        assert len(b.person.asked) == 1


async def test_a_broker_without_a_person_says_no():
    from broker.authority.decisions.put_question import NoPrompt

    async with rulebook(ASKS) as b:
        b.decider.asker = NoPrompt()
        with refused("no user is available to answer"):
            await b.once()


async def test_no_over_control_socket_names_no_process_to_sandbox():
    """A refusal reaches the sandbox, which is not to learn a process of the host."""
    async with rulebook(ASKS) as b:
        reason = f"{CONTROL_SOCKET} by process 4711"
        answer = PersonAnswer(allow=False, by="person", reason=reason)
        b.person.says = lambda _question: answer
        with refused("denied: the user said no$"):
            await b.once()


# -- grants ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "offered"),
    [
        ("", [Keep.ONCE]),
        ("ttl=10m", [Keep.ONCE, Keep.TIME]),
        ("remember=session", [Keep.ONCE, Keep.SESSION]),
        ("remember=session ttl=10m", [Keep.ONCE, Keep.TIME]),
        ("remember=no ttl=10m", [Keep.ONCE]),
        ("remember=stream ttl=10m", [Keep.ONCE]),
    ],
)
async def test_what_may_be_chosen_beside_once(limit, offered):
    async with rulebook(f"{ASKS} {limit}\n") as b:
        b.person.says = yes()
        await b.once()
        await b.once()
        assert [list(q.keeps) for q in b.person.asked] == [offered, offered]


async def test_for_ten_minutes(autojump_clock):
    """Equal requests are not asked about, others are; then it is over."""
    async with rulebook(f"{ASKS} ttl=10m\n") as b:
        b.person.says = yes(keep=Keep.TIME)
        await b.once()
        await trio.sleep(300)
        await b.once()
        assert len(b.person.asked) == 1
        await b.once(argument="+other")
        await b.once(lease=VAULT)
        await b.once(mime="text/plain")
        assert len(b.person.asked) == 4
        began = trio.current_time()
        with refused("has passed"):
            async with b.decider.permit(b.request()):
                await trio.sleep_forever()
        assert trio.current_time() - began == pytest.approx(300)
        await b.decider.forget_over()
        await b.once()
        assert len(b.person.asked) == 5
        assert b.events("grant.ended")[0]["reason"] == "its time limit has passed"


async def test_until_it_stops():
    async with rulebook(f"{ASKS} remember=session\n") as b:
        b.person.says = yes(keep=Keep.SESSION)
        await b.once()
        await b.once()
        assert len(b.person.asked) == 1
        await b.decider.lease_ended(WORK.id)
        await b.once()
        assert len(b.person.asked) == 2
        assert b.events("grant.ended")[0]["reason"] == "the sandbox stopped"


async def test_revoking_a_grant_ends_its_streams():
    async with (
        rulebook(f"{ASKS} remember=session\n") as b,
        trio.open_nursery() as nursery,
    ):
        b.person.says = yes(keep=Keep.SESSION)
        ended = trio.Event()

        async def use():
            with refused("the grant has ended: revoked"):
                async with b.decider.permit(b.request()):
                    await trio.sleep_forever()
            ended.set()

        nursery.start_soon(use)
        while not b.decider.live():
            await trio.testing.wait_all_tasks_blocked(0.01)
        await b.decider.revoke(b.decider.grants.all(trio.current_time()), "revoked")
        with trio.fail_after(30):
            await ended.wait()


async def test_as_many_grants_as_the_limit(monkeypatch):
    monkeypatch.setattr(limits, "GRANTS", 1)
    async with rulebook(f"{ASKS} remember=session\n") as b:
        b.person.says = yes(keep=Keep.SESSION)
        await b.once()
        await b.once(argument="+2")
        await b.once(argument="+2")
        assert len(b.person.asked) == 3, "the second one counted once"


async def test_as_many_permissions_as_the_limit(monkeypatch):
    """A record's disposables leave some to another record."""
    monkeypatch.setattr(limits, "LIVE_PERMITS", 2)
    async with rulebook("* * * * allow\n") as b:
        async with b.decider.permit(b.request(target="vault")):
            with refused("too many operations"):
                await b.once(target="vault")
            async with b.decider.permit(b.request(lease=VAULT, target="work")):
                with refused("too many operations"):
                    await b.once(target="vault")
        await b.once(target="vault")


# -- a swap under live streams -----------------------------------------------------------


class Live:
    """Something permitted that continues until it is cut."""

    def __init__(self, b, nursery, **more):
        self.b = b
        self.cut = None
        self.ended = trio.Event()
        nursery.start_soon(self._run, more)

    async def _run(self, more):
        try:
            async with self.b.decider.permit(self.b.request(**more)):
                await trio.sleep_forever()
        except RefusedError as error:
            self.cut = error
        self.ended.set()


async def live(b, nursery, **more):
    before = len(b.decider.live())
    made = Live(b, nursery, **more)
    with trio.fail_after(30):
        while len(b.decider.live()) == before:
            await trio.testing.wait_all_tasks_blocked(0.01)
    return made


async def settled():
    await trio.testing.wait_all_tasks_blocked(0.02)


async def test_a_stream_that_is_now_denied_is_cut_and_the_event_names_the_rule():
    async with (
        rulebook("t.Ask * * @adminvm allow\n") as b,
        trio.open_nursery() as nursery,
    ):
        mine, other = await live(b, nursery), await live(b, nursery, lease=VAULT)
        await b.change("40-new.policy", "# why\nt.Ask * work @adminvm deny\n")
        with trio.fail_after(30):
            await mine.ended.wait()
        assert mine.cut.where.endswith("40-new.policy:2")
        assert b.decisions()[-1] == ("deny", "cut", "40-new.policy:2")
        assert b.told[-1][0] == "Vitrail: a request of work was cut"
        assert not other.ended.is_set()
        # Its record takes the display, say, or goes away.
        b.write_record("vault", "class = 7\n")
        await b.reload()
        with trio.fail_after(30):
            await other.ended.wait()
        assert "has an error" in other.cut.message


async def test_a_broken_file_cuts_nothing_and_a_mended_one_does():
    async with (
        rulebook("t.Ask * * @adminvm allow\n") as b,
        trio.open_nursery() as nursery,
    ):
        mine = await live(b, nursery)
        await b.change("40-new.policy", "t.Ask * work @adminvm deny\nalow\n")
        await settled()
        assert not mine.ended.is_set()
        await b.once()
        await b.change("40-new.policy", "t.Ask * work @adminvm deny\n")
        with trio.fail_after(30):
            await mine.ended.wait()


@pytest.mark.parametrize(
    ("before", "says", "asks_again", "goes_on"),
    [
        ("allow", yes(), 1, True),
        ("allow", no, 1, False),
        ("ask", yes(), 2, True),
        ("ask remember=stream", yes(), 1, True),
    ],
)
async def test_a_stream_that_now_needs_a_question(before, says, asks_again, goes_on):
    """Once; without a yes it is cut; an answer that may be kept is not asked for again."""
    after = "ask ttl=1h remember=stream" if "remember" in before else "ask ttl=1h"
    first = f"t.Ask * * @adminvm {before}\n"
    async with rulebook(first) as b, trio.open_nursery() as nursery:
        b.person.says = yes()
        mine = await live(b, nursery)
        b.person.says = says
        await b.change("50-test.policy", f"t.Ask * * @adminvm {after}\n")
        await settled()
        assert len(b.person.asked) == asks_again
        assert mine.ended.is_set() is not goes_on
        await b.change("50-test.policy", f"# a remark\nt.Ask * * @adminvm {after}\n")
        await settled()
        assert len(b.person.asked) == asks_again
        nursery.cancel_scope.cancel()


async def test_a_grant_that_no_rule_would_give_now_ends():
    async with (
        rulebook(f"{ASKS} remember=session\n") as b,
        trio.open_nursery() as nursery,
    ):
        b.person.says = yes(keep=Keep.SESSION)
        mine = await live(b, nursery)
        await b.change("50-test.policy", f"{ASKS} remember=stream\n")
        with trio.fail_after(30):
            await mine.ended.wait()
        assert b.decider.grants.all(trio.current_time()) == []


async def test_a_shorter_time_to_live_is_that_of_a_grant(mock_clock):
    """The person has allowed a day, and now lets nothing hold longer than 10 minutes."""
    async with (
        rulebook(f"{ASKS} ttl=1d\n") as b,
        trio.open_nursery() as nursery,
    ):
        b.person.says = yes(keep=Keep.TIME)
        await b.once()
        mock_clock.jump(300)
        mine = await live(b, nursery)
        await b.change("50-test.policy", f"{ASKS} ttl=10m\n")
        await b.once()
        assert len(b.person.asked) == 1
        mock_clock.jump(299)
        await b.decider.forget_over()
        assert not mine.ended.is_set()
        mock_clock.jump(2)
        await b.decider.forget_over()
        with trio.fail_after(30):
            await mine.ended.wait()
        await b.once()
        assert len(b.person.asked) == 2
        assert b.events("grant.ended")[0]["reason"] == "its time limit has passed"


async def test_a_grant_older_than_the_new_time_to_live_is_over(mock_clock):
    async with rulebook(f"{ASKS} ttl=1d\n") as b:
        b.person.says = yes(keep=Keep.TIME)
        await b.once()
        mock_clock.jump(3600)
        await b.change("50-test.policy", f"{ASKS} ttl=10m\n")
        assert b.decider.grants.all(trio.current_time()) == []


async def test_a_swap_between_decision_and_effect(monkeypatch):
    """While the yes was being written a no came into force."""
    async with rulebook("t.Ask * * @adminvm allow\n") as b:
        write = b.log._store.record

        async def slow(event):
            if event.kind == "decision" and event.verdict == "allow":
                b.write("40-new.policy", "t.Ask * * * deny\n")
                await b.reload()
            await write(event)

        monkeypatch.setattr(b.log._store, "record", slow)
        with refused("denied now"):
            async with b.decider.permit(b.request()):
                raise AssertionError("it happened")


async def test_a_shorter_time_to_live_holds_at_once(autojump_clock):
    async with (
        rulebook("t.Ask * * @adminvm allow\n") as b,
        trio.open_nursery() as nursery,
    ):
        mine = await live(b, nursery)
        began = trio.current_time()
        await b.change("50-test.policy", "t.Ask * * @adminvm allow ttl=1m\n")
        await mine.ended.wait()
        assert trio.current_time() - began == pytest.approx(60, abs=1)
