"""Programs of GTK and Qt use the portal where rules may allow all that they ask of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from broker.authority.permit import USER
from broker.cli.launchers import portal_programs
from broker.cli.launchers.portal_programs import portal_variables
from broker.core.services import OPEN_URL, PORTAL_CALLS, PORTAL_VARIABLES
from broker.ipc.control.api import PortalUseAnswer, PortalUseRequest
from broker.viewer.dialogs import PortalControl, portal_use
from broker.wire.faults import NotFoundError
from tests.integration.test_box_session_bus import boxes, in_box
from tests.kit.needs import PID_NAMESPACES
from tests.kit.rulebook import rulebook

DIALOGS = "vitrail.FileDialog + work @adminvm {}\n"
PRINTS = "vitrail.Print + work @adminvm {}\n"


@pytest.mark.parametrize(
    ("text", "uses"),
    [
        (
            f"{DIALOGS.format('allow')}{PRINTS.format('ask')}".replace(
                " + work", " * work"
            ),
            True,
        ),
        (DIALOGS.replace(" + ", " * ").format("allow"), False),
        (
            "vitrail.FileDialog +open work @adminvm allow\n" + PRINTS.format("ask"),
            False,
        ),
        ("", False),
    ],
)
async def test_a_box_has_the_variables_where_every_call_may_be_allowed(text, uses):
    async with rulebook(text) as book:
        control = PortalControl(book.decider)
        answer = await control.portal_use(None, PortalUseRequest(record="work"))
        assert answer.uses is uses


WEB = "http https"


@pytest.mark.parametrize(
    ("text", "schemes"),
    [
        ("vitrail.OpenURL * @anyvm @default ask target=vault", f"{WEB} mailto"),
        ("vitrail.OpenURL * work @default allow target=vault scheme=https,http", WEB),
        (
            (
                "vitrail.OpenURL * work @default allow target=vault scheme=mailto,zoommtg\n"
                "vitrail.OpenURL * work @default deny scheme=tel"
            ),
            "mailto zoommtg",
        ),
        (  # the first rule decides, and does not name the scheme
            (
                "vitrail.OpenURL * work @default allow target=vault\n"
                "vitrail.OpenURL * work @default allow target=vault scheme=tel"
            ),
            f"{WEB} mailto",
        ),
        (
            "vitrail.OpenURL * work @default allow target=vault host=bank.example",
            "",
        ),
        ("vitrail.OpenURL * other @default allow target=vault scheme=tel", ""),
        ("", ""),
    ],
)
async def test_schemes_that_rules_may_open_elsewhere_are_listed(text, schemes):
    async with rulebook(f"{text}\n") as book:
        control = PortalControl(book.decider)
        answer = await control.portal_use(None, PortalUseRequest(record="work"))
        assert (" ".join(answer.schemes), answer.uses) == (schemes, False)


async def test_links_of_box_start_our_opener_for_schemes_of_rules_only():
    """A rule for mail addresses counts for gio(1) and GTK's programs, too."""
    asks = (
        "for s in mailto zoommtg https; do gio mime x-scheme-handler/$s | head -1; done"
    )
    asks += '; test -z "$VITRAIL_LINKS"'
    rules = (
        "vitrail.OpenURL * work @default allow target=personal scheme=mailto,zoommtg\n"
    )
    async with boxes(rules=rules) as (w, _screen):
        code, said = await in_box(w, "work", asks)
        assert code == 0, said
        mail, meeting, web = said.splitlines()
        assert "vitrail-open.desktop" in mail
        assert "vitrail-open.desktop" in meeting
        assert "vitrail-open" not in web
        code, said = await in_box(w, "personal", asks)
        assert code == 0, said
        assert "vitrail-open" not in said


def test_a_container_has_the_variables_that_the_broker_says(monkeypatch):
    for uses in (True, False):
        answer = PortalUseAnswer(uses=uses)
        monkeypatch.setattr(portal_programs, "ask", lambda *_, answer=answer: answer)
        assert portal_variables("work") == (PORTAL_VARIABLES if uses else {})


def test_an_earlier_broker_gives_no_variables(monkeypatch):
    def refuse(*_):
        raise NotFoundError("there is no such method")

    monkeypatch.setattr(portal_programs, "ask", refuse)
    assert portal_variables("work") == {}


@pytest.mark.parametrize("denied", [None, *range(len(PORTAL_CALLS))])
async def test_a_machine_asks_about_every_call(denied):
    class Decider:
        async def rules_about(self, *_):
            return []

        async def preview(self, requests):
            asked = [(r.service, r.argument) for r in requests]
            assert asked == [*PORTAL_CALLS, *[(OPEN_URL, "+")] * 3]
            verdicts = ["ask"] * len(requests)
            if denied is not None:
                verdicts[denied] = "deny"
            return [SimpleNamespace(verdict=one, rule=None) for one in verdicts]

    assert (await portal_use(Decider(), USER)).uses is (denied is None)


@PID_NAMESPACES
async def test_programs_of_a_records_box_get_them():
    rules = DIALOGS.format("allow") + PRINTS.format("ask")
    async with boxes(rules=rules.replace(" + ", " * ")) as (w, _screen):
        code, said = await in_box(w, "work", 'test "$GTK_USE_PORTAL" = 1')
        assert code == 0, said
        code, said = await in_box(w, "personal", 'test -z "$GTK_USE_PORTAL"')
        assert code == 0, said
