"""A worker's messages about drags, and requests that it has no room to report."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from broker.core.limits import clipboard as limits
from broker.ipc import clipboard as m
from broker.jail.wayland.handlers.foreign_drags import Over
from tests.broker.jail.worker.clipboard.test_orders import TEXT, told

KEY = b"application/vnd.portal.filetransfer"
MARK = b"application/x-vitrail-drag-1"


class Core:
    """A connection, and the compositor's offers that it has ended."""

    def __init__(self, sandbox):
        self.sandbox, self.ended = sandbox, []
        sandbox.filters.add(self)

    def end_own(self, offer):
        self.ended.append(offer)

    def wake(self):
        """No task waits."""


def dragged(*mimes):
    """A source that an application drags."""
    return SimpleNamespace(mimes=mimes, drag=b"application/x-vitrail-drag-1")


async def test_a_flood_does_not_delay_a_request_for_dragged_content():
    """A client that begins drags without end pushes out the question for it."""
    async with told() as it:
        it.mine.obey(m.DragsMessage(cross=True, outward=["text/plain"]), [])
        for _ in range(2 * limits.CLIPBOARD_SERVES):
            theirs, ours = os.pipe()
            assert it.mine.drags.wanted(dragged(TEXT), TEXT, ours)
            for _ in range(limits.CLIPBOARD_EVENTS):
                it.mine.drags.started(dragged(TEXT))
            os.set_blocking(theirs, False)
            assert os.read(theirs, 1) == b"", "the asking client hears its end"
            os.close(theirs)


def come_over(core, drags):
    """A drag from elsewhere comes over a window."""
    host = SimpleNamespace(dead=False, mimes=[TEXT], sid=1)
    over = Over(core, SimpleNamespace(untold=None), None, host)
    drags.over(over)
    return over


def drop(drags, over):
    """It is dropped there."""
    over.dropped = True
    drags.dropped(over)


def drop_on_two(core, drags):
    """The next one is over a program of two devices; the first has its drop."""
    one, _ = come_over(core, drags), come_over(core, drags)
    drop(drags, one)


def begin_three(_core, drags):
    """Three drags begin."""
    for _ in range(3):
        drags.started(dragged(TEXT))


@pytest.mark.parametrize("last", [drop_on_two, begin_three])
async def test_a_drop_that_there_was_no_room_to_tell_is_given_up(last):
    async with told() as it:
        it.mine.obey(m.DragsMessage(cross=True, outward=[]), [])
        core, drags = Core(it.sandbox), it.mine.drags
        over = come_over(core, drags)
        drop(drags, over)
        for _ in range(limits.CLIPBOARD_EVENTS - 3):
            drags.started(dragged(TEXT))
        assert core.ended == []
        assert drags.origin("", 1) is not None
        last(core, drags)
        assert core.ended == [over.host]
        assert drags.origin("", 1) is None


@pytest.mark.parametrize(
    ("types", "out"),
    [
        ([TEXT, b"text/html"], [TEXT]),
        ([TEXT, b"text/uri-list"], []),
        ([TEXT, b"Text/X-Moz-URL"], []),
    ],
)
async def test_a_drag_of_a_file_or_a_link_does_not_go_out(types, out):
    """The text beside it is its name, too."""
    async with told() as it:
        it.mine.obey(m.DragsMessage(cross=True, outward=["text/plain"]), [])
        assert list(it.mine.drags.outward(dragged(*types))) == out


@pytest.mark.parametrize(
    ("types", "cross", "said"),
    [
        ([b"text/uri-list", KEY], False, m.DragOverMessage(1, "", "key")),
        ([b"text/uri-list"], False, m.DragOverMessage(1, "", "names")),
        ([TEXT], False, m.ForeignDrag()),
        ([TEXT], True, m.DragOverMessage(1, "")),
        ([KEY, MARK], True, m.DragOverMessage(1, MARK.decode())),
        ([KEY, MARK], False, m.ForeignDrag()),
    ],
)
async def test_files_of_the_user_are_reported_by_what_there_is_of_them(
    types, cross, said
):
    """Of another sandbox's drag it is not believed."""
    async with told() as it:
        it.mine.obey(m.DragsMessage(cross=cross, outward=[]), [])
        host = SimpleNamespace(dead=False, mimes=types, sid=1)
        it.mine.drags.over(Over(Core(it.sandbox), SimpleNamespace(), None, host))
        assert await it.said() == said
