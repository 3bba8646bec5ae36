"""A prompt agent on a real compositor, with hands: a keyboard and a pointer."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import asynccontextmanager
from functools import cache, partial

import trio
from PIL import Image, ImageChops

from broker.authority.questions.phrase import _read_phrase_list
from broker.core import limits
from broker.core.question import Keep, Question
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import spawn
from broker.helpers.prompt.dialog import Dialog, lay_out
from broker.helpers.prompt.paint import _DENY, draw
from broker.ipc import prompt as m
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import desktop, pixels
from tests.kit.wayland.input import Keyboard, Pointer

SIZE = (1280, 800)
KEYS = {
    **{
        letter: code
        for first, row in ((16, "qwertyuiop"), (30, "asdfghjkl"), (44, "zxcvbnm"))
        for code, letter in enumerate(row, first)
    },
    "Return": 28,
    "Escape": 1,
    "space": 57,
    "BackSpace": 14,
    "Down": 108,
    "Up": 103,
    "Left": 105,
    "Right": 106,
    "Tab": 15,
    "Prior": 104,
}
"""Names to evdev codes (linux/input-event-codes.h) of a US keyboard."""
PHRASE = "blue otter sings"
WORD = "allow"
"""The word of an agent's questions here; a broker draws one for each."""


def question(**more):
    """A question as the broker asks it."""
    made = {
        "sandbox": "work",
        "lease": "0" * 16,
        "record": "work",
        "label": "Work",
        "colour": "#009e73",
        "service": "vitrail.AudioInput",
        "argument": "",
        "words": "to listen to your microphone",
        "targets": ("dom0",),
        "default_target": "dom0",
        "rule": "x.policy:1",
    }
    return Question(**{**made, **more})


MANY = question(
    sandbox="untrusted",
    label="Untrusted \\u202e browser",
    colour="#d55e00",
    words="to open an address",
    argument="xn--80ak6aa92e",
    details=(("scheme", "https"), ("host", "www.example.org")),
    targets=(
        "banking",
        "personal",
        "work",
        "@dispvm:web",
        *(f"t{n}" for n in range(8)),
    ),
    default_target="@dispvm:web",
    keeps=(Keep.ONCE, Keep.TIME),
    seconds=600,
)


class Hands:
    """A person's, on a dialog that is in the middle of the screen."""

    def __init__(self, comp):
        self.comp = comp
        self.keyboard = Keyboard(comp.display)
        self.pointer = Pointer(comp.display, SIZE)

    def close(self):
        self.keyboard.client.close()
        self.pointer.client.close()

    def press(self, *names):
        for name in names:
            self.keyboard.press(KEYS[name])

    def type(self, word):
        """Type it alone, also where a part of an earlier try is there already."""
        self.press(*["BackSpace"] * 8, *word)

    def place(self, asked, rect):
        """The middle of a part of the dialog, on the screen."""
        layout = lay_out(asked)
        left, top = (SIZE[0] - 640) // 2, (SIZE[1] - layout.height) // 2
        return left + rect.x + rect.width // 2, top + rect.y + rect.height // 2

    def move(self, asked, rect):
        self.pointer.move(*self.place(asked, rect))

    def click(self, asked, rect):
        self.pointer.click(*self.place(asked, rect))

    async def awaits_dialog(self):
        """Wait until a dialog on the screen says that answers count."""

        async def counts():
            colours = (await pixels(self.comp)).getcolors(1 << 24)
            return _DENY in {colour for _, colour in colours}

        await eventually(counts)

    async def read_yes_text(self):
        """Return the word that the dialog on the screen shows."""
        return await eventually(partial(read_yes_text, partial(pixels, self.comp)))


async def read_yes_text(picture):
    """Return the word of the dialog in a picture; "": answers do not count there."""
    image = (await picture()).convert("RGB")
    background = Image.new("RGB", image.size, _DENY)
    same = (
        ImageChops.difference(image, background)
        .convert("L")
        .point(lambda n: 255 * (not n))
    )
    button = same.getbbox()
    if button is None:
        return ""
    hint_rect = lay_out(question()).hint
    x, y = button[0], button[1] + hint_rect.y - lay_out(question()).deny.y
    area = x, y, x + hint_rect.width, y + hint_rect.height
    row = image.crop(area).tobytes()
    return next((text for text in _read_phrase_list() if _draw_hint(text) == row), "")


@cache
def _draw_hint(yes_word):
    """Return the pixels of the row that says how to answer."""
    x, y, width, height = lay_out(question()).hint
    dialog = Dialog(question(), yes_word)
    dialog.guard.visible(0.0)
    dialog.guard.focus(0.0, held=True)
    image = draw(dialog, "", 9.0, 9.0, 1)
    return image.crop((x, y, x + width, y + height)).convert("RGB").tobytes()


@asynccontextmanager
async def hands(size=SIZE, **more):
    """A desktop with hands at it; ``SIZE`` is its size in pixels."""
    async with desktop(size=size, **more) as comp:
        made = Hands(comp)
        try:
            yield made
        finally:
            made.close()


class Agent:
    """A real agent process; its messages are awaited in order."""

    def __init__(self, child, sock):
        self.child = child
        self.sock = sock

    async def tell(self, message):
        await self.sock.send(m.encode(message))

    async def show(self, asked, number=1, seconds=60.0, phrase=PHRASE):
        """Show a question; returns when it is on the screen."""
        await self.tell(m.Show(number, asked, phrase, seconds, WORD))
        assert await self.hear() == m.Shown(number)
        return trio.current_time()

    async def hear(self, deadline=60):
        with trio.fail_after(deadline):
            packet = await self.sock.recv(limits.PROMPT_MESSAGE_BYTES)
        return m.decode_from_agent(packet) if packet else None

    async def hears_nothing(self, seconds):
        """Whether it says nothing for so long."""
        with trio.move_on_after(seconds):
            said = await self.sock.recv(limits.PROMPT_MESSAGE_BYTES)
            raise AssertionError(m.decode_from_agent(said))
        return True


@asynccontextmanager
async def agent(environment):
    """An agent with that environment, connected; or not, as its words say."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    child = spawn(
        our_program("broker.programs.prompt", str(theirs.fileno())),
        env={**os.environ, **environment},
        pass_fds=[theirs.fileno()],
        stderr=subprocess.PIPE,
    )
    theirs.close()
    made = Agent(child, trio.socket.from_stdlib_socket(ours))
    try:
        yield made
    finally:
        made.sock.close()
        with trio.move_on_after(5):
            await child.wait()
        await child.stop()
        said = child.popen.stderr.read().decode()
        child.popen.stderr.close()
        print(said)
        assert "Traceback" not in said
