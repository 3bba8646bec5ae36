"""The viewer's part, wired: guests, their workers, and the compositor."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import trio

from broker.core.errors import SetupError, VitrailError
from broker.helpers.process.fork_client import StartServer
from broker.helpers.process.fork_handle import ForkServerHandle
from broker.host_and_viewer.host_folders import Host
from broker.host_and_viewer.measured_rows import Found
from broker.host_and_viewer.runtime import Runtime, fork_server_died
from broker.ipc.control.types.status_rows import ProcessStatus
from broker.ipc.session.display_orders import FIND_COMPOSITOR, FindCompositor
from broker.ipc.session.program_orders import (
    MEASURE_PROCESSES,
    PIDS,
    MeasureProcesses,
    decode_figures,
)
from broker.viewer.authority.interface import Authority
from broker.viewer.orders.session_orders import UserSession
from broker.viewer.role import ViewerRole
from broker.viewer.sandboxes.dependencies import GuestTools
from broker.viewer.settings_watch import SettingsWatch
from broker.viewer.sound.raw_audio import WARNING, is_raw
from broker.viewer.workers.pool import Workers, open_workers

_LOOK_SECONDS = 3.0


@asynccontextmanager
async def open_sandbox_workers(
    runtime: Runtime, keepers: ForkServerHandle, start: StartServer
) -> AsyncIterator[Workers]:
    """Own the workers of a viewer's sandboxes; they end before the runtime does."""
    allow_unjailed = runtime.options.allow_unjailed
    async with open_workers(keepers, start, allow_unjailed=allow_unjailed) as workers:
        workers.on_server_death = partial(fork_server_died, runtime.log)
        yield workers


def make_viewer(
    ground: Runtime,
    workers: Workers,
    authority: Authority,
    host: Host,
    session: UserSession,
) -> ViewerRole:
    """Create the viewer's role from its parts."""
    return ViewerRole(
        paths=ground.paths,
        tools=GuestTools(
            workers=workers,
            pump=ground.pump,
            log=ground.log,
            compositor=partial(_compositor, session),
            session=session,
            notify=authority.notify,
        ),
        log=ground.log,
        authority=authority,
        host=host,
    )


async def viewer_warnings(
    viewer: ViewerRole, settings: SettingsWatch, session: UserSession
) -> list[str]:
    """Return warnings about the guests and the desktop, for ``brokerctl status``."""
    warnings = [
        f"{guest.lease.sandbox}: {text}"
        for guest in viewer.guests()
        for text in guest.warnings
    ]
    warnings += [
        f"{guest.lease.sandbox}: {WARNING}"
        for guest in viewer.guests()
        if is_raw(viewer.record(guest.lease.record))
    ]
    warnings += [
        f"{sandbox}: no key combinations for the clipboard: {reason}"
        for sandbox, reason in viewer.clipboard.troubles()
    ]
    warnings += settings.warnings()
    # A status is shown, too, where the kernel lets no order through.
    with suppress(VitrailError), trio.move_on_after(_LOOK_SECONDS):
        if await _find_compositor(session) is None:
            no_windows = "so the broker cannot show windows"
            warnings.append(f"{_no_compositor()}, {no_windows}: {_remedy()}")
    return warnings


async def measure(
    session: UserSession, rows: Sequence[ProcessStatus], into: Found
) -> None:
    """Have a session child measure processes: a ``measured_rows.Measure``."""
    real = [row.pid for row in rows if 0 < row.pid < 1 << 31][:PIDS]
    said = bytearray()
    with suppress(VitrailError):
        async with session.carrying_out(
            MEASURE_PROCESSES, MeasureProcesses(real)
        ) as begun:
            try:
                async with trio.lowlevel.FdStream(*begun.fds) as stream:
                    async for data in stream:
                        said += data
            finally:  # a process that is slow to measure ends the wait
                lines = bytes(said[: said.rfind(b"\n") + 1])
                into.update((found.pid, found) for found in decode_figures(lines))


def _no_compositor() -> str:
    display = os.environ.get("WAYLAND_DISPLAY")
    return f"no compositor answers at {display or 'wayland-0'}"


def _remedy() -> str:
    """Return what to do: the broker's variable never changes, and may not be set."""
    restart = "to use your session's, run 'brokerctl restart' in it"
    if os.environ.get("WAYLAND_DISPLAY"):
        return f"it was WAYLAND_DISPLAY when the broker started; {restart}"
    return f"the only one in XDG_RUNTIME_DIR is used once it answers; {restart}"


async def _find_compositor(session: UserSession) -> Path | None:
    """Have a session child find the compositor's socket."""
    answer = await session.carry_out(FIND_COMPOSITOR, FindCompositor())
    path = answer.value.path
    return Path(os.fsdecode(path)) if path else None


async def _compositor(session: UserSession) -> Path:
    """Return the path of the user's compositor.  Raises SetupError without one."""
    found = await _find_compositor(session)
    if found is None:
        raise SetupError(_no_compositor(), hint=_remedy())
    return found
