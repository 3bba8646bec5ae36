"""Attack: a sandbox's notifications cover the desktop, imitate, or reach into others."""

from __future__ import annotations

import pytest

from broker.core.lease import Lease
from broker.core.limits import notifications as limits
from broker.ipc.control.api import NotificationsRequest
from broker.ipc.guest.daemons import DaemonShow, decode_from_daemon
from broker.viewer.notifications import board as module
from broker.viewer.notifications.board import CRITICAL, NORMAL, Board, bubble
from broker.viewer.notifications.notification_service import NotificationControl

WORK = Lease("l1", "work", "work", 1)
OTHER = Lease("l2", "other", "other", 1)


def show(number=1, summary="s", body="", **more):
    return DaemonShow(number, summary, body, **more)


def admit(board, lease=WORK, stream=1, now=0.0, **more):
    return board.admit(lease, stream, show(**more), now, 1000.0 + now)


def test_ten_thousand_notifications_are_five_and_a_number():
    board = Board()
    seen = [admit(board, number=n) for n in range(1, 10_001)]
    assert sum(one is not None for one in seen) == limits.SHOWN_PER_SANDBOX
    assert board.group("work")[1] == 10_000 - limits.SHOWN_PER_SANDBOX
    assert len(list(board.history())) == limits.HISTORY


def test_notifications_that_are_taken_back_at_once_are_counted_too():
    board, shown = Board(), 0
    for number in range(1, 1000):
        if notice := admit(board, number=number):
            shown += 1
            board.end(notice.number, "taken back")
    assert shown == limits.PER_MINUTE


def test_a_flood_takes_nothing_from_another_sandbox():
    board = Board()
    for number in range(1, 1000):
        admit(board, number=number)
    assert admit(board, OTHER, number=1) is not None
    assert [past.sandbox for past in board.history("other")] == ["other"]
    assert board.group("other")[1] == 0


def test_many_sandboxes_have_a_total():
    board, shown = Board(), 0
    for name in range(40):
        lease = Lease(f"l{name}", f"s{name}", f"s{name}", 1)
        shown += sum(admit(board, lease, number=n) is not None for n in (1, 2, 3))
    assert shown == limits.SHOWN_TOTAL


def test_a_total_each_minute_holds_also_where_nothing_stays():
    board, shown = Board(), 0
    for name in range(40):
        lease = Lease(f"l{name}", f"s{name}", f"s{name}", 1)
        for number in range(1, 20):
            if notice := admit(board, lease, number=number):
                shown += 1
                board.end(notice.number, "taken back")
    assert shown == limits.PER_MINUTE_TOTAL


def test_four_sandboxes_leave_places_to_another():
    """Five of each stayed until they were dismissed."""
    board = Board()
    for name in "abcd":
        for number in range(1, 9):
            admit(board, Lease(name, name, name, 1), number=number)
    assert admit(board, OTHER, now=90.0) is not None


def test_disposables_have_the_places_of_their_record():
    board, shown = Board(), 0
    for name in range(8):
        lease = Lease(f"w{name}", f"web-{name}", "web", 1)
        for number in range(1, 9):
            shown += admit(board, lease, number=number) is not None
    assert shown == limits.SHOWN_PER_SANDBOX


def test_a_number_of_another_sandbox_or_connection_is_a_new_one():
    board = Board()
    first = admit(board, number=7)
    assert admit(board, OTHER, number=7) is not first
    assert admit(board, WORK, stream=2, number=7) is not first
    assert admit(board, number=7) is first
    assert board.known(OTHER, 1, 8) is None


def test_changes_have_a_pace():
    board = Board()
    first = admit(board)
    changes = [admit(board) for _ in range(1000)]
    assert changes.count(first) == limits.CHANGES_PER_MINUTE
    assert set(changes) == {first, None}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>root</b>", "&lt;b&gt;root&lt;/b&gt;"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("a\x1b[2Jb\u202ec\u200b", "a\\x1b[2Jb\\u202ec\\u200b"),
        ("\n" * 100 + "x", "\n" * (limits.BODY_LINES - 1)),
        ("x" * 1000, "x" * (limits.SHOWN_BODY_CHARS - 1) + "…"),
    ],
)
def test_text_is_plain(text, shown):
    board = Board()
    ask = show(body=text)
    notice = board.admit(WORK, 1, ask, 0.0, 0.0)
    assert bubble(notice, ask, colour=0, critical=False).body == shown


def test_a_title_begins_with_the_sandboxs_name_and_has_one_line():
    board = Board()
    ask = show(summary="x\nVitrail: your disk is full" + "y" * 100)
    notice = board.admit(WORK, 1, ask, 0.0, 0.0)
    title = bubble(notice, ask, colour=0, critical=False).title
    assert title.startswith("work: x\\x0aVitrail:")
    assert len(title) <= len("work: ") + limits.SHOWN_SUMMARY_CHARS


def test_urgency_and_time_are_bounded():
    board = Board()
    for expire, shown in ((0, -1), (-1, -1), (1, 2000), (2**31 - 1, 60000)):
        ask = show(urgency=CRITICAL, expire=expire)
        notice = board.admit(WORK, 1, ask, 0.0, 0.0)
        made = bubble(notice, ask, colour=0, critical=False)
        assert (made.urgency, made.expire) == (NORMAL, shown)
        assert bubble(notice, ask, colour=0, critical=True).urgency == CRITICAL


def test_histories_of_many_sandboxes_have_an_end():
    board = Board()
    for name in range(limits.HISTORIES + 10):
        admit(board, Lease(f"l{name}", f"s{name}", f"s{name}", 1))
    names = {past.sandbox for past in board.history()}
    assert len(names) == limits.HISTORIES
    assert "s0" not in names


def test_disposables_push_out_histories_of_their_record_alone():
    """A sandbox that may open disposables has as many names as it likes."""
    board = Board()
    admit(board, OTHER)
    for number in range(limits.HISTORIES):
        lease = Lease(f"l{number}", f"disp-{number}", "disp", 1)
        admit(board, lease, now=float(number + 1))
    assert [past.sandbox for past in board.history("other")] == ["other"]
    assert len({past.sandbox for past in board.history()}) == limits.HISTORIES


async def test_each_sandboxs_newest_notifications_are_listed():
    """Those that are not listed are forgotten unseen, by --clear."""
    board = Board()
    for number in (1, 2):
        admit(board, OTHER, now=float(number), summary=f"mine {number}")
    for name in ("a", "b", "c"):
        lease = Lease(f"l{name}", name, name, 1)
        for number in range(limits.HISTORY):
            admit(board, lease, number=number, now=10.0 + number)
    request = NotificationsRequest(clear=True)
    answer = await NotificationControl(board).notifications(None, request)
    rows = [row.summary for row in answer.notifications if row.sandbox == "other"]
    assert rows == ["mine 1", "mine 2"]
    assert answer.omitted == 3 * limits.HISTORY + 2 - len(answer.notifications) > 0
    times = [row.when for row in answer.notifications]
    assert times == sorted(times)


def test_budgets_of_sandboxes_that_are_gone_are_forgotten():
    board = Board()
    for name in range(1000):
        admit(board, Lease(f"l{name}", f"s{name}", f"s{name}", 1), now=name * 100.0)
    assert len(board._budgets) < 5


GOOD = b'{"type":"show","number":1,"summary":"s"}'


def test_a_message_of_a_daemon():
    assert decode_from_daemon(GOOD) == show()


def test_a_badge_is_the_colour_and_nothing_else():
    width, height, stride, alpha, bits, channels, data = module.badge(0x12AB34)
    assert (alpha, bits, channels) == (False, 8, 3)
    assert data == b"\x12\xab\x34" * width * height
    assert stride == 3 * width
