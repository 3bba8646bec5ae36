"""The dialog on a real compositor, with a real keyboard and pointer."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.core import limits
from broker.core.question import Keep, PersonAnswer
from broker.helpers.process.spawn import DEVNULL, spawn
from broker.helpers.prompt.dialog import FRAME, lay_out
from broker.helpers.prompt.paint import _INERT
from broker.ipc import prompt as m
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.prompting import MANY, agent, hands, question
from tests.kit.wayland.compositor import pixels, short_directory, windows
from tests.kit.wayland.stand import nested

ASKED = question()
YES = PersonAnswer(allow=True, target="dom0", by="person")
GUARD = limits.PROMPT_GUARD_SECONDS


def artefact(name):
    """Where a picture is kept for people to look at."""
    folder = Path(os.environ.get("VITRAIL_OUT") or ".") / "prompt"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


@asynccontextmanager
async def at_the_desk():
    """Hands, and an agent that is connected."""
    async with hands() as h, agent(h.comp.environment) as a:
        assert await a.hear() == m.PromptHello(layer=True)
        yield h, a


async def looks(h, *, inert):
    """Whether the buttons of the question ASKED are grey, or take a press."""
    deny = lay_out(ASKED).deny
    x, y = h.place(ASKED, deny)
    corner = x - deny.width // 2 + 2, y - deny.height // 2 + 2
    return ((await pixels(h.comp)).getpixel(corner) == _INERT) == inert


async def test_a_click_on_allow_after_a_second():
    async with at_the_desk() as (h, a):
        h.move(ASKED, lay_out(ASKED).allow)
        shown = await a.show(ASKED)
        # Clicks of a hand that was busy there: none of them counts, and each
        # begins the second again.
        while trio.current_time() < shown + 1.5 * GUARD:
            h.click(ASKED, lay_out(ASKED).allow)
            # Briefly: if no click came for a second, the next one would count.
            assert await a.hears_nothing(0.05)
        await h.comp.screenshot(artefact("inert.png"))
        await h.awaits_dialog()
        await h.comp.screenshot(artefact("armed.png"))
        h.click(ASKED, lay_out(ASKED).allow)
        assert await a.hear() == m.PromptAnswer(1, YES)


async def test_a_user_who_moves_there_and_clicks_is_answered_sooner_or_in_words():
    """Over the edge to Allow: too early is said on the dialog; half a second counts."""
    async with at_the_desk() as (h, a):
        await a.show(ASKED)
        await h.awaits_dialog()
        deny, allow = lay_out(ASKED).deny, lay_out(ASKED).allow
        x, y = h.place(ASKED, deny)

        async def comes_in():
            while True:
                h.pointer.move(10, 10)
                h.pointer.move(x - deny.width // 2 - 10, y)  # the frame
                await trio.sleep(0.2)

        # Again and again: a picture takes longer than that half second.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(comes_in)
            await eventually(lambda: looks(h, inert=True))
            nursery.cancel_scope.cancel()

        async def answered():
            await eventually(lambda: looks(h, inert=False))
            h.click(ASKED, allow)
            with trio.move_on_after(15):
                return await a.hear()

        # A press is too early if the picture is from before the pointer came in.
        assert await eventually(answered) == m.PromptAnswer(1, YES)
        await a.show(ASKED, 2)
        assert await a.hears_nothing(0.05)
        h.click(ASKED, allow)
        h.pointer.button(True)  # held, so that its second begins only when it is let go
        await eventually(lambda: looks(h, inert=True))
        await h.comp.screenshot(artefact("too-early.png"))
        assert await a.hears_nothing(0.1)
        h.pointer.button(False)


async def test_a_dialog_reports_the_questions_behind_it():
    """Below its time, while it is shown; the next dialog does not repeat it."""
    async with at_the_desk() as (h, a):

        async def has_text():
            x, y = h.place(ASKED, lay_out(ASKED).behind)
            area = (x - 60, y - 2, x + 60, y + 7)
            return len((await pixels(h.comp)).crop(area).getcolors(1 << 16)) > 1

        await a.show(ASKED)
        assert not await has_text()
        await a.tell(m.MoreQuestions(1))
        await eventually(has_text)
        await h.comp.screenshot(artefact("one-more-waits.png"))
        await a.show(ASKED, 2)
        assert not await has_text()


async def test_an_early_enter_does_nothing_and_a_late_one_neither():
    async with at_the_desk() as (h, a):
        await a.show(ASKED)
        h.press("Return")
        assert await a.hears_nothing(0.3)
        await h.awaits_dialog()
        h.press("Return", "space", "Tab", "Return")
        assert await a.hears_nothing(1)
        h.type("allow")
        assert await a.hear() == m.PromptAnswer(1, YES)


async def test_a_german_dialog_has_the_same_word():
    """The catalogue is read although the agent is confined."""
    rect = lay_out(ASKED).deny
    buttons = []
    async with hands() as h:
        x, y = h.place(ASKED, rect)
        half, high = rect.width // 2, rect.height // 2
        for language in ("C.UTF-8", "de_DE.UTF-8"):
            async with agent({**h.comp.environment, "LANG": language}) as a:
                assert await a.hear() == m.PromptHello(layer=True)
                await a.show(ASKED)
                await h.awaits_dialog()
                await h.comp.screenshot(artefact(f"{language}.png"))
                picture = await pixels(h.comp)
                box = (x - half, y - high, x + half, y + high)
                buttons.append(picture.crop(box).tobytes())
                h.type("allow")
                assert await a.hear() == m.PromptAnswer(1, YES)
    assert buttons[0] != buttons[1]


@pytest.mark.long
async def test_typing_that_goes_on_when_it_appears():
    """Even of the very word, and Escape: they were meant for another window."""
    async with at_the_desk() as (h, a):
        await a.show(ASKED)
        for _ in range(4):
            h.type("allow")
            h.press("Escape")
            assert await a.hears_nothing(0.4)
        # It paints after each key: on a busy machine it reads the last ones late.
        await eventually(lambda: looks(h, inert=False))
        assert await a.hears_nothing(0.2)
        h.press("Escape")
        said = await a.hear()
        assert (said.answer.allow, said.answer.by) == (False, "person")


@pytest.mark.long
async def test_a_longer_word_is_not_the_word():
    async with at_the_desk() as (h, a):
        await a.show(ASKED)
        await eventually(lambda: looks(h, inert=False))
        h.type("allowx")
        assert await a.hears_nothing(1)
        h.press("BackSpace")
        assert await a.hear() == m.PromptAnswer(1, YES)


@pytest.mark.long
async def test_wtype_of_a_word_is_no_answer_while_its_keyboard_is_new():
    """A keyboard that appears brings the focus again: a second must pass."""
    async with at_the_desk() as (h, a):
        await a.show(ASKED)
        await eventually(lambda: looks(h, inert=False))
        await h.comp.type_text("xallow\n")
        assert await a.hears_nothing(1)
        h.press(*["BackSpace"] * 8)
        assert await a.hears_nothing(0.3)
        await h.awaits_dialog()
        h.type("allow")
        assert await a.hear() == m.PromptAnswer(1, YES)


async def test_it_takes_the_keyboard_from_a_window_and_gives_it_back():
    """Typing goes to a terminal, then to the dialog, then to the terminal again."""
    async with at_the_desk() as (h, a):
        with short_directory() as folder:
            file = folder / "typed"
            child = spawn(
                ["foot", "sh", "-c", f"cat > {file}"],
                env=h.comp.environment,
                stdout=DEVNULL,
                stderr=DEVNULL,
            )
            try:
                await eventually(lambda: has(file, ""))
                await eventually(lambda: focused(h.comp))
                h.press("a", "Return")
                await eventually(lambda: has(file, "a\n"))
                await a.show(ASKED)
                h.press("x", "Return", "x")
                assert await a.hears_nothing(0.3)
                assert not await focused(h.comp), "the dialog has the keyboard"
                await a.tell(m.WithdrawQuestion())
                await eventually(lambda: focused(h.comp))
                h.press("l", "Return")
                await eventually(lambda: has(file, "a\nl\n"))
            finally:
                await child.stop()


@pytest.mark.long
async def test_a_window_that_opens_covers_nothing():
    """Not even a fullscreen one: the dialog lies above, and gets the keyboard back.

    sway gives the new window the focus for a moment; then typed keys count
    for nothing, and the second begins again.
    """
    async with at_the_desk() as (h, a):
        await a.show(ASKED)
        await eventually(lambda: looks(h, inert=False))
        child = spawn(
            ["foot", "-F", "sleep", "1000"],
            env=h.comp.environment,
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        try:
            empty = (await pixels(h.comp)).getpixel((5, 5))
            await eventually(lambda: is_open(h.comp))
            await eventually(lambda: has_changed(h.comp, (5, 5), empty))
            picture = await pixels(h.comp)
            await h.comp.screenshot(artefact("above.png"))
            assert picture.getpixel((640 - 320 + 2, 400)) == (0, 0x9E, 0x73)
            assert picture.getpixel((640 + 320 - 3, 400)) == (0, 0x9E, 0x73)
            await h.awaits_dialog()
            h.type("allow")
            assert await a.hear() == m.PromptAnswer(1, YES)
        finally:
            await child.stop()


async def is_open(comp):
    return windows(await comp.tree())


async def has_changed(comp, place, before):
    return (await pixels(comp)).getpixel(place) != before


async def focused(comp):
    """Whether a window has the keyboard."""
    return any(window["focused"] for window in windows(await comp.tree()))


async def has(file, text):
    return file.exists() and file.read_text() == text


async def test_the_dialog_shows_the_question():
    """Frame in the sandbox's colour above everything, phrase, choices: look at it."""
    async with at_the_desk() as (h, a):
        empty = await pixels(h.comp)
        # A press right after the pointer's entering is ignored: it waits for our image.
        h.move(MANY, lay_out(MANY).allow)
        await a.show(MANY, 7)
        await h.awaits_dialog()
        await h.comp.screenshot(artefact("choices.png"))
        picture = await pixels(h.comp)
        layout = lay_out(MANY)
        left, top = (1280 - 640) // 2, (800 - layout.height) // 2
        for x, y in [(0, 0), (639, 0), (0, layout.height - 1), (320, FRAME - 1)]:
            assert picture.getpixel((left + x, top + y)) == (0xD5, 0x5E, 0x00)
        assert picture.getpixel((left - 1, top)) == empty.getpixel((left - 1, top))
        h.pointer.click(left + layout.targets.x + 40, top + layout.targets.y + 40)
        h.click(MANY, layout.keeps[1])
        h.click(MANY, layout.allow)
        said = await a.hear()
        assert said == m.PromptAnswer(
            7, PersonAnswer(allow=True, target="personal", keep=Keep.TIME, by="person")
        )
        await eventually(lambda: as_before(h.comp, empty))


async def as_before(comp, empty):
    now, before = await pixels(comp), empty
    box = (200, 0, 1080, 800)
    return now.crop(box).getpixel((440, 400)) == before.crop(box).getpixel((440, 400))


@pytest.mark.long
async def test_another_question_must_be_waited_for_again():
    """The click that answered one is over the Allow of the next."""
    async with at_the_desk() as (h, a):
        await a.show(ASKED)
        h.move(ASKED, lay_out(ASKED).allow)
        await h.awaits_dialog()
        h.click(ASKED, lay_out(ASKED).allow)
        assert await a.hear() == m.PromptAnswer(1, YES)
        await a.show(ASKED, 2)
        h.click(ASKED, lay_out(ASKED).allow)
        assert await a.hears_nothing(0.5)
        await h.awaits_dialog()
        h.click(ASKED, lay_out(ASKED).deny)
        said = await a.hear()
        assert (said.id, said.answer.allow) == (2, False)


async def test_on_a_screen_of_twice_the_pixels():
    """As sharp as the screen, and pressed where it is drawn."""
    screen = hands(size=(2560, 1600), config_extra="output * scale 2")
    async with screen as h, agent(h.comp.environment) as a:
        assert await a.hear() == m.PromptHello(layer=True)
        h.move(ASKED, lay_out(ASKED).allow)
        await a.show(ASKED)
        await h.awaits_dialog()
        await h.comp.screenshot(artefact("scale2.png"))
        picture = await pixels(h.comp)
        layout = lay_out(ASKED)
        left, top = 1280 - 640, 800 - layout.height
        assert picture.getpixel((left, top)) == (0, 0x9E, 0x73)
        assert picture.getpixel((left - 1, top)) != (0, 0x9E, 0x73)
        assert picture.getpixel((left + 2 * FRAME, 800)) == (250, 250, 248)
        h.click(ASKED, layout.allow)
        assert await a.hear() == m.PromptAnswer(1, YES)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("weston", False),
        pytest.param(
            "kwin",
            True,
            marks=requires("kwin_wayland"),
        ),
    ],
)
async def test_on_other_compositors(kind, layer):
    """Without layer-shell it is an ordinary window, with the same guard."""
    async with (
        hands() as h,
        nested(h.comp, kind) as other,
        agent(other.environment) as a,
    ):
        assert await a.hear() == m.PromptHello(layer=layer)
        await a.show(ASKED)
        h.press("Return")
        assert await a.hears_nothing(0.3)
        await h.awaits_dialog()
        await h.comp.screenshot(artefact(f"{kind}.png"))
        h.type("allow")
        assert await a.hear() == m.PromptAnswer(1, YES)


async def test_without_a_compositor_it_says_so_and_ends():
    with short_directory() as folder:
        environment = {"XDG_RUNTIME_DIR": str(folder), "WAYLAND_DISPLAY": "none"}
        async with agent(environment) as a:
            assert await a.hear() == m.Unable("no compositor answers")
            assert await a.hear() is None


async def test_when_the_compositor_dies_it_ends():
    async with hands() as h, agent(h.comp.environment) as a:
        assert await a.hear() == m.PromptHello(layer=True)
        await a.show(ASKED)
        h.comp.child.kill(signal.SIGKILL)
        assert await a.hear() is None
        with trio.fail_after(30):
            assert await a.child.wait() == 1


@pytest.mark.long
@pytest.mark.parametrize("text", ["\u202e\x1b[31m" * 30, "\U0001f600" * 80, "W" * 400])
async def test_hostile_words_stay_in_their_lines(text):
    asked = question(
        argument=text, details=(("type", text),), label=text, sandbox="untrusted"
    )
    async with at_the_desk() as (h, a):
        await a.show(asked)
        await h.awaits_dialog()
        await h.comp.screenshot(artefact("hostile.png"))
        h.type("allow")
        assert await a.hear() == m.PromptAnswer(1, YES)
