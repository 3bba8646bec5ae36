"""Progress: lines that are replaced on a terminal, and lines that stay elsewhere."""

from __future__ import annotations

import io

import pytest
import trio
from trio.testing import MockClock

from broker.cli.run.progress import Steps
from broker.ipc.control.api import Progress

ERASE = "\r\x1b[K"


class Screen(io.StringIO):
    """Standard error, as a terminal or as a file."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def play(monkeypatch, part, *, terminal, term="xterm", **how):
    """Return the standard error that ``part`` has written."""
    screen = Screen(terminal=terminal)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "60")

    async def main():
        steps = Steps(**how)
        async with steps.shown():
            await part(steps)

    trio.run(main, clock=MockClock(autojump_threshold=0.001))
    return screen.getvalue()


async def slow(steps):
    steps.begin("boot the guest")
    await trio.sleep(3.1)
    steps.done("boot the guest", 3.1)


def test_on_a_terminal_the_line_counts_and_is_replaced(monkeypatch):
    shown = play(monkeypatch, slow, terminal=True)
    frames = shown.split(ERASE)
    assert frames[1:-1] == [f"  … boot the guest ({n} s)" for n in (1, 2, 3)]
    assert frames[-1] == "  ✓ boot the guest (3.1 s)\n"


@pytest.mark.parametrize(("terminal", "term"), [(False, "xterm"), (True, "dumb")])
def test_elsewhere_each_line_stays(monkeypatch, terminal, term):
    shown = play(monkeypatch, slow, terminal=terminal, term=term)
    assert shown == "  … boot the guest\n  ✓ boot the guest (3.1 s)\n"


def test_a_long_detail_is_cut_to_the_width(monkeypatch):
    async def part(steps):
        steps.begin("guest image")
        steps.progress(Progress(step="guest image", state="begun", detail="x" * 200))
        await trio.sleep(2.1)
        steps.done("guest image", 2.1)

    shown = play(monkeypatch, part, terminal=True)
    drawn = [frame for frame in shown.split(ERASE) if "…" in frame]
    assert drawn
    assert all(len(frame) <= 59 and frame.endswith(" s)") for frame in drawn)


def test_output_of_the_program_does_not_stand_behind_the_line(monkeypatch):
    async def part(steps):
        steps.begin("show a window")
        await trio.sleep(1.6)
        steps.output(b"hello\n", stderr=True)
        await trio.sleep(0.1)

    shown = play(monkeypatch, part, terminal=True)
    assert f"(1 s){ERASE}" in shown
    assert f"{ERASE}hello\n" in shown.replace("\r\n", "\n")


def test_what_follows_an_interruption_begins_a_line(monkeypatch):
    async def part(steps):
        steps.begin("boot the guest")
        await trio.sleep(1.6)

    assert play(monkeypatch, part, terminal=True).endswith("(1 s)\r\n")


def test_a_terminal_that_is_handed_over_is_not_drawn_on(monkeypatch):
    async def part(steps):
        steps.begin("show a window")
        await trio.sleep(1.6)
        steps.stop_drawing()
        await trio.sleep(5)

    assert play(monkeypatch, part, terminal=True).split(ERASE)[-1] == (
        "  … show a window\n"
    )


def test_of_a_program_in_a_running_sandbox_only_slow_steps_are_shown(monkeypatch):
    async def part(steps):
        step = "start the program in the guest"
        steps.progress(Progress(step=step, state="begun"))
        await trio.sleep(0.1)
        steps.progress(Progress(step=step, state="done", seconds=0.1))
        steps.progress(Progress(step=step, state="begun"))
        steps.progress(Progress(step=step, state="failed", detail="no such file"))

    assert play(monkeypatch, part, terminal=True, slow_only=True) == ""
    assert "✓" in play(monkeypatch, slow, terminal=True, slow_only=True)
    plain = play(monkeypatch, part, terminal=True)
    assert plain.count("✓") == plain.count("✗") == 1
