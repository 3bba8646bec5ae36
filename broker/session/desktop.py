"""Telling the person on the desktop: notifications, when there are any.

Nothing waits for them and nothing depends on them: what matters is an event
and a line of ``brokerctl status`` too.  A sandbox that is refused all the time
must not cover the screen, so they are few, and the rest is counted.
"""

from __future__ import annotations

import html
import shutil
from collections.abc import Mapping

import trio

from broker.core import limits
from broker.core.complain import complain
from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.rate import Rate
from broker.launch.spawn import run_tool

_PROGRAM = "notify-send"
_SECONDS = 5.0
_WAITING = 8
_TITLE_CHARACTERS = 100
_TEXT_CHARACTERS = 500


class Desktop:
    """Sends notifications with ``notify-send`` (libnotify) where it is installed."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = environ
        self._rate = Rate(limits.NOTIFICATIONS_PER_MINUTE, 60.0)
        self._left_out = 0
        self._send, self._receive = trio.open_memory_channel[tuple[str, str]](_WAITING)
        self._complained = False

    def notify(self, title: str, text: str) -> None:
        """Tell the person soon, or count it; never waits, never raises."""
        if not self._rate.take(trio.current_time()):
            self._left_out += 1
            return
        more = f"\n(and {self._left_out} more like it)" if self._left_out else ""
        try:
            self._send.send_nowait((title, text + more))
            self._left_out = 0
        except trio.WouldBlock:
            self._left_out += 1

    async def run(self) -> None:
        """Send what is to be told, until cancelled."""
        async for title, text in self._receive:
            path = None if self._environ is None else self._environ.get("PATH")
            if shutil.which(_PROGRAM, path=path) is None:
                continue
            lines = [printable(line, _TEXT_CHARACTERS) for line in text.split("\n")]
            # Servers read simple markup in the text, and a name may be '<b>'.
            body = html.escape("\n".join(lines), quote=False)
            # And notify-send itself takes '\\n' and its like for what they mean.
            body = body.replace("\\", "\\\\")
            head = printable(title, _TITLE_CHARACTERS)
            try:
                await run_tool(
                    [_PROGRAM, "--app-name=Vitrail", "--", head, body],
                    env=self._environ,
                    deadline=_SECONDS,
                )
            except (OSError, SetupError, UpstreamError) as error:
                # OSError: no process or descriptor is left for it just now.
                if not self._complained:
                    self._complained = True
                    complain(f"vitrail: nothing can be told on the desktop: {error}")
