"""Offer rules for refused calls by notification.

A sandbox chooses when it is refused.  So it could time a notification to appear where
the user is about to click, or cover the screen with them.  Therefore the first
notification only opens the second one, which shows the line; an answer that comes
sooner than a user can have read it does not count; and each sandbox has one at a time,
a few a minute.  The user's own process writes the line; the brokers only read it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

import trio

from broker.cli import render
from broker.cli.allow.offer import RuleOffer, offer_for, once_file
from broker.cli.allow.refusals import RefusedCall, refusals_from_now
from broker.cli.allow.write import always, once
from broker.cli.notifications.notification import DesktopNotification
from broker.cli.policy.show import short_answer
from broker.core.errors import RefusedError, SetupError, VitrailError
from broker.core.paths import Paths, find_paths, require_private
from broker.core.sliding_window import SlidingWindow
from broker.ipc.audit.query import open_log
from broker.ipc.in_thread import in_thread

READ_SECONDS = 1.0
"""An answer that is given sooner after the line is shown is not an answer."""
OPEN_SECONDS = 60.0
"""A notification without an answer is taken off the screen."""
_PER_SANDBOX = 3
_IN_ALL = 6
_MINUTE = 60.0
_SHOWN = 3
_BUTTONS = {"once": "Once", "always": "Always", "ask": "Ask each time"}


class OfferBudget:
    """Limit offers: a sandbox has one at a time, and a few a minute."""

    def __init__(self) -> None:
        self._all = SlidingWindow(_IN_ALL, _MINUTE)
        self._own: dict[str, SlidingWindow] = {}
        """Of those only that were offered within the last minute."""
        self._open: set[str] = set()

    @property
    def sandboxes(self) -> int:
        """The number of sandboxes with an entry."""
        return len(self._own.keys() | self._open)

    def take(self, sandbox: str, now: float) -> bool:
        """Return whether a refusal of a sandbox may be offered now; if so, ``done`` must follow."""
        # guard: names of disposables that are gone are forgotten
        self._own = {name: own for name, own in self._own.items() if not own.idle(now)}
        own = self._own.get(sandbox) or SlidingWindow(_PER_SANDBOX, _MINUTE)
        # guard: a sandbox has one offer at a time, and few
        if sandbox in self._open or not own.take(now) or not self._all.take(now):
            return False
        self._own[sandbox] = own
        self._open.add(sandbox)
        return True

    def done(self, sandbox: str) -> None:
        """Release the place of a closed notification."""
        self._open.discard(sandbox)


async def watch_refusals(env: Mapping[str, str]) -> None:
    """Offer each refusal from now on, until cancelled.

    Raises SetupError where another process of this user does so already.
    """
    paths = find_paths()
    lock = _only_one(paths)
    budget = OfferBudget()
    # The process that would remove it may have been killed with a service before this.
    # guard: a line for one call does not outlive a crash
    once_file().unlink(missing_ok=True)
    try:
        with open_log(paths.audit) as log:
            async with trio.open_nursery() as nursery:
                async for refusal in refusals_from_now(log):
                    if budget.take(refusal.sandbox, trio.current_time()):
                        nursery.start_soon(_offer_refusal, refusal, budget, env)
    finally:
        os.close(lock)


def _only_one(paths: Paths) -> int:
    """Lock the file that lets one watcher run; return its descriptor."""
    require_private(paths)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(paths.runtime / "allow.lock", flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise SetupError("'brokerctl allow --watch' is already running") from error
    return lock


async def _offer_refusal(
    refusal: RefusedCall, budget: OfferBudget, env: Mapping[str, str]
) -> None:
    """Offer a rule by notification, then release its place in the budget."""
    try:
        with trio.move_on_after(OPEN_SECONDS):
            await offer_by_notification(refusal, env)
    except VitrailError as error:
        render.note(f"event {refusal.sequence}: {error}")
    finally:
        budget.done(refusal.sandbox)


async def offer_by_notification(refusal: RefusedCall, env: Mapping[str, str]) -> None:
    """Show a refusal, and the line that would allow it once the user wants to see it.

    By the user's choice it writes the line into a file of rules, for once or for good,
    and notifies the user of that.
    """
    note = DesktopNotification(env)
    title = f"{refusal.sandbox} was refused"
    if not await note.ask(title, refusal.what, {"allow": "Allow …"}):
        return
    note = DesktopNotification(env)
    try:
        offer = await in_thread(offer_for, refusal.sequence)
        text = await in_thread(text_of, offer)
    except RefusedError as error:
        await note.show("No rule can allow this call", _told(error))
        return
    began = trio.current_time()
    choice = await note.ask(f"Allow this? {refusal.what}", text, _BUTTONS)
    # guard: an answer counts only when the line could be read
    if trio.current_time() - began < READ_SECONDS:
        return
    if choice == "once":
        once(offer)
        await DesktopNotification(env).show(
            "Allowed once", "Repeat the action within a minute."
        )
    elif choice:
        line = offer.asking if choice == "ask" else offer.line
        file = always(offer, line)
        await DesktopNotification(env).show("Written", f"{line}\n{file}")


def text_of(offer: RuleOffer) -> str:
    """Return the line, its other effects, and its file.  Raises RefusedError.

    The file is last: servers cut long texts at their end.
    """
    home = str(Path.home())
    file = str(offer.file)
    shown = f"~{file.removeprefix(home)}" if file.startswith(f"{home}/") else file
    lines = [offer.line]
    if not offer.others:
        lines.append("The line does not change decisions about other sandboxes.")
    else:
        lines.append(f"The line also decides {len(offer.others)} other kinds of calls:")
    for change in offer.others[:_SHOWN]:
        call = change.call
        sources = ", ".join(change.sources[:_SHOWN])
        lines.append(f"{call.service}: {sources}: {short_answer(change.new)}")
    more = len(offer.others) - _SHOWN
    lines += [f"and {more} more"] if more > 0 else []
    return "\n".join([*lines, f"in {shown}"])


def _told(error: VitrailError) -> str:
    return "\n".join(filter(None, (str(error), error.hint)))
