"""How a dialog behaves: the choice made in it, and the input that is an answer.

Sans-IO: input and time go in, an answer comes out.  The default is no.  A yes
takes a pointer that presses and lets go on *Allow*, or the question's word typed
alone; Enter and the space bar never mean anything.  Until the guard is armed
nothing does, not even a no: ``rests`` and ``shown`` arm it by what the screen shows.

The prompt agent runs it.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

from broker.core import limits
from broker.core.escape import code_of
from broker.core.limits import wayland as wayland_limits
from broker.core.question import Keep, PersonAnswer, Question
from broker.helpers.prompt.guard import Guard
from broker.helpers.prompt.phrases import remembered, request_of, title_of
from broker.helpers.prompt.translation import tr, trn

WIDTH = 640
FRAME = 14
"""Width of the frame in the sandbox's colour, on all sides."""
PAD = 22
ROW = 32
LINE = 24
ROWS = 6
"""Targets that are seen at one time; the others by wheel or arrow keys."""
_HEAD = 92
LINE_CHARACTERS = 64
"""Of a row of a dialog; hosts in lower case fit into it as they are drawn."""
_CONTINUED = "    "
"""Begins the further rows of a line, so that a value does not look like a line."""
# guard: buttons further apart than an image
_APART = wayland_limits.WAYLAND_CURSOR_PIXELS + 16
"""Between the buttons: further than a sandbox's pointer image may be from where a
press counts, should ours not be the one shown."""
TIME_WIDTH = 150
"""Width of the text with the remaining time, in pixels."""
_BUTTON = 50
_BUTTONS, _FINGERS = 0x10000, 0x20000
"""Keys, buttons and fingers have the same numbers; the guard must distinguish them."""


class DialogRect(NamedTuple):
    """A piece of the dialog, in its coordinates."""

    x: int
    y: int
    width: int
    height: int

    def holds(self, x: float, y: float) -> bool:
        """Return whether a point lies in it."""
        right, bottom = self.x + self.width, self.y + self.height
        return self.x <= x < right and self.y <= y < bottom


@dataclass(frozen=True)
class Layout:
    """Where everything is."""

    height: int
    text: DialogRect
    preview: DialogRect
    """Place of a page; empty without one."""
    targets: DialogRect
    """Area of the rows; empty where there is one target, which is part of the text."""
    keeps: tuple[DialogRect, ...]
    phrase: DialogRect
    hint: DialogRect
    allow: DialogRect
    deny: DialogRect

    @property
    def behind(self) -> DialogRect:
        """The row below the time that is left."""
        right = self.phrase.x + self.phrase.width
        return DialogRect(right - TIME_WIDTH, self.phrase.y + 16, TIME_WIDTH, 16)


# The prompt's dialog is drawn by us, not by GTK 4. The dialog is a picture on a layer
# surface. GTK 4 with gtk4-layer-shell would bring AT-SPI, input methods and fonts of
# the desktop. It was rejected for now, because the guard of the dialog rests on what a
# toolkit hides: which keys and buttons were held when the focus came, every press and
# release since, that the compositor has shown the picture, and a pointer image that is
# ours before the dialog can be answered. GTK also loads modules and themes that other
# programs of the session can choose, into the one process whose picture is trusted. It
# was reconsidered with Debian 12 and 13 at hand: 12 has no gtk4-layer-shell (only that
# of GTK 3), so the package would need a second dialog for it, and the guard would have
# to be attacked again for each.
def lay_out(question: Question) -> Layout:
    """Compute the rectangles of all parts of the dialog for a question."""
    left, inner = FRAME + PAD, WIDTH - 2 * (FRAME + PAD)
    y = FRAME + _HEAD
    # Each detail in as many rows as it takes, and one row for the target.
    text = DialogRect(left, y, inner, (len(text_rows(question)) + 1) * LINE)
    y += text.height + 6
    columns, pixels = question.preview
    preview = DialogRect(left, y, columns, len(pixels) // columns if columns else 0)
    y += preview.height + 2 * LINE * bool(columns)
    several = len(question.targets) > 1
    targets = DialogRect(
        left, y, inner, ROW * min(ROWS, len(question.targets)) * several
    )
    y += targets.height + 8
    keeps: list[DialogRect] = []
    for _ in question.keeps if len(question.keeps) > 1 else ():
        keeps.append(DialogRect(left, y, inner, ROW))
        y += ROW
    hint = DialogRect(left, y + 6, inner, LINE)
    y = hint.y + hint.height + 6
    half = (inner - _APART) // 2
    deny = DialogRect(left, y, half, _BUTTON)
    allow = DialogRect(left + half + _APART, y, inner - half - _APART, _BUTTON)
    y += _BUTTON + 12
    phrase = DialogRect(left, y, inner, LINE + 6)
    height = y + phrase.height + 8 + FRAME
    return Layout(
        height, text, preview, targets, tuple(keeps), phrase, hint, allow, deny
    )


def request_words(question: Question) -> str:
    """What the sandbox wants."""
    return tr("wants {request}.", request=request_of(question.words))


def claims(question: Question) -> list[str]:
    """What is asked for, and what the sandbox says of it, a line each."""
    shown = [(tr("argument"), question.argument)] if question.argument else []
    shown += [(title_of(name), value) for name, value in question.details]
    return [f"{title}: {value}" for title, value in shown]


_DRAWN = ((0x20, 0x2AF), (0x370, 0x525), (0x1E00, 0x1EF9), (0x1F00, 0x20B5), (0x2190, 0x22FF))  # fmt: skip
"""Latin, Greek, Cyrillic, punctuation, arrows and operators, which the font has."""


def drawable(text: str) -> str:
    r"""Return a text with each character that is not drawn as ``\\u....``.

    Other scripts, marks and odd spaces: boxes, or letters in another order than read.
    """
    # guard: what the dialog cannot draw is escaped
    return "".join(char if _is_drawn(char) else code_of(char) for char in text)


def _is_drawn(char: str) -> bool:
    in_font = any(first <= ord(char) <= last for first, last in _DRAWN)
    return in_font and (char == " " or unicodedata.category(char)[0] not in "MZ")


def wrapped(line: str) -> list[str]:
    """Wrap a line into rows of a dialog, each of ``LINE_CHARACTERS`` at most."""
    first, rest = line[:LINE_CHARACTERS], line[LINE_CHARACTERS:]
    width = LINE_CHARACTERS - len(_CONTINUED)
    # guard: a long value begins no line
    return [
        first,
        *(_CONTINUED + rest[at : at + width] for at in range(0, len(rest), width)),
    ]


def text_rows(question: Question) -> list[tuple[str, bool]]:
    """What the sandbox wants and says of it, in rows; True for those of the request."""
    rows = [(row, True) for row in wrapped(request_words(question))]
    lines = map(drawable, claims(question))
    # guard: what is long is wrapped
    rows += [(row, False) for line in lines for row in wrapped(line)]
    return rows


def duration(seconds: float) -> str:
    """Format a duration: '10 minutes'; the largest unit that is whole."""
    whole = round(seconds)
    if whole >= 86400 and whole % 86400 == 0:
        return trn("{number} day", "{number} days", whole // 86400)
    if whole >= 3600 and whole % 3600 == 0:
        return trn("{number} hour", "{number} hours", whole // 3600)
    if whole >= 60 and whole % 60 == 0:
        return trn("{number} minute", "{number} minutes", whole // 60)
    return trn("{number} second", "{number} seconds", whole)


def keep_words(question: Question, keep: Keep) -> str:
    """Return a choice in words: 'for 10 minutes: every address of this host'."""
    if keep is Keep.ONCE:
        return tr("once")
    # A long name would leave no room in the row for the rest.
    words = tr("until it stops")
    if not question.remembers:
        words = tr("until {name} stops", name=question.sandbox)
    if keep is Keep.TIME:
        words = tr("for {duration}", duration=duration(question.seconds))
    if not question.remembers:
        return words
    return f"{words}: {remembered(question.remembers)}"


class Dialog:
    """One question on the screen."""

    # The word is the same in every language, and compared exactly: a word with an accent
    # or in another script would need dead keys or an input method, which the dialog does
    # not take. It is another one for each question. A fixed word could be requested by a
    # window of the sandbox ("type allow to go on"), or begin a line of the user's own.
    def __init__(self, question: Question, yes_word: str) -> None:
        """Set up the dialog; ``yes_word``: the one that is typed as a yes."""
        self.question = question
        self.yes_word = yes_word
        self.layout = lay_out(question)
        self.guard = Guard()
        self._pointer, self._fingers = Guard(), Guard()
        for hand in (self._pointer, self._fingers):
            hand.visible(0.0)  # ``guard`` waits for the picture, and presses need both
        known = question.default_target in question.targets
        self.target = question.default_target if known else ""
        self.keep = Keep.ONCE
        self.first = 0
        """The topmost row of the targets that is seen."""
        self.typed = ""
        self.behind = 0
        """The number of questions that wait until this one is answered."""
        self.pressed: DialogRect | None = None
        """The button under the pointer when it was pressed."""
        self.early = False
        """The last press came before presses count: it must not be ignored silently."""
        self._typed_at = 0.0
        self._strokes = 0
        self._point = (-1.0, -1.0)
        self._see(self.target)

    # -- keys ----------------------------------------------------------------------

    def key(self, code: int, name: str, text: str, now: float) -> PersonAnswer | None:
        """Handle a pressed key; return an answer if it was one."""
        self._strokes += 1
        if not self.guard.press(code, now):
            self.typed = ""
            return None
        if name == "Escape":
            return _no("the user pressed Escape")
        if name == "BackSpace":
            self.typed = self.typed[:-1]
        elif name in {"Up", "Down"}:
            self._step(-1 if name == "Up" else 1)
        elif name in {"Left", "Right"}:
            self._hold_for(-1 if name == "Left" else 1)
        # guard: Enter means nothing
        elif name not in {"Return", "KP_Enter", "space", "Tab"} and text:
            # More than the word is never the word again, but for BackSpace.
            self.typed = (self.typed + text)[: len(self.yes_word) + 1]
        self._typed_at = now
        return None

    def key_up(self, code: int, now: float) -> None:
        """A key goes up."""
        self.guard.release(code, now)

    # -- time ----------------------------------------------------------------------

    def rests(self, now: float) -> tuple[int, ...]:
        """Return which rests are over at ``now``: of the guards, and of the word.

        A picture that is drawn now shows them; ``shown`` hears it.
        """
        # guard: the word alone
        settled = now - self._typed_at >= limits.PROMPT_WORD_SECONDS
        word = self._strokes if self.typed == self.yes_word and settled else 0
        return (*(guard.rest(now) for guard in self._guards()), word)

    def shown(self, rests: tuple[int, ...]) -> PersonAnswer | None:
        """The screen has shown the picture of ``rests``.

        Return a yes if the typed word has stood alone for a moment.
        """
        *numbers, word = rests
        for guard, number in zip(self._guards(), numbers, strict=True):
            guard.shown(number)
        # guard: no key was on its way when the word stood alone
        alone = word == self._strokes
        if word and alone and self.typed == self.yes_word and self.guard.armed:
            return self._yes()
        return None

    def wakes(self, now: float) -> float | None:
        """Return when a picture must be drawn next; None: not for time's sake."""
        waits = [guard.remaining(now) for guard in self._guards()]
        rests = [seconds for seconds in waits if seconds]
        if rests:
            return now + min(rests)
        stands = self._typed_at + limits.PROMPT_WORD_SECONDS
        return stands if self.typed == self.yes_word and stands > now else None

    def _guards(self) -> tuple[Guard, ...]:
        return self.guard, self._pointer, self._fingers

    # -- pointer and touch ------------------------------------------------------------

    def motion(self, x: float, y: float) -> None:
        """The pointer is there; moving it is not acting."""
        self._point = (x, y)

    def at_edge(self, x: float, y: float) -> bool:
        """Return whether a pointer that comes in here was moved over the edge."""
        rim = FRAME + PAD  # nothing in it can be pressed
        width, height = WIDTH - 2 * rim, self.layout.height - 2 * rim
        return not DialogRect(rim, rim, width, height).holds(x, y)

    def enter(self, now: float, *, moved: bool = False) -> None:
        """The pointer has come in, and its image is ours: its rest begins.

        ``moved``: over the edge, by a hand.  Elsewhere the dialog has appeared under
        it, or a button has been let go that was held in another window.
        """
        # guard: a pointer that appears rests for a second
        hold = limits.PROMPT_MOVED_SECONDS if moved else None
        self._pointer.focus(now, held=True, hold=hold)

    def leave(self, now: float) -> None:
        """The pointer is elsewhere."""
        self._point = (-1.0, -1.0)
        self.pressed = None
        self.early = False
        self._pointer.focus(now, held=False)

    def hand_waits(self, now: float) -> bool:
        """Return whether a pointer or finger is there, and has not rested there yet."""
        hands = self._pointer, self._fingers
        return any(hand.focused and not hand.rest(now) for hand in hands)

    def touch(self, finger: int, now: float) -> None:
        """A finger goes down; the first one only begins the rest of fingers."""
        if not self._fingers.focused:
            self._fingers.focus(now, held=True)
        self._press(self._fingers, _FINGERS + finger, now)

    def lift(self, finger: int, now: float) -> PersonAnswer | None:
        """A finger goes up; an answer if it is on the button that was pressed."""
        return self._release(self._fingers, _FINGERS + finger, now)

    def press(self, button: int, now: float) -> None:
        """A button of the pointer goes down."""
        self._press(self._pointer, _BUTTONS + button, now)

    def release(self, button: int, now: float) -> PersonAnswer | None:
        """Handle a release; an answer if it is on the button that was pressed."""
        return self._release(self._pointer, _BUTTONS + button, now)

    def _press(self, hand: Guard, code: int, now: float) -> None:
        """Handle a pressed button or finger, if the guard counts it."""
        rested = hand.press(code, now)
        # guard: a hand rests where it presses
        armed = self.guard.press(code, now) and rested
        # guard: a press while inert
        self.pressed = self._button() if armed else None
        self.early = not armed
        if armed:
            self._choose()

    def _release(self, hand: Guard, code: int, now: float) -> PersonAnswer | None:
        """Handle a released button or finger.

        Return an answer if it was on a button.
        """
        hand.release(code, now)
        armed = self.guard.release(code, now)
        pressed, self.pressed = self.pressed, None
        # guard: pressed where it is let go
        if not armed or pressed is None or pressed != self._button():
            return None
        if pressed == self.layout.deny:
            return _no("the user said no")
        return self._yes()

    def wheel(self, rows: int, now: float) -> None:
        """Scroll the targets."""
        if self.guard.disturb(now):
            self._scroll(self.first + rows)

    # -- choices ------------------------------------------------------------------------

    def rows(self) -> tuple[str, ...]:
        """The targets that are seen."""
        if not self.layout.targets.height:
            return ()
        return self.question.targets[self.first : self.first + ROWS]

    def _yes(self) -> PersonAnswer | None:
        if not self.target:
            return None  # first a target must be chosen
        return PersonAnswer(allow=True, target=self.target, keep=self.keep, by="person")

    def _button(self) -> DialogRect | None:
        for button in (self.layout.allow, self.layout.deny):
            if button.holds(*self._point):
                return button
        return None

    def _choose(self) -> None:
        """Choose the target or duration under the pointer."""
        for rect, keep in zip(self.layout.keeps, self.question.keeps, strict=False):
            if rect.holds(*self._point):
                self.keep = keep
        if self.layout.targets.holds(*self._point):
            row = int(self._point[1] - self.layout.targets.y) // ROW
            seen = self.rows()
            if row < len(seen):
                self.target = seen[row]

    def _step(self, by: int) -> None:
        """Move the chosen target up or down."""
        targets = self.question.targets
        if self.target in targets:
            number = targets.index(self.target) + by
        else:
            number = 0 if by > 0 else len(targets) - 1
        self.target = targets[max(0, min(number, len(targets) - 1))]
        self._see(self.target)

    def _hold_for(self, by: int) -> None:
        """Choose the answer's duration that is before or after the chosen one."""
        keeps = self.question.keeps
        if self.keep in keeps:
            number = keeps.index(self.keep) + by
            self.keep = keeps[max(0, min(number, len(keeps) - 1))]

    def _see(self, target: str) -> None:
        if target in self.question.targets:
            number = self.question.targets.index(target)
            if not self.first <= number < self.first + ROWS:
                self._scroll(number - ROWS // 2)

    def _scroll(self, first: int) -> None:
        self.first = max(0, min(first, len(self.question.targets) - ROWS))


def _no(reason: str) -> PersonAnswer:
    return PersonAnswer(allow=False, by="person", reason=reason)
