"""A notification on the user's desktop that can be replaced and have buttons.

It is sent by notify-send(1) of libnotify.  A server may show buttons only in a menu of
its own (mako), so the text must also make sense without them.
"""

from __future__ import annotations

import html
import os
import shutil
from collections.abc import Mapping

import trio

from broker.cli import render
from broker.core.escape import printable
from broker.helpers.process.spawn import DEVNULL, PIPE, Child, spawn

_PROGRAM = "notify-send"
_TITLE_CHARACTERS = 100
_TEXT_CHARACTERS = 500
_LINES = 8
_CLOSE_MS = 1
_READ_BYTES = 4096


class DesktopNotification:
    """One place on the screen: each ``show`` replaces what the last one showed."""

    def __init__(self, env: Mapping[str, str], icon: str = "") -> None:
        self._env = env
        self._icon = icon
        self._id = ""
        path = env.get("PATH")
        self._works = shutil.which(_PROGRAM, path=path) is not None

    @property
    def shown(self) -> bool:
        """Return whether something has been shown."""
        return bool(self._id)

    async def show(
        self,
        title: str,
        text: str,
        *,
        seconds: int = 0,
        stays: bool = False,
        percent: int | None = None,
    ) -> None:
        """Show a notification without buttons; ``seconds``: 0 is the server's time.

        ``stays``: until the user closes it.
        """
        words = [*self._words(seconds, stays=stays), "--print-id"]
        if percent is not None:
            words.append(f"--hint=int:value:{percent}")
        self._id = (await self._send(words, title, text)).strip() or self._id

    async def ask(self, title: str, text: str, buttons: Mapping[str, str]) -> str:
        """Show the notification with buttons and wait until it is closed.

        ``buttons`` maps what is returned to what is written on a button.  Returns ``""``
        where none was chosen.
        """
        words = self._words(0, stays=True)
        words += [f"--action={key}={label}" for key, label in buttons.items()]
        chosen = (await self._send(words, title, text)).strip()
        # guard: only a button that was offered is an answer
        return chosen if chosen in buttons else ""

    async def close(self) -> None:
        """Close the notification."""
        if self._id:
            await self._send([*self._words(0), f"--expire-time={_CLOSE_MS}"], "", " ")
            self._id = ""

    def _words(self, seconds: int, *, stays: bool = False) -> list[str]:
        # GNOME Shell shows one at a time, and a critical one until it is closed: it would
        # hide that a question waits.
        words = [_PROGRAM, "--app-name=Vitrail", "--urgency=normal"]
        words += [f"--expire-time={1000 * seconds}"] if seconds or stays else []
        words += [f"--replace-id={self._id}"] if self._id else []
        return words + ([f"--icon={self._icon}"] if self._icon else [])

    async def _send(self, words: list[str], title: str, text: str) -> str:
        """Run the command and return its output; what cannot be shown goes to standard error."""
        if not self._works:
            render.note(": ".join(filter(None, (title, text))))
            return ""
        child = spawn(
            [
                *words,
                "--",
                printable(title, _TITLE_CHARACTERS) or "Vitrail",
                body(text),
            ],
            env=self._env,
            stdout=PIPE,
            stderr=DEVNULL,
        )
        try:
            output = await _output(child)
            # A closed one has no title, and nothing that the user is to read.
            if await child.wait() != 0 and title:
                render.note(": ".join(filter(None, (title, text))))
            return output.decode("utf-8", "replace")
        finally:
            await child.stop()


async def _output(child: Child) -> bytes:
    """Return the output of the process."""
    pipe = child.popen.stdout
    assert pipe is not None
    with pipe:
        found = b""
        while True:
            await trio.lowlevel.wait_readable(pipe.fileno())
            data = os.read(pipe.fileno(), _READ_BYTES)
            if not data:
                return found
            found += data


def body(text: str) -> str:
    """Escape a text for the server's simple markup and for notify-send itself."""
    lines = text.split("\n")[:_LINES]
    shown = "\n".join(printable(line, _TEXT_CHARACTERS) for line in lines)
    # guard: no markup in a notification
    return html.escape(shown, quote=False).replace("\\", "\\\\")
