"""Compute the rows of the panel's menu from the broker's reports.

Each row but a headline ends something; lifting a lockdown and the manager's window are
the exceptions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from broker.cli.menu.lockdown_lines import lockdown_lines
from broker.core.escape import printable
from broker.core.language.catalogue import mark
from broker.core.language.notices import in_users_language
from broker.core.services import CAMERA_USE, SCREEN_USE
from broker.helpers.prompt.phrases import request_of
from broker.helpers.prompt.translation import tr, trn
from broker.ipc.control.api import (
    DeviceDetachRequest,
    FolderStatus,
    FolderUnshareRequest,
    LockdownAnswer,
    LockdownRequest,
    PendingQuestion,
    QuestionAnswerRequest,
    SandboxStatus,
    SoundRequest,
    SoundStatus,
    StopRequest,
)

INHIBITORS = "inhibitors"
"""The count of a sandbox's windows that keep the screen on; only where it may."""
_LABEL_CHARS = 100
_SANDBOXES = 40
_QUESTIONS = 10
"""More rows than these would leave the screen; one row counts the rest."""


@dataclass(frozen=True)
class OpenManager:
    """A request to show a page of the manager: a sandbox's name, or a page's."""

    page: str


@dataclass(frozen=True)
class Leave:
    """A request to remove the icon from the panel."""


Click: TypeAlias = (
    StopRequest
    | QuestionAnswerRequest
    | DeviceDetachRequest
    | FolderUnshareRequest
    | LockdownRequest
    | SoundRequest
    | OpenManager
    | Leave
)
"""A click's meaning.  It names its object, so it cannot reach another one."""


@dataclass(frozen=True)
class MenuRow:
    """A row: ``click`` None only informs, an empty label separates."""

    label: str = ""
    click: Click | None = None
    colour: str = ""
    """``#rrggbb`` of a sandbox; empty: no square."""
    children: tuple[MenuRow, ...] = ()


_SEEING = {
    CAMERA_USE: (
        tr("CAMERA"),
        tr("Turn off the camera"),
        mark("{name} uses your camera"),
    ),
    SCREEN_USE: (
        tr("SCREEN"),
        tr("End screen sharing"),
        mark("{name} sees your screen"),
    ),
}
"""What a row says of each, what ends it, and the tool tip."""
_OPEN = LockdownAnswer(locked=False, networks=False)


@dataclass(frozen=True)
class TrayState:
    """All that the panel shows at one moment; ``reachable`` False: no broker runs."""

    reachable: bool = False
    sandboxes: tuple[SandboxStatus, ...] = ()
    questions: tuple[PendingQuestion, ...] = ()
    sound: tuple[SoundStatus, ...] = ()
    folders: tuple[FolderStatus, ...] = ()
    lockdown: LockdownAnswer = _OPEN
    warnings: int = 0
    manager: bool = False
    """Whether the manager is installed."""

    @property
    def listening(self) -> tuple[str, ...]:
        """The sandboxes that hear the microphone now."""
        return tuple(one.sandbox for one in self.sound if one.active)

    @property
    def seeing(self) -> tuple[str, ...]:
        """Return the sandboxes that use the camera, or see a screen, in words."""
        return tuple(
            tr(words, name=one.name)
            for one in self.sandboxes
            for kind, (_, _, words) in _SEEING.items()
            if any(device.startswith(kind) for device in one.devices)
        )


def rows(now: TrayState) -> tuple[MenuRow, ...]:
    """Return the rows of the panel's menu for the broker's current state."""
    if not now.reachable:
        return (MenuRow(tr("No broker is running")), MenuRow(), _LEAVE)
    found = [*_questions(now), *_sandboxes(now)]
    if now.warnings:
        words = trn(
            "{number} warning; run 'brokerctl status'",
            "{number} warnings; run 'brokerctl status'",
            now.warnings,
        )
        found.append(MenuRow(words))
    return (*found, MenuRow(), *_lockdown(now.lockdown), MenuRow(), _LEAVE)


_LEAVE = MenuRow(tr("Remove from the panel"), Leave())


def _text(text: str) -> str:
    return printable(text, _LABEL_CHARS)


def _questions(now: TrayState) -> list[MenuRow]:
    if not now.questions:
        return []
    found = [
        MenuRow(
            _text(
                tr(
                    "Deny: {name} wants {request}",
                    name=one.sandbox,
                    request=request_of(one.words),
                )
            ),
            QuestionAnswerRequest(id=one.id, allow=False),
            one.color,
        )
        for one in now.questions[:_QUESTIONS]
    ]
    if more := len(now.questions) - len(found):
        words = trn(
            "{number} more questions; run 'brokerctl pending'",
            "{number} more questions; run 'brokerctl pending'",
            more,
        )
        found.append(MenuRow(words))
    return [*found, MenuRow()]


def _sandboxes(now: TrayState) -> list[MenuRow]:
    """Return a menu row for each sandbox, or a row that says that none runs."""
    if not now.sandboxes:
        return [MenuRow(tr("No sandboxes are running"))]
    found = [_sandbox(now, one) for one in now.sandboxes[:_SANDBOXES]]
    if more := len(now.sandboxes) - len(found):
        words = trn(
            "{number} more sandboxes; run 'brokerctl status'",
            "{number} more sandboxes; run 'brokerctl status'",
            more,
        )
        found.append(MenuRow(words))
    return found


def _sandbox(now: TrayState, one: SandboxStatus) -> MenuRow:
    """Return a sandbox's menu row, with what it uses and its actions."""
    uses: list[str] = [] if one.state == "running" else [one.state]
    inside: list[MenuRow] = []
    if one.name in now.listening:
        uses.append(tr("MICROPHONE"))
        end = SoundRequest(sandbox=one.name, microphone=False)
        inside.append(MenuRow(tr("Turn off the microphone"), end))
    if keeps_screen_on(one):
        uses.append(tr("keeps the screen on"))
    for device in one.devices:
        port = device.split(" ", 1)[0]
        other = (tr("a device"), _text(tr("Revoke {what}", what=device)), "")
        name, label, _ = _SEEING.get(port.partition(":")[0] + ":", other)
        uses.append(name)
        inside.append(MenuRow(label, DeviceDetachRequest(port)))
    inside.extend(
        MenuRow(
            _text(tr("Revoke {what}", what=folder.path)),
            FolderUnshareRequest(folder=folder.path, sandbox=one.name),
        )
        for folder in now.folders
        if folder.sandbox == one.name
    )
    if (net := one.network) is not None and net.flows:
        words = tr(
            "{sent} out, {received} in",
            sent=_rate(net.rate_from_sandbox),
            received=_rate(net.rate_to_sandbox),
        )
        uses.append(tr("network {rates}", rates=words))
        inside.append(
            MenuRow(
                trn(
                    "End all networks: {number} flows, {rates}",
                    "End all networks: {number} flows, {rates}",
                    net.flows,
                    rates=words,
                ),
                _NETWORKS,
            )
        )
    if now.manager:
        inside.append(MenuRow(tr("Permissions…"), OpenManager(one.name)))
    inside.append(MenuRow(tr("Stop"), StopRequest(sandbox=one.name)))
    label = f"{one.name}: {', '.join(dict.fromkeys(uses))}" if uses else one.name
    return MenuRow(_text(label), None, one.color, tuple(inside))


def keeps_screen_on(one: SandboxStatus) -> bool:
    """Return whether a program of a sandbox keeps the screen from locking."""
    return any(limit.what == INHIBITORS and limit.now for limit in one.limits)


def _lockdown(lockdown: LockdownAnswer) -> tuple[MenuRow, ...]:
    if not lockdown.locked:
        return (MenuRow(tr("Lockdown"), LockdownRequest(begin=True)),)
    networks = (
        () if lockdown.networks else (MenuRow(tr("Also end all networks"), _NETWORKS),)
    )
    names = ", ".join(lockdown.open_networks)
    uncut = (MenuRow(_text(tr("Not cut: network of {names}", names=names))),)
    return (
        MenuRow(tr("Lift the lockdown"), LockdownRequest(begin=False)),
        *(uncut if names else ()),
        *networks,
    )


_NETWORKS = LockdownRequest(begin=True, networks=True)


def _rate(bytes_a_second: float) -> str:
    for unit in ("B/s", "KiB/s", "MiB/s"):
        if bytes_a_second < 1024:
            return f"{bytes_a_second:.0f} {unit}"
        bytes_a_second /= 1024
    return f"{bytes_a_second:.1f} GiB/s"


def summary(now: TrayState) -> str:
    """Return the text of the tool tip: one line for each fact."""
    if not now.reachable:
        return tr("no broker is running")
    lines = []
    if now.lockdown.locked:
        lines.append(in_users_language(lockdown_lines(now.lockdown)[0]))
    if now.questions:
        asked = len(now.questions)
        lines.append(
            trn("{number} question is pending", "{number} questions are pending", asked)
        )
    lines += [tr("{name} records your microphone", name=name) for name in now.listening]
    awake = [one.name for one in now.sandboxes if keeps_screen_on(one)]
    lines += [tr("{name} keeps the screen on", name=name) for name in awake]
    lines += now.seeing
    count = len(now.sandboxes)
    lines.append(
        trn("{number} sandbox", "{number} sandboxes", count)
        if count
        else tr("no sandboxes")
    )
    return "\n".join(lines)
