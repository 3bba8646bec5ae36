"""Start a sandbox from the menu; show progress, failures and fixes by notification.

All kinds of sandboxes start by ``brokerctl run --json`` in a separate process, whose
lines are shown here.  So one place reports a start, and another does it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import trio

from broker.cli.homes.home_in_use import is_in_use
from broker.cli.menu.entries import IDS_PER_SANDBOX, expect_of, follow_windows
from broker.cli.menu.in_terminal import in_terminal
from broker.cli.notifications.notification import DesktopNotification
from broker.cli.run.connect import ask
from broker.cli.transfer.named_path import path_of
from broker.core.errors import SetupError, VitrailError
from broker.core.escape import printable
from broker.core.language.catalogue import mark
from broker.core.language.notices import in_users_language
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import PIPE, spawn
from broker.helpers.prompt.translation import tr
from broker.ipc.control.api import WindowsRequest
from broker.ipc.control.methods import WINDOWS
from broker.ipc.in_thread import in_thread

_QUIET_SECONDS = 1.5
"""A start that is over by then needs no notification: its window is there."""
_SHOWN_EACH_SECONDS = 1.0
Windows: TypeAlias = frozenset[tuple[str, int]]
"""Sandbox and number of each."""
_DONE_SECONDS = 3
_NAME_CHARACTERS = 60
_SHIELD = "security-high"
_VERBS = {
    "open": (mark("Opening {name}"), mark("Cannot open {name}")),
    "sanitize": (
        mark("Making {name} harmless"),
        mark("Cannot make {name} harmless"),
    ),
}
_LOOK_SECONDS = 0.3
_LATER_SECONDS = 2.0
"""Between looks for windows with further ids, which lack an icon until then."""
_LINES = 12
_LINE_BYTES = 16384
_COMMAND = re.compile(r"(?:'|: )brokerctl ([a-z][a-z0-9 ._-]*)(?:'|$)")
# A host that was taken over writes hints, too: no option that it could choose freely.
_MENDS = re.compile(
    r"(?:audit(?: (?:connections|stats|verify))?(?: --sandbox W)?"
    r"|image (?:build(?: --force)?(?: W)?(?: --force| --gpu| --x11)?|list|rebuild)"
    r"|policy (?:check|edit|explain(?: --event)?|lint|show|starter)(?: W)*"
    r"|doctor|logs(?: W)?|new(?: W)?|status(?: W)?)".replace(
        "W", "[a-z0-9][a-z0-9._-]*"
    )
)
"""Commands that a hint may offer as a button: they look, build or open an editor."""
_STEP = re.compile(r"\[ *[0-9][^]]*\] (.+)|  … (.+)|  ✓ .+")
"""A line of 'image build', with the time that has passed, or of another verb: the step
that begins, or takes long; or a step that is done."""
_BUILD = "build the image"
_BUILDING = tr("Building the image")
_ONCE = tr("This happens once and may take a few minutes.")


@dataclass
class StartResult:
    """The result of a brokerctl command."""

    code: int = 0
    record: str = ""
    """Of the sandbox; empty: the command starts none of a record."""
    sandbox: str = ""
    error: str = ""
    hint: str = ""
    note: str = ""
    """What a verb said that succeeded, where it names a command that mends it."""
    window: bool = False
    """It has shown a window."""
    untrusted_output: deque[str] = field(default_factory=lambda: deque(maxlen=3))
    """The last lines that the sandbox's program wrote."""

    @property
    def text(self) -> str:
        """What failed, as the user reads it."""
        lines = [
            in_users_language(self.error)
            or tr("the command exited with code {code}", code=self.code)
        ]
        if self.hint and self.hint != self.error:
            lines.append(in_users_language(self.hint))
        if not self.error and self.untrusted_output:
            # guard: a program's own words are marked as its
            lines += [
                tr("Output of the program: {line}", line=line)
                for line in self.untrusted_output
            ]
        return "\n".join(lines)


async def start(
    name: str,
    title: str,
    icon: str,
    argv: Sequence[str],
    *,
    attached: bool,
    env: Mapping[str, str],
) -> StartResult:
    """Start a sandbox's program, and wait until its window is shown or it failed.

    ``title`` is the label, ``icon`` a path or "", ``argv`` the program in place of the
    record's, ``attached`` whether it ends with the command that started it (a box).
    """
    words = ["run", "--json", *([] if attached else ["--detach"]), name]
    if argv:
        words += ["--", *argv]
    while True:
        note = DesktopNotification(env, icon)
        async with trio.open_nursery() as nursery:
            seen = await _Seen.since_now(name) if attached else _Seen(name)
            if attached:
                nursery.start_soon(seen.run)
            result = await _reported(
                note, tr("Starting {name}", name=title), words, env, name
            )
            nursery.cancel_scope.cancel()
        result.window = seen.window
        if result.code == 0 and result.note:
            told = StartResult(error=result.note, hint=result.note)
            await _failed(
                note, tr("{name} might not show a window", name=title), told, env
            )
            return result
        if result.code == 0:
            await note.close()
            return result
        if result.window:
            # It had started; what its program's end means, only the user knows.
            await note.close()
            return result
        heading = tr("{name} did not start", name=title)
        if is_in_use(result.error):
            heading = tr("{name} runs already", name=title)
        if not await _failed(note, heading, result, env):
            return result


async def run_each(
    verb: str, untrusted_objects: Sequence[str], env: Mapping[str, str]
) -> int:
    """Run ``brokerctl open`` or ``sanitize`` for each object; return the last failure.

    A failed start waits for the user beside the next one.
    """
    codes = [0]

    async def once(untrusted_text: str) -> tuple[DesktopNotification, StartResult]:
        note = DesktopNotification(env, _SHIELD)
        title = tr(_VERBS[verb][0], name=shown_name(untrusted_text))
        result = await _reported(note, title, [verb, "--", untrusted_text], env)
        if result.code == 0:
            await note.close()
        return note, result

    async def failed(
        untrusted_text: str, note: DesktopNotification, result: StartResult
    ) -> None:
        title = tr(_VERBS[verb][1], name=shown_name(untrusted_text))
        while result.code and await _failed(note, title, result, env):
            # guard: what is tried again is what has failed
            note, result = await once(untrusted_text)

    async with trio.open_nursery() as nursery:
        for untrusted_text in untrusted_objects:
            note, result = await once(untrusted_text)
            if result.code:
                codes.append(result.code)
                nursery.start_soon(failed, untrusted_text, note, result)
    return codes[-1]


def shown_name(untrusted_text: str) -> str:
    """Return an address, or a file's last name, as a title shows it."""
    text = path_of(untrusted_text)
    address = ":" in text and not text.startswith("/")
    return printable(text if address else Path(text).name, _NAME_CHARACTERS)


async def stop(name: str, title: str, icon: str, env: Mapping[str, str]) -> StartResult:
    """Stop a record's sandboxes by ``brokerctl stop``; report it by notification."""
    note = DesktopNotification(env, icon)
    result = await _reported(
        note, tr("Stopping {name}", name=title), ["stop", "--json", name], env
    )
    if result.code == 0:
        await note.show(tr("{name} has stopped", name=title), "", seconds=_DONE_SECONDS)
    else:
        await note.show(tr("Cannot stop {name}", name=title), result.text, stays=True)
    return result


async def _failed(
    note: DesktopNotification,
    heading: str,
    result: StartResult,
    env: Mapping[str, str],
) -> bool:
    """Show a failure and do what the user chooses; return whether to start again."""
    mend = mend_of(result.hint)
    buttons = {} if result.code == 0 else {"again": tr("Try again")}
    if mend:
        buttons = {"mend": _label(mend), **buttons}
    chosen = await note.ask(heading, result.text, buttons)
    if chosen != "mend":
        return chosen == "again"
    if mend[:2] == ["image", "build"]:
        fresh = DesktopNotification(env)
        built = await _reported(fresh, f"{_BUILDING} {mend[2]}", mend, env)
        if built.code == 0:
            await fresh.close()
            return True
        await fresh.show(tr("Cannot build the image"), built.text, stays=True)
        return False
    # The text names the command, for a desktop without a terminal.
    with suppress(SetupError):
        in_terminal(mend, env)
    return False


def mend_of(hint: str) -> list[str]:
    """Return the words of the first command that a hint names; empty: none.

    Only commands that a button may run, and only plain words.
    """
    for found in _COMMAND.finditer(hint):
        words = shlex.split(found[1])
        # guard: a button runs only a verb that mends
        if _MENDS.fullmatch(" ".join(words)):
            return words
    return []


def _label(mend: Sequence[str]) -> str:
    if list(mend[:2]) == ["image", "build"]:
        return tr("Build the image")
    return tr("Open brokerctl {words}", words=" ".join(mend))


async def _reported(
    note: DesktopNotification,
    title: str,
    words: Sequence[str],
    env: Mapping[str, str],
    record: str = "",
) -> StartResult:
    """Run a verb of brokerctl and show its progress; its processes end with us.

    ``record``: of the sandbox that the verb starts.
    """
    result = StartResult(record=record)
    # Nobody reads: what we write to a menu's pipe is for its log.
    child = spawn(
        our_program("broker.cli.app", *words),
        name="brokerctl",
        env=env,
        cwd=Path.cwd(),
        stdout=PIPE,
        stderr=PIPE,
    )
    shown = _Shown(note, title)
    out, err = child.popen.stdout, child.popen.stderr
    assert out is not None
    assert err is not None
    errors: deque[str] = deque(maxlen=_LINES)
    try:
        with out, err:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(shown.run)
                async with trio.open_nursery() as reading:
                    take = _taker(result, shown)
                    reading.start_soon(_each_line, out.fileno(), take)
                    told = partial(_step_or_error, errors, shown)
                    reading.start_soon(_each_line, err.fileno(), told)
                nursery.cancel_scope.cancel()
            result.code = await child.wait()
    finally:
        await child.stop()
    result.error, result.hint = _error_of(errors)
    notes = [line for line in errors if line.startswith("note: ") and mend_of(line)]
    result.note = "".join(notes[-1:]).removeprefix("note: ")
    return result


class _Seen:
    """Whether a sandbox that ends with its command has shown a window."""

    def __init__(self, record: str, before: Windows = frozenset()) -> None:
        """``before``: windows that it had already, of another program."""
        self._record = record
        self._before = before
        self.window = False

    @classmethod
    async def since_now(cls, record: str) -> _Seen:
        """Return a count that leaves out the windows that are there now."""
        before: Windows = frozenset()
        with suppress(VitrailError):  # nothing runs yet
            before = await in_thread(_windows_of, record)
        return cls(record, before)

    async def run(self) -> None:
        while not self.window:
            await trio.sleep(_LOOK_SECONDS)  # windows send no event to their callers
            with suppress(VitrailError):  # it does not run yet
                # A broker that does not answer is not waited for once the start failed.
                asks = partial(in_thread, abandon_on_cancel=True)
                self.window = await asks(self._has_window)
        await self._follow()

    async def _follow(self) -> None:
        """Write entries for the windows, also for later ones with ids of their own.

        A program of several sites or documents (Chromium) has an id for each.
        """
        known = await self._ids(frozenset())
        await in_thread(follow_windows)
        # guard: a program that invents ids gets no entry for each
        while len(known) < IDS_PER_SANDBOX:
            await trio.sleep(_LATER_SECONDS)
            now = await self._ids(known)
            if not now <= known:
                known |= now
                await in_thread(follow_windows)

    async def _ids(self, before: frozenset[str]) -> frozenset[str]:
        """Return the ids of the windows; ``before`` if the broker does not answer."""
        asks = partial(in_thread, abandon_on_cancel=True)
        with suppress(VitrailError):
            return await asks(window_ids, self._record)
        return before

    def _has_window(self) -> bool:
        # guard: a window of an earlier program hides no failure
        return not _windows_of(self._record) <= self._before


def window_ids(record: str) -> frozenset[str]:
    """Query the broker for the ids of a record's windows.  Raises VitrailError."""
    found = ask(WINDOWS, WindowsRequest(sandbox=record)).windows
    return frozenset(one.app_id for one in found)


def _windows_of(record: str) -> Windows:
    """Query the broker for windows of a record's sandboxes.  Raises VitrailError."""
    found = ask(WINDOWS, WindowsRequest(sandbox=record)).windows
    return frozenset((one.sandbox, one.window) for one in found)


class _Shown:
    """The step that runs, shown where the whole takes longer than a moment."""

    def __init__(self, note: DesktopNotification, title: str) -> None:
        self._note = note
        self._title = title
        self._text = _ONCE if title.startswith(_BUILDING) else ""

    def step(self, text: str) -> None:
        self._text = text

    async def run(self) -> None:
        """Update the notification with the latest progress, until cancelled."""
        await trio.sleep(_QUIET_SECONDS)
        last = ""
        while True:
            if self._text != last:
                last = self._text
                await self._note.show(self._title, last)
            await trio.sleep(_SHOWN_EACH_SECONDS)


def _step_or_error(errors: deque[str], shown: _Shown, line: str) -> None:
    """Take a line that a verb wrote to standard error."""
    if step := _STEP.fullmatch(line):
        if step[1] or step[2]:
            shown.step(f"{step[1]}\n{_ONCE}" if step[1] else step[2])
    else:
        errors.append(line)


def _taker(result: StartResult, shown: _Shown) -> Callable[[str], None]:
    """Return a function that puts each line of ``run --json`` into the result."""

    def take(line: str) -> None:
        try:
            item = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(item, dict):
            return
        if isinstance(item.get("sandbox"), str) and item["sandbox"] != result.sandbox:
            result.sandbox = item["sandbox"]
            if result.record:
                # Before its first window: Plasma looks for its icon once.
                expect_of(result.record, result.sandbox)
        output = item.get("output") or item.get("stderr")
        if isinstance(output, str):
            result.untrusted_output += [
                printable(one, 200) for one in output.splitlines() if one.strip()
            ]
        if isinstance(item.get("step"), str) and item.get("state") == "begun":
            detail = f": {item['detail']}" if item.get("detail") else ""
            once = f"\n{_ONCE}" if item["step"].startswith(_BUILD) else ""
            shown.step(f"{item['step']}{detail}{once}")

    return take


async def _each_line(fd: int, take: Callable[[str], None]) -> None:
    async for line in _lines(fd):
        take(line)


async def _lines(fd: int) -> AsyncIterator[str]:
    """Yield complete lines of a pipe."""
    rest = b""
    while True:
        await trio.lowlevel.wait_readable(fd)
        data = os.read(fd, _LINE_BYTES)
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace")
        if not data:
            break
        rest = rest[-_LINE_BYTES:]
    if rest:
        yield rest.decode("utf-8", "replace")


def _error_of(lines: Sequence[str]) -> tuple[str, str]:
    """Return message and hint of the error that the verb reported."""
    error = hint = ""
    for line in lines:
        if found := _after(line, "error: ", "Error: "):
            error, hint = found, ""
        elif found := _after(line, "  hint: "):
            hint = found
    if not error and lines:
        error = " ".join(line.strip() for line in lines if line.strip())
    return error, hint


def _after(line: str, *heads: str) -> str:
    """Return what follows one of the heads; empty: the line begins with none."""
    return next((line.removeprefix(one) for one in heads if line.startswith(one)), "")
