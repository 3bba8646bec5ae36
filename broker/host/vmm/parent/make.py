"""Making a parent: boot a machine without identity, and save it.

Its process ends with ours: a parent is made in the background, and a parent that was
not finished is of no use.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import UpstreamError, VitrailError, sole
from broker.core.escape import printable
from broker.helpers.console_log import ConsoleLog
from broker.host.homes.sparse import copy_without_zeros
from broker.host.vmm.console_pump import pump_console
from broker.host.vmm.launcher import Tools
from broker.host.vmm.parent.arguments import ForkWiring, forkable_args
from broker.host.vmm.parent.parent_files import MEMORY, STATE
from broker.host.vmm.parent.parent_messages import FRAME_BYTES, GuestWords
from broker.host.vmm.qemu_arguments import VmSpec
from broker.host.vmm.qmp import Json, Qmp
from broker.host.vmm.vmm_jail import qemu_view, spawn_jailed
from broker.ipc.in_thread import in_thread

_BOOTED = "booted"
"""The memory as the machine wrote it."""
_CONSOLE = "console"
_CONSOLE_CHUNK = 4096
_TAIL = 600
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class ParentPlan:
    """The machine to boot: ``spec``, without its name; ``warm`` is run once in it.

    ``write_initrd`` is given a directory and returns the initramfs in it.
    """

    spec: VmSpec
    tools: Tools
    warm: Sequence[str]
    write_initrd: Callable[[Path], Path]
    background: bool = True
    """At the lowest priority: the user's own machines come first."""
    shared: bool = False
    """Machines share its memory."""


async def make_parent(plan: ParentPlan, room: Path) -> None:
    """Write ``memory`` and ``state`` into a prepared directory.

    Raises UpstreamError with the end of the console when the guest does not
    come up, SetupError without QEMU.
    """
    with ExitStack() as files, trio.move_on_after(limits.PARENT_MAKE_SECONDS) as late:
        try:
            await _make(plan, room, files)
            await in_thread(_leave_out_zeros, room)
        except (ExceptionGroup, VitrailError) as error:
            why = sole(error)
            raise UpstreamError(f"{why}; console: {_tail(room)}") from why
    if late.cancelled_caught:
        raise UpstreamError(
            f"the parent machine was not ready within {limits.PARENT_MAKE_SECONDS:g} s; console: {_tail(room)}"
        )
    for name in (_BOOTED, _CONSOLE, f"{_CONSOLE}.1", "initrd"):
        (room / name).unlink(missing_ok=True)


# A parent machine is ready when windows are possible. On a loaded machine waypipe once
# took longer than its deadline while a parent machine was made. The parent was saved
# all the same, with that failure in its memory, and every copy of it reported it: no
# window for a day. So the guest says `ready` only when programs can connect, and starts
# waypipe as often as that takes; only the launcher's deadline ends it.
async def _make(plan: ParentPlan, room: Path, files: ExitStack) -> None:
    """Boot the parent machine and save memory and state to ``room``."""
    memory = _create(room / _BOOTED, files)
    os.ftruncate(memory, plan.spec.memory_mib << 20)
    state = _create(room / STATE, files)
    console_ours, console_theirs = _pair(files)
    # guard: the console of a parent that is made has a bound
    console = ConsoleLog(room, name=_CONSOLE)
    files.callback(console.close)
    qmp_ours, qmp_theirs = _pair(files)
    port_ours, port_theirs = _pair(files)
    serial = [
        *("-chardev", f"socket,id=qmp,fd={qmp_theirs.fileno()}"),
        *("-chardev", f"socket,id=console,fd={console_theirs.fileno()}"),
    ]
    ends = (qmp_theirs, console_theirs, port_theirs)
    fds = [memory, *(end.fileno() for end in ends)]
    wiring = ForkWiring(memory, str(uuid.uuid4()), port_theirs.fileno(), serial)
    if plan.shared:
        # A port at whose other end is only silence: a parent has no stream.
        _, streams_theirs = _pair(files)
        fds.append(streams_theirs.fileno())
        wiring = replace(wiring, streams_fd=streams_theirs.fileno())
    spec = replace(plan.spec, initrd=plan.write_initrd(room))
    words = forkable_args(spec, plan.tools.vmm, plan.tools.accel, wiring, plan.warm)
    view = qemu_view(spec, plan.tools.vmm, plan.tools.accel)
    view = replace(view, proc=True, background=plan.background)
    unjailed = _nothing if plan.tools.allow_unjailed else None
    child = await spawn_jailed("QEMU", words, view, pass_fds=fds, unjailed=unjailed)
    try:
        for end in ends:
            end.close()
        async with trio.open_nursery() as nursery:
            # A separate descriptor: the console's end is read below.
            nursery.start_soon(pump_console, _stream(console_ours.dup()), console)
            qmp = Qmp(_stream(qmp_ours))
            await qmp.negotiate()
            nursery.start_soon(_serve, qmp)
            await qmp.execute("cont")
            await hear(port_ours, GuestWords("ready"))
            await _save(qmp, state)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await child.end(0)
            child.close()
        # Its last output may say why it ended; a socket holds little.
        with suppress(OSError):
            while untrusted_rest := console_ours.recv(_CONSOLE_CHUNK):
                console.write(untrusted_rest)


def _stream(sock: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


def _leave_out_zeros(room: Path) -> None:
    """Write ``MEMORY``: pages of zeros become holes, which no copy has in memory."""
    with (room / _BOOTED).open("rb") as booted, (room / MEMORY).open("xb") as memory:
        copy_without_zeros(booted.fileno(), memory.fileno())


def _nothing(_reason: str) -> None:
    """The user is warned of a missing jail by each machine of their own."""


async def _serve(qmp: Qmp) -> None:
    try:
        await qmp.run()
    except UpstreamError:
        return  # its commands fail, and say so


async def hear(port: socket.socket, words: GuestWords) -> None:
    """Read from a port until every expected message was received.

    Raises PeerError for anything else, UpstreamError when the machine ends.
    """
    stream = trio.socket.from_stdlib_socket(port)
    while not words.complete:
        untrusted_data = await stream.recv(FRAME_BYTES)
        if not untrusted_data:
            raise UpstreamError("the parent machine ended before it was ready")
        words.feed(untrusted_data)


async def _save(qmp: Qmp, state: int) -> None:
    """Stop the machine and write its devices' state; its memory is a file already."""
    await qmp.execute("stop")
    await ignore_shared(qmp)
    # Unlike the incoming side, this one takes no number: only a name in QMP.
    await qmp.execute("getfd", {"fdname": "state"}, fds=(state,))
    await qmp.execute("migrate", {"uri": "fd:state"})
    while True:
        answer = await qmp.execute("query-migrate")
        status = answer.get("status") if isinstance(answer, dict) else None
        if status == "completed":
            return
        if status in {"failed", "cancelled"}:
            raise UpstreamError("QEMU could not save the parent's state")
        await trio.sleep(_POLL_SECONDS)


async def ignore_shared(qmp: Qmp) -> None:
    """Leave the memory out of the state; see QEMU's ``docs/system/vm-templating``."""
    wanted: list[Json] = [{"capability": "x-ignore-shared", "state": True}]
    await qmp.execute("migrate-set-capabilities", {"capabilities": wanted})


def _create(path: Path, files: ExitStack) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    files.callback(os.close, fd)
    return fd


def _pair(files: ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    files.callback(ours.close)
    files.callback(theirs.close)
    ours.settimeout(0)
    return ours, theirs


def _tail(room: Path) -> str:
    """Return the console's end, for an error."""
    try:
        with (room / _CONSOLE).open("rb") as file:
            # The guest wrote it, and as much as it liked.
            # guard: of a parent's console the end is read
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            data = file.read(_TAIL)
    except OSError:
        return ""
    return printable(data.strip(), _TAIL)
