"""Query the broker for the panel's state after each event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import trio

from broker.cli.run.connect import open_client
from broker.cli.sound import running_filters
from broker.cli.tray.ask_mixer import ask_desk
from broker.cli.tray.menu_rows import (
    INHIBITORS,
    Click,
    EndMicrophone,
    Leave,
    OpenManager,
    TrayState,
)
from broker.core.errors import RefusedError, VitrailError
from broker.core.parts.absent import is_installed, needed
from broker.core.paths import Paths
from broker.ipc.control import methods
from broker.ipc.control.api import (
    DeviceDetachRequest,
    EventItem,
    EventsRequest,
    FolderStatus,
    FolderUnshareRequest,
    LockdownRequest,
    Nothing,
    PendingQuestion,
    QuestionAnswerRequest,
    StopRequest,
)
from broker.ipc.control.client import Client
from broker.ipc.in_thread import in_thread
from broker.viewer.sound.mixer import MixerRequest, desks_folder

_BUSY_SECONDS = 5.0
"""Between two looks at rates while a sandbox runs; its other changes are events."""
_AGAIN_SECONDS = 5.0
"""Until a broker that has gone is looked for again."""
_TOGETHER_SECONDS = 0.2
"""Events within this time are one change."""

Show = Callable[[TrayState], Awaitable[None]]


async def watch(paths: Paths, show: Show) -> None:
    """Call ``show`` with each new state, until cancelled."""
    while True:
        # Those of a nursery are in a group, which contextlib.suppress passes on.
        try:
            await _while_it_runs(paths, show)
        except* (VitrailError, trio.BrokenResourceError):
            pass  # it has ended; it is looked for again
        await show(TrayState())
        await trio.sleep(_AGAIN_SECONDS)


async def _while_it_runs(paths: Paths, show: Show) -> None:
    """Show the broker's state at each change, until it ends."""
    changed = trio.Event()

    async def note(_item: EventItem) -> None:
        await trio.lowlevel.checkpoint()
        changed.set()

    async def follow() -> None:
        async with open_client(paths) as events:
            await events.call(methods.EVENTS, EventsRequest(), note)
        nursery.cancel_scope.cancel()

    async with (
        open_client(paths) as asked,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_quietly, follow, nursery.cancel_scope)
        while True:
            changed = trio.Event()
            now = await look(asked)
            await show(now)
            # That a film begins or ends is not an event.
            busy = any(
                one.network
                or one.devices
                or any(limit.what == INHIBITORS for limit in one.limits)
                for one in now.sandboxes
            )
            with trio.move_on_after(_BUSY_SECONDS if busy else float("inf")):
                await changed.wait()
                await trio.sleep(_TOGETHER_SECONDS)


async def _quietly(
    work: Callable[[], Awaitable[None]], scope: trio.CancelScope
) -> None:
    """Do work until the broker closes the connection, then cancel ``scope``."""
    with suppress(VitrailError):
        await work()
    scope.cancel()


async def look(asked: Client) -> TrayState:
    """Ask the broker once.  Raises its refusal, or UpstreamError if it has ended."""
    status = await asked.call(methods.STATUS, Nothing())
    lockdown = await asked.call(methods.LOCKDOWN, LockdownRequest())
    questions: list[PendingQuestion] = []
    folders: list[FolderStatus] = []
    with suppress(RefusedError):  # a host has no dialogs and no folders
        questions = (await asked.call(methods.PENDING, Nothing())).questions
        folders = (await asked.call(methods.FOLDERS, Nothing())).folders
    sound = await in_thread(running_filters)
    return TrayState(
        reachable=True,
        sandboxes=tuple(sorted(status.sandboxes, key=lambda one: one.name)),
        questions=tuple(questions),
        sound=tuple(sound.values()),
        folders=tuple(folders),
        lockdown=lockdown,
        manager=is_installed("manager"),
        warnings=len(status.warnings) + len(status.policy.problems),
    )


async def carry_out(paths: Paths, click: Click) -> None:
    """Send the request of a click.  Raises the broker's refusal."""
    if isinstance(click, EndMicrophone):
        mixer = desks_folder() / click.sandbox
        order = partial(ask_desk, mixer, MixerRequest(microphone=False))
        await in_thread(order)
        return
    async with open_client(paths) as asked:
        match click:
            case StopRequest():
                await asked.call(methods.STOP, click)
            case QuestionAnswerRequest():
                await asked.call(methods.ANSWER, click)
            case DeviceDetachRequest():
                await asked.call(methods.DEVICE_DETACH, click)
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
