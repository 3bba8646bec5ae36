"""Query the broker for the panel's state after each event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from broker.cli.run.connect import open_client
from broker.cli.run.follow_broker import BrokerFollower
from broker.cli.tray.menu_rows import (
    INHIBITORS,
    Click,
    Leave,
    OpenManager,
    TrayState,
)
from broker.core.errors import RefusedError
from broker.core.parts.absent import is_installed, needed
from broker.core.paths import Paths
from broker.ipc.control import methods
from broker.ipc.control.api import (
    DeviceDetachRequest,
    FolderStatus,
    FolderUnshareRequest,
    LockdownRequest,
    Nothing,
    PendingQuestion,
    QuestionAnswerRequest,
    SoundRequest,
    SoundStatus,
    StopRequest,
)
from broker.ipc.control.client import Client

_BUSY_SECONDS = 5.0
"""Between two looks at rates while a sandbox runs; its other changes are events."""

Show = Callable[[TrayState], Awaitable[None]]


async def watch(paths: Paths, show: Show) -> None:
    """Call ``show`` with each new state, until cancelled."""
    await BrokerFollower(paths, read_state, _absent, show, patience=_patience).run()


async def _absent() -> TrayState:
    await trio.lowlevel.checkpoint()
    return TrayState()


def _patience(now: TrayState) -> float:
    # That a film begins or ends is not an event.
    busy = any(
        one.network
        or one.devices
        or any(limit.what == INHIBITORS for limit in one.limits)
        for one in now.sandboxes
    )
    return _BUSY_SECONDS if busy else float("inf")


async def read_state(asked: Client) -> TrayState:
    """Return the panel's state; queries the broker.

    Raises the broker's RefusedError, or UpstreamError if it has ended.
    """
    status = await asked.call(methods.STATUS, Nothing())
    lockdown = await asked.call(methods.LOCKDOWN, LockdownRequest())
    questions: list[PendingQuestion] = []
    folders: list[FolderStatus] = []
    sound: list[SoundStatus] = []
    with suppress(RefusedError):  # a host has no dialogs, no folders and no sound
        questions = (await asked.call(methods.PENDING, Nothing())).questions
        folders = (await asked.call(methods.FOLDERS, Nothing())).folders
        sound = (await asked.call(methods.SOUND, SoundRequest())).sandboxes
    return TrayState(
        reachable=True,
        sandboxes=tuple(sorted(status.sandboxes, key=lambda one: one.name)),
        questions=tuple(questions),
        sound=tuple(sound),
        folders=tuple(folders),
        lockdown=lockdown,
        manager=is_installed("manager"),
        warnings=len(status.warnings) + len(status.policy.problems),
    )


async def carry_out(paths: Paths, click: Click) -> None:
    """Send the request of a click.  Raises the broker's refusal."""
    async with open_client(paths) as asked:
        match click:
            case StopRequest():
                await asked.call(methods.STOP, click)
            case QuestionAnswerRequest():
                await asked.call(methods.ANSWER, click)
            case DeviceDetachRequest():
                await asked.call(methods.DEVICE_DETACH, click)
            case SoundRequest():
                await asked.call(methods.SOUND, click)
            case FolderUnshareRequest():
                await asked.call(methods.FOLDER_UNSHARE, click)
            case LockdownRequest():
                await asked.call(methods.LOCKDOWN, click)
            case OpenManager():
                with needed("the manager"):
                    from broker.cli.manager.verb_calls import start_manager
                start_manager(click.page)
            case Leave():
                raise ValueError(click)
