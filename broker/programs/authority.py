"""The authority's process: it decides and records, and serves the control socket.

Forked by the broker's first process while there is neither trio nor a thread, and
before that one imports anything of host or viewer: so this process has no code of
theirs.  It ends when its channel does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import trio

from broker.authority.audit.log_checkpoints import LogCheckpoints
from broker.authority.channel.event_rights import EventRights
from broker.authority.channel.frame_link import FrameLink
from broker.authority.channel.served_client import ClientChannel, ServeControl
from broker.authority.control.handlers import LogControl
from broker.authority.control.server import serve
from broker.authority.decisions.question_control import QuestionControl
from broker.authority.log_runtime import LogRuntime, open_log_runtime
from broker.authority.options import AuthorityHandle, Options
from broker.authority.parts import AuthorityParts, make_authority
from broker.core.authority_report import AuthorityReport
from broker.core.errors import (
    InternalError,
    PeerError,
    SetupError,
    VitrailError,
    sole,
)
from broker.core.limits import authority as authority_limits
from broker.core.paths import find_paths
from broker.core.stderr_log import log_stderr
from broker.helpers.process.hardening import harden_authority
from broker.helpers.process.process_name import set_name
from broker.ipc import authority as m
from broker.ipc import event_loop
from broker.ipc.audit import schema
from broker.ipc.control.dispatch import Dispatcher, Forward
from broker.ipc.control.forward import Forwarder
from broker.ipc.control.methods import Owner
from broker.net.peers.control_peers import why_not_served

_LAST_SECONDS = 5.0
"""For the last message to a client that may not read it."""


@dataclass(frozen=True)
class _Client:
    """The broker's other process: the authority's ends, and its pid."""

    requests: socket.socket
    calls: socket.socket
    """The calls of the control socket that it answers."""
    pid: int


def start_authority(role: str, options: Options) -> AuthorityHandle:
    """Fork the authority; call it before trio starts.

    Raises SetupError when the process cannot be started.
    """
    parent = os.getpid()
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2)]
    (ours, theirs), (control, calls) = pairs
    try:
        pid = os.fork()
    except OSError as error:
        for end in (ours, theirs, control, calls):
            end.close()
        raise SetupError(
            f"the authority's process cannot be started: {error.strerror}",
            hint="raise the limit on processes ('ulimit -u')",
        ) from error
    if pid == 0:
        ours.close()
        control.close()
        _become_authority(_Client(theirs, calls, parent), role, options)
    theirs.close()
    calls.close()
    return AuthorityHandle(ours, control, pid, os.pidfd_open(pid))


def _become_authority(client: _Client, role: str, options: Options) -> NoReturn:
    """Never returns and never unwinds into the parent's code."""
    code = 70  # EX_SOFTWARE, if not even the traceback below comes to be
    try:
        _prepare(options)
        event_loop.run(_run, client, role, options)
        code = 0
    except BaseException:  # noqa: BLE001 -- reported, and the process ends
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def _prepare(options: Options) -> None:
    """Let go of what the fork inherited; the broker decides when this ends."""
    with open(os.devnull, "r+b", buffering=0) as null:  # noqa: PTH123 -- a descriptor is wanted
        os.dup2(null.fileno(), 0)
    if "link" in options.sockets:
        options.sockets["link"].close()
    # A terminal and a service manager signal every process of a broker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_name("vitrail-author")  # fifteen characters at most
    harden_authority()


async def _run(client: _Client, role: str, options: Options) -> None:
    """Serve the channel to its end.  A failed start is the client's to report."""
    link = FrameLink(
        client.requests,
        receive_limit=authority_limits.AUTHORITY_REQUEST_BYTES,
        waiting=authority_limits.AUTHORITY_WAITING_BYTES,
    )
    try:
        await _serve(link, client, role, options)
    except (VitrailError, ExceptionGroup) as group:
        error = sole(group)
        if not isinstance(error, VitrailError):
            raise
        await _last(link, m.failed(0, error))


async def _serve(link: FrameLink, client: _Client, role: str, options: Options) -> None:
    async with open_log_runtime(role, options, client.pid) as log:
        parts = make_authority(options.paths, log, role)
        stop: m.Stop | None = None
        async with trio.open_nursery() as nursery:
            await nursery.start(parts.run)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(client.calls))
            forward = Forwarder("other process", stream)
            await nursery.start(forward.run)
            api = _control(role, parts, forward)
            control = partial(nursery.start, _serve_control, api, options)
            stop = await _attend(link, role, client.pid, parts, control)
            # The answer to "shutdown" may still be on its way through here.
            with trio.move_on_after(_LAST_SECONDS):
                await forward.ended.wait()
            nursery.cancel_scope.cancel()
    await _last(link, m.AuthorityDone(stop.request))


async def _attend(
    link: FrameLink, role: str, pid: int, parts: AuthorityParts, control: ServeControl
) -> m.Stop:
    """Serve the client.  Raises InternalError when it ends without a word."""
    journal, namer = parts.log.journal, parts.log.store.namer

    def report() -> AuthorityReport:
        return parts.report(os.getpid())

    channel = ClientChannel(
        link,
        authority=parts.authority,
        log=journal,
        rights=EventRights(role),
        report=report,
        serve_control=control,
        checkpoints=None
        if role == "local"
        else LogCheckpoints(parts.log.store, parts.log.sealing),
    )
    channel.put(m.Welcome(os.getpid(), namer.key, namer.clipboard_digest))
    try:
        stop = await channel.serve()
    except (PeerError, ExceptionGroup) as group:
        error = sole(group)
        if not isinstance(error, PeerError):
            raise
        await _note_end(parts.log, pid, f"it broke the protocol: {error}")
        raise InternalError(f"the broker's process: {error}") from error
    if stop is None:
        await _note_end(parts.log, pid, "it ended without having been asked to")
        raise InternalError("the broker's process has ended")
    return stop


async def _note_end(log: LogRuntime, pid: int, reason: str) -> None:
    log_stderr(f"vitrail: the authority ends with the broker's process: {reason}")
    await log.journal.note(
        schema.ProcessDied(process=schema.Process.BROKER, pid=pid, reason=reason)
    )


def _control(role: str, parts: AuthorityParts, forward: Forward) -> Dispatcher:
    """Return what answers 'brokerctl': this process, or else the other one."""
    own: list[object] = [LogControl(parts.log.retention.prune)]
    if role != "host":
        own.append(QuestionControl(parts.questions, parts.authority.decider))
    return Dispatcher(role, own, forwards=dict.fromkeys(Owner, forward))


async def _serve_control(
    api: Dispatcher, options: Options, *, task_status: trio.TaskStatus[None]
) -> None:
    """Serve the control socket until cancelled."""
    await serve(
        options.paths.control,
        api,
        activated=options.sockets.get("control"),
        refuse=why_not_served,
        task_status=task_status,
    )


async def _last(link: FrameLink, message: m.FromAuthority) -> None:
    """Send the last message, to a client that may have gone."""
    with contextlib.suppress(VitrailError), trio.move_on_after(_LAST_SECONDS):
        link.put(m.encode_from_authority(message))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            await link.wait_written()
            nursery.cancel_scope.cancel()
    link.close()


def main() -> None:
    """Entry point of a host's authority; ``programs.host`` has the arguments."""
    role, shipped, *numbers = sys.argv[1:]
    pid, requests, calls, starter, control = map(int, numbers)
    os.umask(0o077)
    options = Options(
        paths=find_paths(),
        starter=socket.socket(fileno=starter),
        shipped=Path(shipped) if shipped else None,
        sockets={} if control < 0 else {"control": socket.socket(fileno=control)},
    )
    client = _Client(socket.socket(fileno=requests), socket.socket(fileno=calls), pid)
    _become_authority(client, role, options)


if __name__ == "__main__":
    main()
