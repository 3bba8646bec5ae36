"""Notifications on the desktop, if it has a server for them.

Nothing waits for them and nothing depends on them: important facts are also
events and lines of ``brokerctl status``.  A sandbox that is refused all the time
must not cover the screen, so actions of sandboxes are shown a few times a minute, and
the rest is counted; each sandbox has a separate budget, so that one cannot use
up the budget of the others.  The user's own messages (a crossing of the
clipboard, a cut, an error in a file) have none, and are sent before the others:
a sandbox that provokes refusals must not be able to hide one of them.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

import trio

from broker.authority.helper_starter import HelperStarter
from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import escape_markup, printable
from broker.core.fair_share import may_take
from broker.core.sliding_window import SlidingWindow
from broker.core.stderr_log import log_stderr

_SECONDS = 5.0
_EXPIRE_SECONDS = {True: 20, False: 8}
"""The user's own messages, and those about sandboxes; servers may keep a list."""
_PLACE = re.compile(r"/[^\s:]*/([^\s/:]+\.(?:policy|toml))")
_TITLE_CHARACTERS = 100
_TEXT_CHARACTERS = 500
_BODY_CHARACTERS = 750
"""Of all lines: escaped, five times as long, they fit into the starter's message."""


class Budgets:
    """Which notifications about sandboxes are sent.  Sans-IO."""

    def __init__(self) -> None:
        self._all = SlidingWindow(limits.NOTIFICATIONS_PER_MINUTE, 60.0)
        self._own: dict[str, SlidingWindow] = {}
        self.left_out: dict[str, int] = {}
        """Of each sandbox, since its last notification that was sent."""

    def take(self, sandbox: str, now: float) -> int | None:
        """Count one; returns how many were left out before it, None: it is, too."""
        own = self._own.get(sandbox)
        if own is None:
            if len(self._own) >= limits.LEASES:
                self._forget(now)
            own = self._own[sandbox] = SlidingWindow(
                limits.NOTIFICATIONS_PER_SANDBOX, 60.0
            )
        # Its own first: a refusal by that one costs the others nothing.
        most, have = limits.NOTIFICATIONS_PER_MINUTE, self._all.counted(now)
        fair = may_take(own.counted(now), have, most)
        # guard: notifications have a budget for each sandbox
        if not fair or not own.take(now) or not self._all.take(now):
            self.left_out[sandbox] = self.left_out.get(sandbox, 0) + 1
            return None
        return self.left_out.pop(sandbox, 0)

    def _forget(self, now: float) -> None:
        for name in [name for name, rate in self._own.items() if rate.idle(now)]:
            del self._own[name]
            self.left_out.pop(name, None)


class Desktop:
    """Sends notifications with ``notify-send`` (libnotify) where it is installed."""

    def __init__(
        self, starter: HelperStarter, record_of: Callable[[str], str] = str
    ) -> None:
        """Set up notifications.

        ``record_of`` returns the record that has the budget.
        """
        self._starter = starter
        self._record_of = record_of
        self._budgets = Budgets()
        self._persons: deque[tuple[str, str]] = deque()
        self._others: deque[tuple[str, str]] = deque()
        """Bounded by the budget: nothing of it is put here."""
        self._wake = trio.Event()
        self._complained = False

    def notify(self, title: str, text: str, *, sandbox: str = "") -> None:
        """Queue a desktop notification within the sandbox's budget.

        See ``core.notify``.
        """
        if not sandbox:
            self._add(self._persons, title, text)
            return
        # guard: notifications about disposables are their record's
        record = self._record_of(sandbox)
        before = self._budgets.take(record, trio.current_time())
        if before is not None:
            more = f"\n(and {before} more like it)" if before else ""
            self._add(self._others, title, text + more)

    def _add(self, queue: deque[tuple[str, str]], title: str, text: str) -> None:
        """Queue a notification; if too many wait, the oldest is lost."""
        if len(queue) >= limits.NOTIFICATIONS_WAITING:
            lost, _ = queue.popleft()
            log_stderr(f"vitrail: the desktop does not accept notifications: {lost}")
        queue.append((title, text))
        self._wake.set()

    async def _next(self) -> tuple[str, str, int]:
        """Wait for the next notification; those about the user's actions come first."""
        while not (self._persons or self._others):
            self._wake = trio.Event()
            await self._wake.wait()
        seconds = _EXPIRE_SECONDS[bool(self._persons)]
        # guard: notices about the user's actions precede those of sandboxes
        title, text = (self._persons or self._others).popleft()
        return title, text, seconds

    async def run(self) -> None:
        """Show queued notifications by ``notify-send``, one by one, until cancelled."""
        while True:
            title, text, seconds = await self._next()
            # A file of rules by its name: whole paths fill the bubble.
            brief = _PLACE.sub(r"\1", text)
            lines = [printable(line, _TEXT_CHARACTERS) for line in brief.split("\n")]
            # guard: a long text does not end the starter
            shown = "\n".join(lines)[:_BODY_CHARACTERS]
            # Servers read simple markup in the text, and a name may be '<b>'.
            body = escape_markup(shown)
            # And notify-send itself takes '\\n' and similar escapes for their meaning.
            body = body.replace("\\", "\\\\")
            head = printable(title, _TITLE_CHARACTERS)
            try:
                await self._show(head, body, seconds)
            except SetupError:
                continue  # notify-send is not installed
            except UpstreamError as error:
                if not self._complained:
                    self._complained = True
                    log_stderr(f"vitrail: desktop notifications do not work: {error}")

    async def _show(self, title: str, body: str, seconds: int) -> None:
        """Show a notification by ``notify-send``.  Raises SetupError, UpstreamError."""
        helper = await self._starter.notify(title, body, seconds)
        try:
            with trio.fail_after(_SECONDS):
                code = await helper.wait()
        except trio.TooSlowError as error:
            raise UpstreamError(
                f"notify-send did not finish within {_SECONDS:g} s"
            ) from error
        finally:
            if helper.code is None:
                await helper.stop(0)
        if code:
            raise UpstreamError(
                f"notify-send failed with exit code {code}: the session bus, or the "
                "program that shows notifications on it, does not answer; "
                "'brokerctl doctor' looks for both"
            )
