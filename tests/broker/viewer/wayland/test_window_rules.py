"""Frames while records change: one colour for each sandbox at any time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing

from broker.cli.quick.made_record import box_text
from broker.core.errors import UpstreamError
from broker.viewer.wayland.window_rules import (
    BETWEEN,
    FrameColours,
    GuestFrames,
    rules_from,
)
from policy.tools.record_files import parse_record
from tests.kit.audit.paper import PaperWorker
from tests.kit.link.roles import LEASE
from tests.kit.world import record

BLUE, RED, GREEN = 0x0000FF, 0xFF0000, 0x00FF00


class Letters:
    """Draws names of no pixels, or of one column."""

    def __init__(self, column=b""):
        self.column, self.drawn = column, []

    def has(self, height):
        return height in self.drawn

    async def name(self, _name, height):
        await trio.lowlevel.checkpoint()
        self.drawn.append(height)
        return self.column * height


class One:
    """A sandbox with windows, whose record the test changes."""

    def __init__(self, path, name, color, colours, letters=None):
        self.path, self.name = path / f"{name}.toml", name
        self.now = None
        self.write(color)
        self.worker = PaperWorker()
        lease = replace(LEASE, id=f"lease-{name}", sandbox=name, record=name)
        self.frames = GuestFrames(
            lease, lambda: self.now, letters or Letters(), colours
        )

    def write(self, color):
        """Another colour in the record."""
        text = record("persistent", colour=f"#{color:06x}")
        self.now, problems = parse_record(self.name, self.path, text.encode())
        assert self.now is not None, problems

    async def begin(self):
        """Its worker; returns the colour of its first window."""
        rules = await self.frames.begin(self.now)
        return rules.color

    async def follow(self):
        with trio.fail_after(30):
            await self.frames.follow(self.worker)

    @property
    def colors(self):
        """Those that its windows had, one after the other."""
        return [rules.color for rules in self.worker.rules]


@asynccontextmanager
async def two(tmp_path, first=BLUE, second=RED):
    colours = FrameColours()
    ones = One(tmp_path, "a", first, colours), One(tmp_path, "b", second, colours)
    for one in ones:
        await one.begin()
        await one.follow()
    async with trio.open_nursery() as nursery:
        yield (*ones, nursery)
        nursery.cancel_scope.cancel()


async def test_letters_are_drawn_once_frames_show_a_name(tmp_path):
    """A first window does not wait for a font that many compositors need not."""
    letters, colours = Letters(b"x"), FrameColours()
    one = One(tmp_path, "a", BLUE, colours, letters)
    assert (await one.frames.begin(one.now)).strip == b""
    await one.follow()
    assert one.worker.rules[-1].strip == b""
    assert letters.drawn == []
    for _ in range(100):  # its worker may have been taken over
        await one.frames.letter()
    assert [rules.strip[:1] for rules in one.worker.rules] == [b"", b"x"]
    assert len(letters.drawn) == 1
    other = One(tmp_path, "b", RED, colours, letters)
    assert (await other.frames.begin(other.now)).strip[:1] == b"x"


async def test_a_former_colour_is_another_s_only_after_the_repaint(tmp_path):
    async with two(tmp_path) as (a, b, nursery):
        a.worker.draws = trio.Event()
        a.write(GREEN)
        b.write(BLUE)
        nursery.start_soon(b.follow)
        nursery.start_soon(a.follow)
        await trio.testing.wait_all_tasks_blocked()
        assert (a.colors[-1], b.colors[-1]) == (GREEN, BETWEEN)
        a.worker.draws.set()
        await trio.testing.wait_all_tasks_blocked()
        assert b.colors[-1] == BLUE


async def test_frames_of_a_silent_host_are_marked_and_a_question_comes_first(tmp_path):
    async with two(tmp_path) as (one, _, _nursery):
        marks = []
        for one.frames.asks, one.frames.frozen in (
            (False, False),
            (False, True),
            (True, True),
        ):
            rules = await one.frames.begin(one.now)
            marks.append(rules.strip_words.removeprefix(rules.name))
        assert marks == ["", " frozen", " asks"]


async def test_two_that_swap_their_colours_both_get_there(tmp_path):
    async with two(tmp_path) as (a, b, nursery):
        a.write(RED)
        b.write(BLUE)
        nursery.start_soon(a.follow)
        nursery.start_soon(b.follow)
        await trio.testing.wait_all_tasks_blocked()
        assert (a.colors[-1], b.colors[-1]) == (RED, BLUE)
        assert BETWEEN in a.colors + b.colors


async def test_a_sandbox_that_begins_waits_for_a_former_colour(tmp_path):
    async with two(tmp_path) as (a, b, nursery):
        b.frames.gone()
        a.worker.draws = trio.Event()
        a.write(GREEN)
        b.write(BLUE)
        nursery.start_soon(a.follow)
        await trio.testing.wait_all_tasks_blocked()
        assert await b.begin() == BETWEEN
        b.worker = PaperWorker()
        nursery.start_soon(b.follow)
        await trio.testing.wait_all_tasks_blocked()
        assert {*b.colors} == {BETWEEN}
        a.worker.draws.set()
        await trio.testing.wait_all_tasks_blocked()
        assert b.colors[-1] == BLUE


async def test_a_record_that_keeps_its_colour_is_waited_for_no_more(tmp_path):
    """The user took the change back."""
    async with two(tmp_path) as (a, b, nursery):
        a.write(GREEN)
        b.write(BLUE)
        nursery.start_soon(b.follow)
        await trio.testing.wait_all_tasks_blocked()
        assert b.colors[-1] == BETWEEN
        a.write(BLUE)
        await a.follow()
        await trio.testing.wait_all_tasks_blocked()
        assert b.colors[-1] == BLUE, "both records have it"


async def test_a_worker_that_does_not_draw_again_is_ended(tmp_path):
    async with two(tmp_path) as (a, b, nursery):
        a.write(GREEN)
        b.write(BLUE)
        a.worker.deaf = True
        nursery.start_soon(b.follow)
        with pytest.raises(UpstreamError):
            await a.follow()
        assert a.worker.closed.is_set()
        a.frames.gone()
        await trio.testing.wait_all_tasks_blocked()
        assert b.colors[-1] == BLUE


async def test_a_worker_that_ends_while_it_waits_shows_nothing(tmp_path):
    async with two(tmp_path) as (a, b, nursery):
        a.write(GREEN)
        b.write(BLUE)
        nursery.start_soon(b.follow)
        await trio.testing.wait_all_tasks_blocked()
        b.frames.gone()
        await a.follow()
        await trio.testing.wait_all_tasks_blocked()
        assert b.colors[-1] == BETWEEN


async def test_only_the_first_sandboxes_with_a_gpu_have_all_its_planes(tmp_path):
    """Attack: many sandboxes take all descriptors of the compositor."""
    colours = FrameColours()

    async def begin(number):
        sandbox = One(tmp_path, f"gpu-{number}", BLUE, colours)
        text = record("persistent") + '[window]\nallow = ["zwp_linux_dmabuf_v1"]\n'
        sandbox.now, problems = parse_record(sandbox.name, sandbox.path, text.encode())
        assert sandbox.now is not None, problems
        return sandbox, (await sandbox.frames.begin(sandbox.now)).ceilings["gpu_planes"]

    sandboxes = [await begin(number) for number in range(30)]
    planes = [count for _, count in sandboxes]
    assert planes[:4] == [128] * 4
    assert sum(planes) <= 1024
    sandboxes[0][0].frames.gone()
    again = await sandboxes[4][0].frames.begin(sandboxes[4][0].now)
    assert again.ceilings["gpu_planes"] == 128
    assert (await begin(30))[1] == 16


def test_a_box_without_a_record_has_one_name(tmp_path):
    """Title, strip and ``brokerctl list`` have the name that ``brokerctl stop`` takes."""
    name = "box-12ab34"
    text = box_text(name) + 'command = ["foot"]\n'
    made, problems = parse_record(name, tmp_path / f"{name}.toml", text.encode())
    assert made is not None, problems
    rules = rules_from(made, name)
    assert (rules.shown, rules.strip_words) == (name, name)
