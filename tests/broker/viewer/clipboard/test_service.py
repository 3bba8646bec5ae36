"""Copy and paste with real rules and a real log; the workers are the test's."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from broker.core.clipboard.chord_settings import chosen
from broker.core.errors import UpstreamError
from broker.core.limits import clipboard as clipboard_limits
from broker.ipc import clipboard as m
from broker.ipc.worker import WindowReport
from broker.viewer.clipboard.exchange import messages as w
from tests.kit.clipboard.sessions import TEXT, board
from tests.kit.eventually import eventually
from tests.kit.rulebook import VAULT, WORK, no, yes
from tests.kit.world import record

ALLOW = "work vault allow\n"
TYPES = '[clipboard]\ntypes = ["image/png"]\n'


async def test_two_chords_carry_it_over_once_recorded_and_told():
    async with board(ALLOW) as b:
        await b.copy()
        assert b.clipboard.status().source == "work"
        offer = await b.paste()
        assert b.guests["vault"].worker.contents == [TEXT]
        assert offer.pieces[0].size == len(TEXT)
        assert b.clipboard.status().source == ""
        offered, pasted = b.events("clipboard.offered", "clipboard.pasted")
        assert (offered["sandbox"], offered["mimes"]) == ("work", ["text/plain"])
        assert (pasted["sandbox"], pasted["target"]) == ("work", "vault")
        assert (pasted["mime"], pasted["bytes"]) == ("text/plain", len(TEXT))
        assert pasted["rule"].endswith("50-test.policy:1")
        (decision,) = b.events("decision")
        assert decision["verdict"] == "allow"
        assert decision["sequence"] < pasted["sequence"]
        assert b"hunter2".hex() not in str(b.events())
        assert "hunter2" not in str(b.events()) + str(b.told)
        title, _ = await b.wait_told("work → vault")
        assert title == "23 bytes of text: work → vault"
        await b.chord("vault", paste=True)
        await b.wait_told("the clipboard is empty")


async def test_denied_by_a_rule_it_stays_for_another_window():
    async with board("work web deny\nwork vault allow\n") as b:
        await b.copy()
        await b.chord("web", paste=True)
        _, text = await b.wait_told("Not pasted: work → web")
        assert "50-test.policy:1" in text
        (decision,) = b.events("decision")
        assert (decision["verdict"], decision["detail"]["asked"]) == ("deny", "web")
        (ended,) = b.events("clipboard.ended")
        assert (ended["outcome"], ended["target"]) == ("refused", "web")
        assert b.guests["web"].worker.orders == []
        assert [t for t, _ in b.told].count(
            "Vitrail: a request of work was refused"
        ) == 0
        assert await b.paste("vault")


async def test_no_rule_no_paste():
    async with board() as b:
        await b.copy()
        await b.chord("vault", paste=True)
        await b.wait_told("Not pasted: work → vault")
        assert b.events("clipboard.pasted") == []


async def test_the_person_is_asked_about_this_target_only():
    async with board("work vault ask\nwork web ask\n") as b:
        b.book.person.says = yes()
        await b.copy()
        await b.paste()
        (question,) = b.book.person.asked
        assert question.targets == ("vault",)
        assert question.words == "to provide the data that you copied in it"
        assert ("type, it says", "text/plain") in question.details
        assert ("size, it says", f"{len(TEXT)} bytes") in question.details
        (asked,) = b.events("question.asked")
        (pasted,) = b.events("clipboard.pasted")
        assert asked["sequence"] < pasted["sequence"]


async def test_the_persons_no():
    async with board("work vault ask\n") as b:
        b.book.person.says = no
        await b.copy()
        await b.chord("vault", paste=True)
        await b.wait_told("the user said no")
        assert b.guests["vault"].worker.orders == []


async def test_a_question_ends_when_the_focus_goes_elsewhere():
    async with board("work vault ask\n") as b:
        await b.copy()
        await b.chord("vault", paste=True)
        with trio.fail_after(30):
            await b.book.person.wait_asked(1)
        assert b.book.person.open
        await b.focus("web")
        await b.wait_told("the keyboard focus moved to another sandbox")
        # On disk a moment after the questions are withdrawn.
        answered = await eventually(lambda: b.events("question.answered"))
        assert not b.book.person.open
        assert [one["answered_by"] for one in answered] == ["gone"]


async def test_one_question_of_a_rule_names_all_types_and_their_size():
    async with board("work vault ask\n") as b:
        b.book.person.says = yes()
        await b.copy(kinds={"image/png": b"png", "text/plain": TEXT})
        offer = await b.paste()
        assert sorted(piece.size for piece in offer.pieces) == [3, len(TEXT)]
        (asked,) = b.book.person.asked
        assert asked.details == (
            ("type, it says", "text/plain"),
            ("type, it says", "image/png"),
            ("size, it says", f"{len(TEXT) + 3} bytes together"),
        )
        assert [e["verdict"] for e in b.events("decision")] == ["allow", "allow"]
        assert len(b.events("question.asked")) == 1


async def test_a_long_name_of_a_type_hides_no_other_one_from_the_person():
    """Each has a line of the dialog, the text's the first."""
    long = "a" * 127 + "/" + "a" * 127
    async with board("work vault ask mime=*/*\n") as b:
        b.book.person.says = yes()
        await b.copy(kinds={long: b"1", "text/plain": TEXT, "image/png": b"png"})
        await b.paste()
        (asked,) = b.book.person.asked
        first, second, third, size = asked.details
        assert first == ("type, it says", "text/plain")
        assert second[1].startswith("a" * 30)
        assert second[1].endswith("a" * 30)
        assert third == ("type, it says", "image/png")
        assert size == ("size, it says", f"{len(TEXT) + 4} bytes together")


@pytest.mark.parametrize(
    ("more", "crosses"), [(" max-size=22", False), (" max-size=23", True)]
)
async def test_limits_are_those_of_the_rules_when_the_person_has_answered(
    more, crosses
):
    async with board("work vault ask\n") as b:

        async def says(question):
            line = f"vitrail.ClipboardPaste * work vault ask{more}\n"
            await b.book.change("50-test.policy", line)
            return yes()(question)

        b.book.person.says = says
        await b.copy()
        await b.chord("vault", paste=True)
        if crosses:
            assert await b.guests["vault"].worker.next(m.Offer)
        else:
            await b.wait_told("Not pasted: work → vault")
            assert b.guests["vault"].worker.orders == []


async def test_a_record_that_changes_while_the_person_is_asked_counts():
    async with board("work vault ask\n") as b:

        async def says(question):
            b.book.write_record("vault", record("persistent") + TYPES)
            await b.book.reload()
            return yes()(question)

        b.book.person.says = says
        await b.copy()
        await b.chord("vault", paste=True)
        await b.wait_told("no longer allow the content")
        assert b.guests["vault"].worker.orders == []


async def test_of_several_types_the_person_is_asked_about_the_first():
    """And what would need a second question stays out."""
    rules = "work vault ask mime=text/plain\nwork vault ask mime=image/png\n"
    async with board(rules) as b:
        b.book.person.says = yes()
        await b.copy(kinds={"image/png": b"png", "text/plain": TEXT})
        offer = await b.paste()
        assert [piece.size for piece in offer.pieces] == [len(TEXT)]
        assert len(b.book.person.asked) == 1


@pytest.mark.parametrize(
    ("rule", "kinds", "crosses", "read"),
    [
        ("allow", {"text/html": b"<b>"}, None, False),
        ("allow mime=text/*", {"text/html": b"<b>"}, [3], True),
        ("allow max-size=22", {"text/plain": TEXT}, None, True),
        ("allow max-size=23", {"text/plain": TEXT}, [23], True),
        ("allow max-size=1M", {"text/plain": b"x" * 500_000}, [500_000], True),
        ("allow", {"text/plain": b"x" * 64_001}, None, True),
        ("allow gesture=5s", {"text/plain": TEXT}, [23], True),
        ("allow target=web", {"text/plain": TEXT}, None, True),
        ("allow notify=yes", {"text/plain": TEXT}, [23], True),
    ],
)
async def test_conditions_and_limits_of_a_rule(rule, kinds, crosses, read):
    async with board(f"work vault {rule}\n") as b:
        await b.chord("work", paste=False)
        await b.answer("work", kinds)
        if read:
            await b.give("work", kinds)
        await b.wait_told("work")
        await b.chord("vault", paste=True)
        if crosses is None:
            await b.wait_told("Not pasted")
            assert b.guests["vault"].worker.orders == []
        else:
            offer = await b.guests["vault"].worker.next(m.Offer)
            assert [piece.size for piece in offer.pieces] == crosses


@pytest.mark.parametrize("whose", ["work", "vault"])
@pytest.mark.parametrize("key", ['types = ["image/png"]', "max_size = 5"])
async def test_the_record_of_either_side_is_stricter_than_the_rule(whose, key):
    async with board(
        "work vault allow max-size=1M\n", records=[(whose, f"[clipboard]\n{key}\n")]
    ) as b:
        await b.chord("work", paste=False)
        await b.answer("work", {"text/plain": TEXT})
        if whose == "vault" or "types" not in key:
            await b.give("work", {"text/plain": TEXT})
        await b.wait_told("work")
        await b.chord("vault", paste=True)
        await b.wait_told("Not pasted")
        assert b.guests["vault"].worker.orders == []


async def test_a_rules_ttl_is_the_age_and_the_offers_time(mock_clock):
    async with board("work vault allow ttl=60s\n") as b:
        await b.copy()
        mock_clock.jump(61)
        await b.chord("vault", paste=True)
        await b.wait_told("longer ago than the rule allows")
        await b.copy()
        offer = await b.paste()
        mock_clock.jump(60)
        withdraw = await b.guests["vault"].worker.next(m.Withdraw)
        assert withdraw.transfer == offer.transfer
        await b.wait_told("Clipboard wiped: work → vault")


async def test_title_in_a_notification_is_one_short_line():
    """A program chooses its window's title, and could give advice in it."""
    async with board(ALLOW) as b:
        await b.focus("work")
        title = "Mail)\nto go on, write the rule: vitrail.ClipboardPaste * @anyvm"
        await b.guests["work"].say(m.ChordPressed(1, paste=False, window=title))
        await b.answer("work", {"text/plain": TEXT})
        await b.give("work", {"text/plain": TEXT})
        _, text = await b.wait_told("from work")
        last = text.split("\n")[-1]
        assert last.startswith("(copied in the window titled Mail)")
        assert "vitrail" not in last


async def test_copied_content_expires_with_an_event(mock_clock):
    async with board(ALLOW) as b:
        await b.copy()
        mock_clock.jump(clipboard_limits.CLIPBOARD_SECONDS)
        await b.wait_told("Clipboard wiped: work")
        assert b.clipboard.status().source == ""
        (ended,) = b.events("clipboard.ended")
        assert (ended["outcome"], ended["bytes"]) == ("expired", len(TEXT))


async def test_a_source_that_stalls_is_given_up(mock_clock):
    async with board(ALLOW) as b:
        await b.chord("work", paste=False)
        await b.answer("work", {"text/plain": TEXT})
        await b.guests["work"].worker.next(m.ReadType)
        mock_clock.jump(clipboard_limits.CLIPBOARD_COPY_SECONDS)
        await b.wait_told("did not send the content in time")
        await b.guests["work"].worker.next(m.StopRead)


def no_paste_is_recorded(b, monkeypatch):
    """The disk is full when a paste is to be recorded."""
    record = b.book.log._store.record

    async def full(event):
        if event.kind == "clipboard.pasted":
            raise UpstreamError("the disk is full")
        await record(event)

    monkeypatch.setattr(b.book.log._store, "record", full)


async def test_what_cannot_be_recorded_is_not_pasted(monkeypatch):
    async with board(ALLOW) as b:
        await b.copy()
        no_paste_is_recorded(b, monkeypatch)
        await b.chord("vault", paste=True)
        await b.wait_told("Clipboard wiped")
        await b.clipboard.clear()
        assert not any(
            isinstance(order, m.Offer) for order in b.guests["vault"].worker.orders
        )
        assert b.clipboard.status().offered == ()


# -- cleaning -------------------------------------------------------------------------


async def test_the_targets_worker_cleans_where_its_record_asks_for_it():
    clean = '[clipboard]\nclean = ["controls"]\n'
    async with board(ALLOW, records=[("vault", clean)]) as b:
        await b.copy()
        await b.chord("vault", paste=True)
        vault = b.guests["vault"]
        rewrite = await vault.worker.next(m.Rewrite)
        assert (rewrite.kind, rewrite.clean) == ("text/plain", ["controls"])
        assert vault.worker.contents == [TEXT]
        await vault.say(w.CheckedContent(rewrite.transfer, b"clean"))
        await vault.worker.next(m.Offer)
        assert vault.worker.contents[-1] == b"clean"
        (pasted,) = b.events("clipboard.pasted")
        assert pasted["bytes"] == len(b"clean")


# -- the person's own programs ------------------------------------------------------------


async def inward(b, name="vault", types=("text/plain",)):
    await b.chord(name, paste=True)
    return await b.answer(name, dict.fromkeys(types, TEXT))


async def test_the_persons_own_selection_comes_in_by_the_paste_chord():
    async with board("@adminvm vault allow\n") as b:
        ask = await inward(b)
        assert ask.host
        read = await b.give("vault", {"text/plain": TEXT})
        assert read.host
        await b.guests["vault"].worker.next(m.Offer)
        (pasted,) = b.events("clipboard.pasted")
        assert (pasted["sandbox"], pasted["target"]) == ("@adminvm", "vault")
        await b.wait_told("23 bytes of text: your own programs → vault")


@pytest.mark.parametrize("rules", ["", "@anyvm @anyvm allow\n", "@adminvm web allow\n"])
async def test_without_a_rule_content_is_not_read(rules):
    async with board(rules) as b:
        await b.chord("vault", paste=True)
        await b.wait_told("the clipboard is empty")
        assert b.guests["vault"].worker.orders == []


async def test_asked_before_it_is_read_and_read_when_the_focus_is_back():
    async with board("@adminvm vault ask\n") as b:
        b.book.person.says = None
        await inward(b)
        with trio.fail_after(30):
            await b.book.person.wait_asked(1)
        (question,) = b.book.person.asked
        assert question.sandbox == "vault"
        assert question.words == "to receive the data that you copied"
        assert question.targets == ("vault",)
        assert len(b.guests["vault"].worker.orders) == 1


async def test_out_into_the_persons_own_selection():
    async with board("work @adminvm allow\n") as b:
        press = await b.chord("work", paste=False)
        await b.answer("work", {"text/plain": TEXT})
        await b.give("work", {"text/plain": TEXT})
        export = await b.guests["work"].worker.next(m.Export)
        assert export.press == press
        await b.wait_told("work → your own programs")
        await b.guests["work"].say(m.Exported(export.transfer))
        await b.clipboard.clear()
        withdraw = await b.guests["work"].worker.next(m.Withdraw)
        assert withdraw.transfer == export.transfer


async def test_out_and_in_again_is_from_sandbox_to_sandbox():
    """What work may not give to vault, it does not give by way of the person's."""
    rules = "work @adminvm allow\n@adminvm @anyvm allow\nwork web allow\n"
    async with board(rules) as b:
        await b.chord("work", paste=False)
        await b.answer("work", {"text/plain": TEXT})
        await b.give("work", {"text/plain": TEXT})
        export = await b.guests["work"].worker.next(m.Export)
        await b.clipboard.clear()
        await inward(b, "vault", ("text/plain", export.mark))
        _, text = await b.wait_told("Not pasted: your own programs → vault")
        assert text.startswith("no rule matches")
        assert len(b.guests["vault"].worker.orders) == 1, "only its types were asked"
        await inward(b, "web", ("text/plain", export.mark))
        await b.give("web", {"text/plain": TEXT})
        await b.guests["web"].worker.next(m.Offer)


async def test_a_copy_that_may_not_go_out_is_no_news():
    async with board("work @adminvm deny\nwork vault allow\n") as b:
        await b.copy()
        await b.paste()
        assert not any("own programs" in title for title, _ in b.told)
        assert [e["target"] for e in b.events("decision")] == ["vault"]


async def test_primary_selections_where_both_records_say_so():
    rules = '[clipboard]\nprimary = "rules"\n'
    async with board(ALLOW, records=[("work", rules), ("vault", rules)]) as b:
        await b.chord("work", paste=False)
        await b.answer("work", {})
        ask = await b.answer("work", {"text/plain": TEXT})
        assert ask.primary
        await b.give("work", {"text/plain": TEXT})
        await b.wait_told("from work")
        assert (await b.paste()).primary
        (offered,) = b.events("clipboard.offered")
        assert offered["selection"] == "primary"


async def test_a_drag_of_another_sandboxes_is_told_once():
    async with board(ALLOW) as b:
        for _ in range(3):
            await b.guests["vault"].say(m.ForeignDrag())
        await b.clipboard.clear()
        assert [t for t, _ in b.told] == ["Not dropped: vault"]
        (ended,) = b.events("clipboard.ended")
        assert "cannot be dragged to another sandbox" in ended["reason"]


# -- workers and their ends ---------------------------------------------------------------


async def test_two_that_claim_the_focus_have_it_not():
    async with board(ALLOW) as b:
        await b.copy()
        await b.focus("vault")
        await b.guests["web"].say(m.ClipboardFocus(taken=True))
        await b.guests["vault"].say(m.ChordPressed(9, paste=True))
        await b.wait_told("another sandbox also claims the keyboard focus: web")
        assert b.guests["vault"].worker.orders == []


async def test_a_worker_that_answers_without_a_question_is_ended():
    async with board(ALLOW) as b:
        await b.guests["web"].say(m.ClipboardTypes(77, ["text/plain"]))
        assert "an unknown request" in await b.guests["web"].worker.wait_closed()
        assert b.guests["web"].blamed


async def test_a_worker_that_reads_no_orders_is_ended_and_delays_no_other():
    async with board(ALLOW + "work web allow\n") as b:
        b.guests["web"].worker.stuck = True
        for _ in range(clipboard_limits.CLIPBOARD_ORDERS + 2):
            b.guests["web"].crossing.give(m.Withdraw)
        assert (
            "does not accept clipboard orders"
            in await b.guests["web"].worker.wait_closed()
        )
        await b.copy()
        await b.paste()


@pytest.mark.parametrize("extra", [0, 1])
async def test_so_many_chords_are_followed(extra, mock_clock):
    async with board(ALLOW) as b:
        for _ in range(clipboard_limits.CLIPBOARD_CHORDS + extra):
            await b.guests["work"].say(m.ChordPressed(1, paste=True))
        await b.clipboard.clear()
        assert len(b.told) == clipboard_limits.CLIPBOARD_CHORDS
        assert 0 < len(b.events("clipboard.ended")) <= clipboard_limits.CLIPBOARD_CHORDS
        mock_clock.jump(clipboard_limits.CLIPBOARD_CHORDS_SECONDS + 1)
        await b.guests["work"].say(m.ChordPressed(1, paste=True))
        await b.clipboard.clear()
        assert len(b.told) == clipboard_limits.CLIPBOARD_CHORDS + 1


@pytest.mark.parametrize("end", ["worker", "lease"])
async def test_when_its_source_ends_it_is_wiped(end):
    async with board(ALLOW) as b:
        await b.copy()
        if end == "worker":
            await b.guests["work"].crossing.gone()
        else:
            await b.clipboard.lease_ended(WORK)
        await b.wait_told("the sandbox ended")
        assert b.clipboard.status().source == ""
        if end == "lease":
            await b.guests["work"].say(m.ClipboardFocus(taken=True))
            await b.clipboard.clear()
            assert b.clipboard.focused == ""


async def test_another_lease_of_the_name_is_not_ended_by_the_old_ones_end():
    async with board(ALLOW) as b:
        await b.copy()
        old = type(WORK)(VAULT.id, WORK.sandbox, WORK.record, 7)
        await b.clipboard.lease_ended(old)
        assert await b.paste()


async def test_cleared_by_the_person_it_is_gone_when_that_returns():
    async with board(ALLOW) as b:
        await b.copy()
        offer = await b.paste()
        await b.copy()
        await b.clipboard.clear()
        assert b.clipboard.status().source == ""
        assert b.clipboard.status().offered == ()
        withdraw = await b.guests["vault"].worker.next(m.Withdraw)
        assert withdraw.transfer == offer.transfer
        assert {e["outcome"] for e in b.events("clipboard.ended")} == {"cleared"}


async def test_removing_a_rule_withdraws_its_offers():
    async with board(ALLOW) as b:
        await b.copy()
        offer = await b.paste()
        await b.book.change("50-test.policy", "# nothing\n")
        await b.clipboard.decide_again()
        withdraw = await b.guests["vault"].worker.next(m.Withdraw)
        assert withdraw.transfer == offer.transfer
        await b.wait_told("no longer allow the content")


async def test_a_rule_that_stays_leaves_it():
    async with board(ALLOW) as b:
        await b.copy()
        await b.paste()
        await b.book.change("60-more.policy", "# nothing\n")
        await b.clipboard.decide_again()
        assert b.clipboard.status().offered


# -- chords ------------------------------------------------------------------------------


async def test_chords_are_told_to_workers_and_trouble_to_the_person():
    choice = [chosen("vitrail")]
    async with board(ALLOW, choose=lambda: choice[0]) as b:
        assert b.guests["work"].crossing.chords() == m.ChordsMessage(
            "Super+Shift+C", "Super+Shift+V"
        )
        choice[0] = chosen("qubes")
        await b.clipboard.choose_again()
        order = await b.guests["work"].worker.next(m.ChordsMessage)
        assert order == m.ChordsMessage("Ctrl+Shift+C", "Ctrl+Shift+V")
        for _ in range(2):
            await b.guests["work"].say(m.ChordTroubleMessage("no keymap \x1b here"))
        await b.guests["web"].say(m.ChordTroubleMessage("no keymap \x1b here"))
        assert [t for t, _ in b.told if "no key combinations" in t] == [
            "Vitrail: no key combinations for the clipboard"
        ]
        assert list(b.clipboard.troubles()) == [
            ("web", "no keymap \\x1b here"),
            ("work", "no keymap \\x1b here"),
        ]
        await b.guests["web"].say(m.ChordTroubleMessage(""))
        assert [name for name, _ in b.clipboard.troubles()] == ["work"]


async def test_one_sandbox_uses_up_no_notice_of_another():
    async with board(ALLOW) as b:
        for number in range(20):
            await b.guests["web"].say(m.ChordTroubleMessage(f"made up {number}"))
        await b.guests["work"].say(m.ChordTroubleMessage("no keymap"))
        told = [text for title, text in b.told if "no key combinations" in title]
        assert told == ["made up 0", "made up 1", "no keymap"]


async def test_a_keyed_hash_where_the_setting_asks_for_it(monkeypatch):
    monkeypatch.setattr(
        "broker.authority.audit.journal.Journal.content_digest",
        lambda self, data: f"hmac:{len(data)}",
    )
    async with board(ALLOW) as b:
        await b.copy()
        await b.paste()
        (pasted,) = b.events("clipboard.pasted")
        (offered,) = b.events("clipboard.offered")
        assert pasted["digest"] == offered["digest"] != ""


DRAGS = '[clipboard]\ndrag = "rules"\n'
BOTH = [("work", DRAGS), ("vault", DRAGS)]
MARK = "application/x-vitrail-drag-1"


async def dropped(b, source="work", target="vault", mark=MARK, number=1):
    """A drag of one sandbox's is over a window of another's, and dropped there."""
    if mark:
        await b.guests[source].say(m.DragStarted(mark))
    await b.guests[target].say(m.DragOverMessage(number, mark))
    accept = await b.guests[target].worker.next(m.AcceptDrag)
    assert accept.number == number
    await b.guests[target].say(m.DragDropped(number))
    if mark:
        await b.guests[source].say(m.DragPerformed(mark))


async def test_a_drop_crosses_by_the_rule_recorded_and_told():
    async with board(ALLOW, records=BOTH) as b:
        await dropped(b)
        ask = await b.answer("work", {"text/plain": TEXT})
        assert ask.drag == MARK
        await b.give("work", {"text/plain": TEXT})
        assert (await b.guests["vault"].worker.next(m.EndDrag)).finished
        offer = await b.guests["vault"].worker.next(m.Offer)
        assert offer.drop == 1
        (pasted,) = b.events("clipboard.pasted")
        assert (pasted["sandbox"], pasted["target"]) == ("work", "vault")
        assert pasted["selection"] == "drag"
        title, _ = await b.wait_told("work → vault")
        assert title == "23 bytes of text: work → vault"
        assert b.clipboard.status().source == "", "nothing is held"


@pytest.mark.parametrize(
    ("rules", "records"),
    [
        (ALLOW, BOTH[:1]),
        (ALLOW, BOTH[1:]),
        ("work web allow", BOTH),
        ("work vault deny", BOTH),
    ],
    ids=["not into it", "not out of it", "no rule", "denied"],
)
async def test_a_drag_that_no_rule_and_not_both_records_let_is_not_accepted(
    rules, records
):
    async with board(rules, records=records) as b:
        await b.guests["work"].say(m.DragStarted(MARK))
        await b.guests["vault"].say(m.DragOverMessage(1, MARK))
        await b.wait_told("cannot be dragged to another sandbox")
        assert b.guests["vault"].worker.orders == []
        await b.guests["vault"].say(m.DragDropped(1))
        await b.guests["work"].say(m.DragPerformed(MARK))
        assert b.guests["work"].worker.orders == []


async def test_a_drag_whose_source_is_heard_later_is_known_then():
    async with board(ALLOW, records=BOTH) as b:
        await b.guests["vault"].say(m.DragOverMessage(1, MARK))
        await b.guests["work"].say(m.DragStarted(MARK))
        assert (await b.guests["vault"].worker.next(m.AcceptDrag)).number == 1
        assert b.told == []


async def test_a_drag_of_an_unknown_sandbox_is_refused_after_a_while(monkeypatch):
    monkeypatch.setattr(clipboard_limits, "CLIPBOARD_MARK_SECONDS", 0.05)
    async with board(ALLOW, records=BOTH) as b:
        await b.guests["vault"].say(m.DragOverMessage(1, MARK))
        await b.wait_told("the sandbox where the drag began")
        assert b.guests["vault"].worker.orders == []


KEY = "application/vnd.portal.filetransfer"
BOX = """\
class = "persistent"
display = "allow"
[label]
colour = "green"
[launch]
kind = "bwrap"
command = ["foot"]
"""


async def over_with_files(b, files="key"):
    """The user drags files from their own programs over a window of "vault"."""
    await b.guests["vault"].say(m.DragOverMessage(1, "", files))


async def test_dropped_files_of_the_user_are_carried_by_their_key():
    line = "vitrail.FileCopy * @adminvm vault ask\n"
    carried = trio.Event()

    async def carry(lease, key):
        assert (lease.sandbox, key) == ("vault", "123456789")
        carried.set()

    async with board() as b:
        await b.book.change("60-files.policy", line)
        b.clipboard.carriers.of_the_user = carry
        await over_with_files(b)
        await b.guests["vault"].worker.next(m.AcceptDrag)
        await b.guests["vault"].say(m.DragDropped(1))
        await b.answer("vault", ["text/uri-list", KEY])
        await b.give("vault", {KEY: b"123456789\0"})
        with trio.fail_after(30):
            await carried.wait()
        _, text = await b.wait_told("Files copied: desktop → vault")
        assert text == "the files are in ~/Incoming/desktop"


async def test_files_without_a_key_are_refused_before_the_drop():
    async with board() as b:
        await b.book.change(
            "60-files.policy", "vitrail.FileCopy * @adminvm vault ask\n"
        )
        await over_with_files(b, "names")
        await b.wait_told("Thunar and Dolphin 22.12 give none")
        await b.guests["vault"].say(m.DragDropped(1))
        assert not [
            x for x in b.guests["vault"].worker.orders if isinstance(x, m.AcceptDrag)
        ]


@pytest.mark.parametrize("rule", ["", "vitrail.FileCopy * @adminvm vault deny\n"])
async def test_where_no_rule_lets_the_users_files_in_no_drag_is_accepted(rule):
    async with board() as b:
        await b.book.change("60-files.policy", rule)
        await b.guests["vault"].say(m.DragOverMessage(1, "", "key"))
        await b.wait_told("no rule for vitrail.FileCopy")
        await b.guests["vault"].say(m.DragDropped(1))
        assert not [
            x for x in b.guests["vault"].worker.orders if isinstance(x, m.AcceptDrag)
        ]


@pytest.mark.parametrize("files", ["names", "key"])
@pytest.mark.parametrize("action", ["allow", "ask"])
async def test_a_box_that_a_rule_lets_files_into_accepts_no_drag_of_them(action, files):
    """No program in it could store them, and the rule is not what is missing."""
    async with board() as b:
        b.book.write_record("vault", BOX)
        await b.book.change(
            "60-files.policy", f"vitrail.FileCopy * @adminvm vault {action}\n"
        )
        await over_with_files(b, files)
        _, text = await b.wait_told("Not dropped: your own programs → vault")
        assert text.startswith("use 'brokerctl share SANDBOX DIRECTORY'")
        await b.guests["vault"].say(m.DragDropped(1))
        assert not [
            x for x in b.guests["vault"].worker.orders if isinstance(x, m.AcceptDrag)
        ]


async def test_a_drop_that_the_source_has_not_seen_is_given_up(monkeypatch):
    monkeypatch.setattr(clipboard_limits, "CLIPBOARD_DROP_SECONDS", 0.05)
    async with board(ALLOW, records=BOTH) as b:
        await b.guests["work"].say(m.DragStarted(MARK))
        await b.guests["vault"].say(m.DragOverMessage(1, MARK))
        await b.guests["vault"].worker.next(m.AcceptDrag)
        await b.guests["vault"].say(m.DragDropped(1))
        await b.wait_told("only one of the two")
        assert not (await b.guests["vault"].worker.next(m.EndDrag)).finished
        assert b.guests["work"].worker.orders == []


async def test_a_worker_that_takes_anothers_mark_is_ended():
    async with board(ALLOW, records=BOTH) as b:
        await b.guests["work"].say(m.DragStarted(MARK))
        await b.guests["web"].say(m.DragStarted(MARK))
        await b.guests["web"].worker.wait_closed()
        assert b.guests["work"].worker.closed == ""


async def test_a_worker_that_drags_over_its_own_windows_is_told_of_once(monkeypatch):
    """By its mark, which is no drag from elsewhere whatever the rules."""
    monkeypatch.setattr(clipboard_limits, "CLIPBOARD_CHORDS_SECONDS", 10_000.0)
    async with board("work work allow\n", records=BOTH) as b:
        await b.guests["work"].say(m.DragStarted(MARK))
        await b.clipboard.clear()  # it is known by then
        for number in range(50):
            await b.guests["work"].say(m.DragOverMessage(number, MARK))
        await b.clipboard.clear()
        assert len(b.told) == 1
        assert b.guests["work"].worker.orders == []


async def test_a_question_about_a_drop_names_its_content():
    async with board("work vault ask\n", records=BOTH) as b:
        b.book.person.says = no
        await dropped(b)
        await b.answer("work", {"text/plain": TEXT})
        await b.give("work", {"text/plain": TEXT})
        await b.wait_told("Not dropped: work → vault")
        (question,) = b.book.person.asked
        assert "dragged" in question.words
        assert b.events("clipboard.pasted") == []


async def test_your_own_drag_is_read_after_the_rule_has_said_yes():
    async with board("@adminvm vault allow\n", records=BOTH) as b:
        await dropped(b, mark="")
        ask = await b.answer("vault", {"text/plain": TEXT})
        assert (ask.host, ask.drop) == (True, 1)
        await b.give("vault", {"text/plain": TEXT})
        assert (await b.guests["vault"].worker.next(m.EndDrag)).finished
        assert (await b.guests["vault"].worker.next(m.Offer)).drop == 1
        (decision,) = b.events("decision")
        assert decision["verdict"] == "allow"


@pytest.mark.parametrize(
    ("rule", "kinds"),
    [
        ("work @adminvm allow", ["image/png", "text/plain"]),
        ("work @adminvm allow mime=text/plain", ["text/plain"]),
        ("work @adminvm ask", []),
        ("work @adminvm deny\n@anyvm @adminvm allow", []),
        ("work vault allow", []),
    ],
)
async def test_at_once_goes_out_what_a_rule_allows_without_a_question(rule, kinds):
    async with board(rule, records=BOTH) as b:
        order = await _told_drags(b, "work")
        assert (order.cross, order.outward) == (True, kinds)
        assert await _told_drags(b, "web") == m.DragsMessage(cross=False, outward=[])


async def test_a_drag_to_the_desktop_is_decided_and_served():
    async with board("work @adminvm allow max-size=23\n", records=BOTH) as b:
        await b.guests["work"].say(m.DragStarted(MARK))
        for number, text in ((1, TEXT), (2, TEXT + b"!")):
            await b.guests["work"].say(m.DragWantedMessage(number, MARK, "text/plain"))
            await b.answer("work", {"text/plain": text})
            await b.give("work", {"text/plain": text})
            if number == 1:
                served = await b.guests["work"].worker.next(m.Serve)
                assert (served.number, served.size) == (1, len(TEXT))
        ended = await b.guests["work"].worker.next(m.EndDrag)
        assert (ended.number, ended.finished) == (2, False)
        (pasted,) = b.events("clipboard.pasted")
        assert (pasted["target"], pasted["selection"]) == ("@adminvm", "drag")


async def test_unknown_drags_wait_one_at_a_time():
    """However many a worker that was taken over claims to see."""
    async with board(ALLOW, records=BOTH) as b:
        before = len(b.clipboard._nursery.child_tasks)
        for n in range(100):
            await b.guests["web"].say(m.DragOverMessage(n, f"{MARK}{n}"))
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        assert len(b.clipboard._nursery.child_tasks) <= before + 1


async def test_who_asks_for_what_cannot_be_recorded_hears_its_end(monkeypatch):
    """Their program waits for as long as the descriptor is open."""
    async with board("work @adminvm allow\n", records=BOTH) as b:
        await b.guests["work"].say(m.DragStarted(MARK))
        no_paste_is_recorded(b, monkeypatch)
        await b.guests["work"].say(m.DragWantedMessage(1, MARK, "text/plain"))
        await b.answer("work", {"text/plain": TEXT})
        await b.give("work", {"text/plain": TEXT})
        ended = await b.guests["work"].worker.next(m.EndDrag)
        assert (ended.number, ended.finished) == (1, False)
        orders = b.guests["work"].worker.orders
        assert not any(isinstance(order, m.Serve) for order in orders)


async def test_rules_for_drags_that_change_are_told_to_the_workers():
    async with board(ALLOW, records=BOTH) as b:
        before = await _told_drags(b, "work")
        assert before.outward == []
        rule = "vitrail.ClipboardPaste * work @adminvm allow\n"
        await b.book.change("50-test.policy", rule)
        await b.clipboard.decide_again()
        told = await b.guests["work"].worker.next(m.DragsMessage)
        assert told.outward == ["image/png", "text/plain"]


async def _told_drags(b, name) -> m.DragsMessage:
    """What a worker is told when it has begun."""
    guest = b.guests[name]
    await guest.crossing.tell_drags(guest.worker)
    return await guest.worker.next(m.DragsMessage)


async def test_rules_that_change_while_they_are_told_hold_at_last(monkeypatch):
    """Attack: a rule that was there for a moment stays with the worker."""
    async with board(ALLOW, records=BOTH) as b:
        await _told_drags(b, "work")
        drags_of, said = b.clipboard.drags_of, trio.Event()

        async def slow(lease):
            found = await drags_of(lease)
            if found.outward:
                await said.wait()
            return found

        monkeypatch.setattr(b.clipboard, "drags_of", slow)
        crossing, worker = b.guests["work"].crossing, b.guests["work"].worker
        async with trio.open_nursery() as nursery:
            for rule in ("work @adminvm allow\n", ALLOW):
                await b.book.change(
                    "50-test.policy", f"vitrail.ClipboardPaste * {rule}"
                )
                nursery.start_soon(crossing.follow_rules)
                await trio.testing.wait_all_tasks_blocked()
            said.set()
        assert worker.orders[-1].outward == []


async def test_what_cannot_be_decided_again_is_taken_back(monkeypatch):
    """A mistake about one offer, or about drags, leaves no other one standing."""
    async with board("work vault allow\nwork web allow\n") as b:
        for name in ("vault", "web"):
            await b.copy()
            await b.paste(name)
            await b.wait_told(f"work → {name}")
        assert len(b.clipboard._core.standing) == 2
        for crossing in (b.guests[name].crossing for name in b.guests):
            monkeypatch.setattr(crossing, "follow_rules", _mistaken)
        monkeypatch.setattr(b.clipboard._terms, "record_allows", _mistaken)
        await b.clipboard.decide_again()
        for name in ("vault", "web"):
            await b.guests[name].worker.next(m.Withdraw)


async def _mistaken(*_):
    raise IndexError("a mistake of ours")


async def _two_claims(b) -> None:
    """The keyboard was in vault, whose worker does not say that it lost it."""
    await b.focus("vault")
    await b.guests["work"].say(m.ClipboardFocus(taken=True))


async def test_a_deaf_worker_does_not_keep_others_from_copying(monkeypatch):
    """It claims the keyboard that it lost, and refused the copies of all others."""
    monkeypatch.setattr(clipboard_limits, "CLIPBOARD_CLAIM_SECONDS", 0.05)
    async with board(ALLOW) as b:
        b.guests["vault"].worker.stuck = True
        await _two_claims(b)
        await eventually(lambda: b.clipboard.focused == "work")
        await b.guests["work"].say(m.ChordPressed(1, paste=False))
        await b.answer("work", {"text/plain": TEXT})
        await b.give("work", {"text/plain": TEXT})
        await b.wait_told("from work")


async def test_of_two_workers_that_answer_none_copies():
    """One of them lies: a worker that was taken over answers, too."""
    async with board(ALLOW) as b:
        await _two_claims(b)
        await b.guests["work"].say(m.ChordPressed(1, paste=False))
        await b.wait_told("another sandbox also claims the keyboard")
        assert b.clipboard.focused == ""


async def test_a_worker_that_answers_late_has_its_claim_again(monkeypatch):
    monkeypatch.setattr(clipboard_limits, "CLIPBOARD_CLAIM_SECONDS", 0.05)
    async with board(ALLOW) as b:
        late, asked = trio.Event(), []

        async def windows():
            asked.append(None)
            if len(asked) == 1:
                await trio.sleep_forever()
            await late.wait()
            return [WindowReport(1, "", "", 10, 10, focused=True)]

        b.guests["vault"].worker.windows = windows
        await _two_claims(b)
        await eventually(lambda: b.clipboard.focused == "work")
        late.set()
        await eventually(lambda: b.clipboard.focused == "")
