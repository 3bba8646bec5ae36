"""A yes allows exactly the shown request: the whole host, and one request for a yes.

A dialog that cuts an address shows ``https://accounts.google.com.…`` and hides where
it leads; and two requests that look alike once they are cut were one question.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.authority.decisions.put_question import question_of
from broker.authority.permit import Request
from broker.authority.questions.queue import Queue
from broker.core.lease import Opening
from broker.core.question import Question
from broker.core.services import FILE_COPY, OPEN_FILE, OPEN_URL, ServiceName
from broker.core.transfer.urls import take_url
from broker.helpers.prompt.description import describe
from broker.helpers.prompt.dialog import FRAME, PAD, WIDTH, Dialog, text_rows
from broker.helpers.prompt.paint import fitting, font
from broker.ipc.guest.file_requests import CopyFiles, OpenFile, OpenUrl
from broker.viewer.transfer import service
from policy.rules.engine import PolicyAnswer
from tests.kit.prompting import WORD
from tests.kit.rulebook import WORK

LOOKS = "accounts.google.com." + "security-session-check." * 4
EVIL = f"https://{LOOKS}signin.evil.example/login"
OTHER = f"https://{LOOKS}signin.another.example/login"
LONGEST = ".".join(["m" * 63] * 3 + ["w" * 57, "dk"])


def request_for(ask: OpenUrl | OpenFile | CopyFiles, port: ServiceName) -> Request:
    """The request that a sandbox's program causes."""
    opening = Opening(WORK, port, 1, "vsock:3")
    return service._request(opening, ask, service._asked(opening, ask))


def question_for(request: Request) -> Question:
    answer = PolicyAnswer("ask", "a rule asks", targets=("web",))
    return question_of(request, answer, None)


def lines_of(asked: Question) -> list[str]:
    """The dialog's lines, as they are drawn and read out."""
    return list(describe(Dialog(asked, WORD), 0.0).lines)


def opens(url: str) -> Question:
    return question_for(request_for(OpenUrl(url), OPEN_URL))


@pytest.mark.parametrize("url", [EVIL, OTHER, f"https://{LONGEST}/x"])
def test_the_dialog_shows_the_whole_host(url):
    host = take_url(url).host
    assert f"host: {host}" in "".join(lines_of(opens(url)))


@pytest.mark.parametrize("letter", "mw.i")
@pytest.mark.parametrize("scale", [1, 2])
def test_no_row_of_a_host_is_cut_when_it_is_drawn(letter, scale):
    host = ".".join([letter * 63] * 3 + ["dk"]) if letter != "." else LONGEST
    rows = text_rows(opens(f"https://{host}/x"))
    whole = "".join(words.removeprefix(" " * 4) for words, _ in rows)
    assert f"host: {host}" in whole
    width = (WIDTH - 2 * (FRAME + PAD)) * scale
    for words, bold in rows:
        size = fitting(words, 15 * scale, width, bold=bold)
        assert font(size, bold=bold).getlength(words) <= width
        assert size >= 8 * scale, "and can be read"


def test_the_host_of_a_security_key_is_shown_whole():
    request = Request(
        lease=WORK,
        service="vitrail.SecurityKey",
        way="sign in",
        host=LONGEST,
    )
    assert LONGEST in "".join(lines_of(question_for(request)))


def test_requests_that_look_alike_are_two_questions():
    """One yes was for both, and each got a grant for a different host."""
    queue = Queue()
    for number, url in enumerate((EVIL, OTHER), 1):
        asker = queue.ask(opens(url), 0.0)
        queue.release(asker)
        assert len(queue.all()) == number


@pytest.mark.parametrize(
    "change",
    [
        {"argument": "+" + "x" * 90 + "b"},
        {"mime": "x/" + "x" * 90 + "b"},
        {"scheme": "x" * 90 + "b"},
        {"host": "x" * 90 + "b"},
        {"size": 5},
        {"way": "edit"},
        {"about": "x" * 90 + "b"},
        {"claims": (("what", "x" * 90 + "b" + "x" * 90),)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_part_of_a_request_makes_another_question(change):
    first = Request(
        lease=WORK,
        service="vitrail.OpenURL",
        argument="+" + "x" * 90 + "a",
        mime="x/" + "x" * 90 + "a",
        scheme="x" * 90 + "a",
        host="x" * 90 + "a",
        size=4,
        about="x" * 90 + "a",
        claims=(("what", "x" * 90 + "a" + "x" * 90),),
    )
    assert question_for(first) == question_for(replace(first))
    assert question_for(first) != question_for(replace(first, **change))


def test_names_keep_their_end():
    """The type by which a program is chosen is at the end."""
    name = "invoice" + " " * 150 + "2026.desktop"
    for ask, port in (
        (OpenFile(name, 4), OPEN_FILE),
        (CopyFiles(name, 1, 4), FILE_COPY),
    ):
        shown = dict(question_for(request_for(ask, port)).details)["what, it says"]
        assert shown.startswith("invoice")
        assert shown.endswith("2026.desktop")
        assert len(shown) <= 80
