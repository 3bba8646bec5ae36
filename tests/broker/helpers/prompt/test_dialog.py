"""Input that answers yes, and input that never does."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core import limits
from broker.core.question import Keep
from broker.helpers.prompt.description import describe
from broker.helpers.prompt.dialog import (
    FRAME,
    LINE,
    ROWS,
    WIDTH,
    Dialog,
    drawable,
    lay_out,
    text_rows,
)
from broker.helpers.prompt.paint import _INERT, draw, font
from tests.kit.prompting import MANY, WORD, question

LEFT = 0x110
READY = "Press Allow, or type the word allow.  To deny, press Esc or Deny."


def sees(dialog, now):
    """The screen shows the dialog as it is at ``now``; an answer, if that was one."""
    return dialog.shown(dialog.rests(now))


def armed(asked=None, now=10.0):
    """A dialog that takes answers at ``now``."""
    dialog = Dialog(asked or question(), WORD)
    dialog.guard.visible(now - 5)
    dialog.guard.focus(now - 5, held=True)
    dialog.enter(now - 5)
    sees(dialog, now)
    assert dialog.guard.armed
    return dialog


def middle(rect):
    return rect.x + rect.width / 2, rect.y + rect.height / 2


def click(dialog, rect, now=10.0):
    sees(dialog, now)
    dialog.motion(*middle(rect))
    dialog.press(LEFT, now)
    return dialog.release(LEFT, now + 0.05)


def type_word(dialog, word, now=10.0):
    for number, char in enumerate(word):
        code = 100 + number
        answer = dialog.key(code, char, char, now + number * 0.01)
        assert answer is None
        dialog.key_up(code, now + number * 0.01)


def test_a_press_and_release_on_allow():
    answer = click(armed(), lay_out(question()).allow)
    assert (answer.allow, answer.target, answer.by) == (True, "dom0", "person")
    assert not click(armed(), lay_out(question()).deny).allow


def test_pressed_there_and_let_go_elsewhere_is_nothing():
    dialog = armed()
    dialog.motion(*middle(dialog.layout.allow))
    dialog.press(LEFT, 10.0)
    dialog.motion(*middle(dialog.layout.deny))
    assert dialog.release(LEFT, 10.1) is None
    dialog.press(LEFT, 10.2)
    dialog.leave(10.25)
    assert dialog.release(LEFT, 10.3) is None


def test_a_press_before_it_is_armed_and_a_release_after():
    """The hand was on its way when the dialog appeared under it."""
    dialog = Dialog(question(), WORD)
    dialog.guard.visible(0)
    dialog.guard.focus(0, held=True)
    dialog.enter(0)
    dialog.motion(*middle(dialog.layout.allow))
    dialog.press(LEFT, 0.9)
    sees(dialog, 3.0)
    assert dialog.release(LEFT, 3.0) is None
    sees(dialog, 5.0)
    assert dialog.release(LEFT, 5.0) is None, "nothing was pressed"
    assert click(dialog, dialog.layout.allow, 5.0).allow


def test_a_press_from_before_the_focus_came_back():
    """The focus comes without the held keys; the press was not one on this dialog."""
    dialog = Dialog(question(), WORD)
    dialog.guard.visible(0)
    dialog.guard.focus(0, held=True)
    dialog.motion(*middle(dialog.layout.allow))
    dialog.press(LEFT, 0.9)
    dialog.guard.focus(1.0, held=False)
    dialog.guard.focus(1.1, held=True)
    sees(dialog, 3.0)
    assert dialog.guard.armed
    assert dialog.release(LEFT, 3.0) is None


def unrested():
    """A dialog that has the keyboard for long, and no pointer or finger so far."""
    dialog = Dialog(question(), WORD)
    dialog.guard.visible(0)
    dialog.guard.focus(0, held=True)
    sees(dialog, 10)
    assert dialog.guard.armed
    return dialog


def test_a_press_of_a_hand_that_has_not_rested_there():
    """It was held or clicked in other windows until now, which nobody hears."""
    dialog = unrested()
    assert click(dialog, dialog.layout.allow, 10.0) is None, "no pointer is here"
    dialog.enter(11.0)
    assert dialog.hand_waits(11.5)
    assert dialog.wakes(11.5) == 12.0
    assert click(dialog, dialog.layout.allow, 11.9) is None
    assert click(dialog, dialog.layout.allow, 12.9) is None, "a press is not rest"
    dialog.leave(13.0)
    assert not dialog.hand_waits(13.0)
    dialog.enter(13.1)
    assert click(dialog, dialog.layout.allow, 14.0) is None
    assert click(dialog, dialog.layout.allow, 15.1).allow


def test_a_touch_of_a_hand_that_has_not_rested_there():
    dialog = unrested()
    dialog.motion(*middle(dialog.layout.allow))
    dialog.touch(0, 10.0)
    assert dialog.lift(0, 10.1) is None, "the first begins the rest"
    dialog.touch(0, 10.9)
    assert dialog.lift(0, 11.0) is None
    dialog.enter(8.0)
    sees(dialog, 12.0)
    dialog.touch(0, 12.0)
    assert dialog.lift(0, 12.1).allow


def test_a_pointer_that_was_moved_in_over_the_edge_waits_half_a_second():
    """A user who has read the question moves to Allow and clicks."""
    dialog = unrested()
    assert dialog.at_edge(5, 100)
    dialog.enter(11.0, moved=True)
    assert dialog.wakes(11.1) == 11.5
    assert click(dialog, dialog.layout.allow, 11.5).allow


def test_a_pointer_that_appears_on_a_button_waits_for_the_whole_second():
    """A button was held in a window below, and let go there: the dialog is under it."""
    dialog = unrested()
    for rect in (dialog.layout.allow, dialog.layout.deny):
        for x in (rect.x, rect.x + rect.width - 1):
            for y in (rect.y, rect.y + rect.height - 1):
                assert not dialog.at_edge(x, y)
    dialog.enter(11.0)
    assert click(dialog, dialog.layout.allow, 11.9) is None
    assert dialog.hand_waits(12.0)


def test_a_press_that_came_too_early_makes_the_rest_the_whole_second():
    dialog = unrested()
    dialog.enter(11.0, moved=True)
    assert click(dialog, dialog.layout.allow, 11.4) is None
    assert click(dialog, dialog.layout.allow, 12.3) is None, "a hand that keeps on"
    assert click(dialog, dialog.layout.allow, 13.4).allow


def told(dialog, now):
    """The hint, and whether the buttons look like ones that can be pressed."""
    picture = draw(dialog, "", now, now + 60, 1)
    place = dialog.layout.deny
    seen = picture.getpixel((place.x + 3, place.y + 3))
    return describe(dialog, now).hint, seen != _INERT


def test_a_press_that_comes_too_early_is_answered():
    dialog = unrested()
    assert told(dialog, 10.0) == (READY, True)
    dialog.enter(11.0, moved=True)
    words, pressable = told(dialog, 11.1)
    assert ("pointer has just come" in words, pressable) == (True, False)
    click(dialog, dialog.layout.allow, 11.2)
    words, pressable = told(dialog, 11.3)
    assert ("Wait a second, then press again" in words, pressable) == (True, False)
    words, pressable = told(dialog, 12.3)
    assert ("Press Allow or Deny again now" in words, pressable) == (True, True)
    dialog.leave(12.4)
    assert told(dialog, 12.4) == (READY, True)


def test_a_touch_that_comes_too_early_is_answered():
    dialog = unrested()
    dialog.motion(*middle(dialog.layout.allow))
    dialog.touch(0, 10.0)
    dialog.lift(0, 10.1)
    words, pressable = told(dialog, 10.2)
    assert ("Wait a second, then press again" in words, pressable) == (True, False)
    assert dialog.wakes(10.2) == 11.1
    assert told(dialog, 11.1)[1]


def test_the_word_needs_no_pointer():
    dialog = unrested()
    type_word(dialog, "allow")
    assert sees(dialog, 12.0).allow


def test_the_word_alone_for_a_moment():
    dialog = armed()
    type_word(dialog, "allow")
    typed_at = 10.04
    assert sees(dialog, typed_at + limits.PROMPT_WORD_SECONDS - 0.01) is None
    assert dialog.wakes(10.1) == pytest.approx(typed_at + limits.PROMPT_WORD_SECONDS)
    assert sees(dialog, typed_at + limits.PROMPT_WORD_SECONDS).allow


def test_the_word_did_not_stand_alone_while_a_key_was_on_its_way():
    """The screen shows the picture of before it after the dialog has read the key."""
    dialog = armed()
    type_word(dialog, "allow")
    rests = dialog.rests(11.0)
    assert rests[-1]
    dialog.key(45, "x", "x", 11.0)
    assert dialog.shown(rests) is None
    dialog.key(14, "BackSpace", "", 11.1)
    assert dialog.shown(rests) is None
    assert sees(dialog, 11.6).allow


def test_nothing_counts_that_was_read_before_the_screen_showed_that_it_does():
    """A process that hung for a minute reads the presses of its first second."""
    dialog = Dialog(question(), WORD)
    dialog.guard.visible(0)
    dialog.guard.focus(0, held=True)
    dialog.enter(0)
    rests = dialog.rests(60.0)
    assert all(rests[:2])
    assert told(dialog, 60.0) == (READY, True)
    dialog.motion(*middle(dialog.layout.allow))
    dialog.press(LEFT, 60.0)
    assert dialog.release(LEFT, 60.0) is None
    assert dialog.key(1, "Escape", "", 60.0) is None
    dialog.key_up(1, 60.0)
    assert dialog.shown(rests) is None
    dialog.press(LEFT, 60.1)
    assert dialog.release(LEFT, 60.1) is None
    assert click(dialog, dialog.layout.allow, 61.2).allow


@pytest.mark.parametrize(
    "word", ["allo", "allowance", "i allow", "Allow", "ALLOW", " allow", "yes"]
)
def test_other_words(word):
    dialog = armed()
    type_word(dialog, word)
    assert sees(dialog, 100.0) is None


def test_a_slip_is_mended_with_backspace():
    dialog = armed()
    type_word(dialog, "allox")
    dialog.key(14, "BackSpace", "", 11)
    dialog.key_up(14, 11)
    type_word(dialog, "w", 12)
    assert sees(dialog, 13).allow


@pytest.mark.parametrize("name", ["Return", "KP_Enter", "space", "Tab"])
def test_enter_and_its_like_never_mean_anything(name):
    dialog = armed()
    type_word(dialog, "allo")
    assert dialog.key(28, name, "\r", 10.5) is None
    assert sees(dialog, 100) is None
    assert dialog.typed == "allo"


def test_escape_is_a_no_but_not_at_once():
    """It may have been meant for a window that was in front."""
    dialog = Dialog(question(), WORD)
    dialog.guard.visible(0)
    dialog.guard.focus(0, held=True)
    assert dialog.key(1, "Escape", "", 0.5) is None
    dialog.key_up(1, 0.6)
    sees(dialog, 2.0)
    assert not dialog.key(1, "Escape", "", 2.0).allow


def test_a_word_that_was_begun_too_early_is_begun_again():
    dialog = Dialog(question(), WORD)
    dialog.guard.visible(0)
    dialog.guard.focus(0, held=True)
    type_word(dialog, "allo", 0.5)
    sees(dialog, 3.0)
    type_word(dialog, "w", 3.0)
    assert dialog.typed == "w"
    assert sees(dialog, 10) is None


def test_targets_and_how_long():
    dialog = armed(MANY)
    assert dialog.target == "@dispvm:web"
    layout = dialog.layout
    assert len(dialog.rows()) == ROWS
    dialog.motion(layout.targets.x + 5, layout.targets.y + 5)
    dialog.press(LEFT, 10)
    assert dialog.release(LEFT, 10.1) is None
    assert dialog.target == "banking"
    dialog.wheel(2, 10.2)
    assert dialog.rows()[0] == "work"
    assert click(dialog, layout.keeps[1], 10.3) is None
    answer = click(dialog, layout.allow, 10.4)
    assert (answer.target, answer.keep) == ("banking", Keep.TIME)
    for _ in range(30):
        dialog.key(108, "Down", "", 11)
    assert dialog.target == MANY.targets[-1] in dialog.rows()
    for _ in range(30):
        dialog.key(103, "Up", "", 11)
    assert dialog.target == "banking" in dialog.rows()


def test_the_keyboard_alone_chooses_how_long():
    dialog = armed(MANY)
    dialog.key(106, "Right", "", 10)
    assert dialog.keep is Keep.TIME
    dialog.key(106, "Right", "", 10.1)
    assert dialog.keep is Keep.TIME, "the last one"
    type_word(dialog, "allow", 11)
    assert sees(dialog, 20).keep is Keep.TIME
    for _ in range(3):
        dialog.key(105, "Left", "", 21)
    assert dialog.keep is Keep.ONCE


def test_a_key_that_comes_too_early_chooses_nothing():
    dialog = Dialog(MANY, WORD)
    dialog.guard.visible(10.0)
    dialog.guard.focus(10.0, held=True)
    dialog.key(106, "Right", "", 10.1)
    assert dialog.keep is Keep.ONCE


def test_nothing_chosen_is_no_yes():
    asked = question(targets=("a", "b"), default_target="")
    dialog = armed(asked)
    assert click(dialog, dialog.layout.allow) is None
    type_word(dialog, "allow", 11)
    assert sees(dialog, 20) is None
    dialog.key(108, "Down", "", 21)
    assert dialog.target == "a"


def test_a_default_that_is_not_offered_is_none():
    assert Dialog(question(targets=("a", "b"), default_target="c"), WORD).target == ""


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "key",
                "up",
                "press",
                "release",
                "motion",
                "wheel",
                "look",
                "blur",
                "focus",
            ]
        ),
        st.sampled_from([*"allow", "Return", "Escape", "space", "x"]),
        st.sampled_from(["allow", "deny", "out"]),
        st.floats(0, 0.999),
    ),
    max_size=60,
)


@given(EVENTS, st.booleans())
def test_hands_that_never_rest_for_a_second_get_no_answer(events, begin):
    """Whatever is typed and clicked, as long as no pause is a second long."""
    dialog, now = Dialog(question(), WORD), 0.0
    if begin:
        dialog.guard.visible(now)
    dialog.guard.focus(now, held=True)
    last = 0.0
    for kind, name, place, wait in events:
        now += wait
        rests = kind in {"motion", "look"}
        # Looking and moving the pointer do not end a rest, so their pauses add up.
        now = min(now, last + 0.99)
        assert sees(dialog, now) is None
        spots = {"allow": dialog.layout.allow, "deny": dialog.layout.deny}
        answer = None
        match kind:
            case "key":
                text = name if len(name) == 1 else ""
                answer = dialog.key(ord(name[0]), name, text, now)
            case "up":
                dialog.key_up(ord(name[0]), now)
            case "press":
                dialog.press(LEFT, now)
            case "release":
                answer = dialog.release(LEFT, now)
            case "motion":
                dialog.motion(*(middle(spots[place]) if place in spots else (0, 0)))
            case "wheel":
                dialog.wheel(1, now)
            case "blur":
                dialog.guard.focus(now, held=False)
            case "focus":
                dialog.guard.focus(now, held=True)
                dialog.guard.visible(now)
        assert answer is None
        if not rests:
            last = now


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text(max_size=60), min_size=1, max_size=10, unique=True),
    st.text(max_size=300),
    st.sampled_from(["#ffffff", "#000000", "#d55e00"]),
)
def test_any_text_is_drawn_inside_its_frame(targets, text, colour):
    """What does not fit is cut; the frame is the sandbox's colour all around."""
    asked = question(
        targets=tuple(targets),
        label=text,
        argument=text,
        details=(("type", text),),
        colour=colour,
        default_target=targets[0],
    )
    image = draw(armed(asked), text, 10.0, 20.0, 1)
    width, height = image.size
    assert width == WIDTH
    rgb = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
    for x in range(0, width, 7):
        for y in (*range(FRAME), *range(height - FRAME, height)):
            assert image.getpixel((x, y)) == rgb
    for y in range(FRAME, height - FRAME, 7):
        assert (
            image.getpixel((FRAME - 1, y)) == image.getpixel((width - FRAME, y)) == rgb
        )


def test_the_picture_has_as_many_pixels_as_it_says():
    from broker.helpers.prompt.paint import paint

    for scale in (1, 2):
        made = paint(Dialog(MANY, WORD), "", 0.0, 1.0, scale)
        assert len(made) == WIDTH * scale * lay_out(MANY).height * scale * 4


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("Ärger Ω жук 5€ → ≤", "Ärger Ω жук 5€ → ≤"),
        ("אב1.pdf", r"\u05d0\u05d11.pdf"),
        ("日本.txt", r"\u65e5\u672c.txt"),
        ("e\u0301\u00a0x", r"e\u0301\xa0x"),
        ("😀", r"\U0001f600"),
    ],
)
def test_letters_that_the_dialog_cannot_draw_are_escaped(name, drawn):
    """Otherwise all of them are the same box, or are drawn in another order."""
    rows = text_rows(question(details=(("what", name),)))
    assert [row for row, _ in rows][-1].endswith(f": {drawn}")


def test_letters_that_the_dialog_cannot_draw_are_known():
    """Compared with the font: each character that is not escaped has a picture."""
    fonts = [font(20), font(20, bold=True)]
    boxes = [bytes(face.getmask("\uffff")) for face in fonts]
    for code in range(0x20, 0x3000):
        char = chr(code)
        if unicodedata.category(char)[0] == "C" or drawable(char) != char:
            continue
        for face, box in zip(fonts, boxes, strict=True):
            assert bytes(face.getmask(char)) != box, hex(code)


@pytest.mark.parametrize("scale", [1, 2])
def test_page_is_framed_in_the_question(scale):
    """Attack: a page that continues the dialog's own text."""
    dialog = Dialog(question(preview=(200, bytes(200 * 150))), WORD)
    assert dialog.layout.height >= lay_out(question()).height + 150
    image = draw(dialog, "", 0.0, 1.0, scale).convert("RGB")
    x, y, width, height = (scale * n for n in dialog.layout.preview)
    y += scale * LINE
    black, green = (0, 0, 0), (0x00, 0x9E, 0x73)
    assert image.getpixel((x + width // 2, y + height // 2)) == black
    for corner in ((x, y), (x + width, y + height), (x + width + 3 * scale, y)):
        assert image.getpixel(corner) in {green, black}
    assert image.getpixel((x, y + height // 2)) == green
    assert image.getpixel((x + width + 4 * scale, y + height // 2)) == green
