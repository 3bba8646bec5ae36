"""The authority's process: it decides and records, and serves the control socket.

A separate program, started by the broker's (``programs.start``), so it has no code of
host or viewer and they have none of it.  It ends when a channel of it does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec
import trio

from broker.authority.audit.log_checkpoints import LogCheckpoints
from broker.authority.channel.event_rights import EventRights
from broker.authority.channel.served_client import ClientChannel, ServeControl
from broker.authority.control.broker_record import (
    hold_runtime,
    record_of,
    remove_record,
    save_record,
)
from broker.authority.control.host_networks import HostNetworks
from broker.authority.control.log_control import EventsPart, LogControl, VersionPart
from broker.authority.control.server import serve
from broker.authority.decisions.question_control import QuestionControl
from broker.authority.log_runtime import open_log_runtime
from broker.authority.options import (
    ClientEnds,
    Options,
    client_roles,
)
from broker.authority.parts import AuthorityParts, make_authority
from broker.authority.reachable_files import keep_to_own_files
from broker.core.errors import (
    InternalError,
    PeerError,
    SetupError,
    VitrailError,
    sole,
)
from broker.core.files.path_errors import path_error
from broker.core.limits import authority as authority_limits
from broker.core.paths import find_paths
from broker.core.stderr_log import log_stderr
from broker.helpers.apart import read_compiled
from broker.helpers.apparmor import add_profile
from broker.helpers.process.hardening import harden_authority
from broker.helpers.process.memory import release_heap
from broker.helpers.process.process_name import run_and_exit, set_name
from broker.ipc import event_loop
from broker.ipc.audit import schema
from broker.ipc.audit.log_rows import (
    START_FAILED,
    STOPPED,
    WELCOME,
    StartFailed,
    Welcome,
)
from broker.ipc.authority import AUTHORITY_ROWS, QUESTION_WAITS
from broker.ipc.control.dispatch import Dispatcher, Forward
from broker.ipc.control.forwarder import Forwarder
from broker.ipc.control.method import Owner
from broker.ipc.control.methods import TABLE
from broker.ipc.control.varlink_service import describe_service
from broker.net.peers.control_peers import why_not_served
from broker.wire.call_messages import ErrorReport
from broker.wire.calls import Calls
from broker.wire.frame_carrier import Frames
from broker.wire.row import Empty, ProcessKind, Row

_Q = TypeVar("_Q", bound=msgspec.Struct)
_LAST_SECONDS = 5.0
"""For the last message to a client that may not read it."""


_Clients = Mapping[str, ClientEnds]
"""The authority's ends, by the clients' roles."""


def _become_authority(
    clients: _Clients, broker: int, role: str, options: Options, filters: int
) -> NoReturn:
    """Run the authority in a forked process, which ends without awaiting threads."""

    def work() -> int:
        try:
            _prepare(filters)
            event_loop.run(_run, clients, broker, role, options)
        except SetupError as error:
            # A broker that has ended, and with it who compiles the filter, has said why.
            if os.getppid() == broker:
                log_stderr(f"vitrail: cannot start the authority: {error}")
            return os.EX_SOFTWARE
        return 0

    run_and_exit(work)


def _prepare(filters: int) -> None:
    """Harden the authority's process; signals of a terminal do not end it."""
    # A service manager signals every process of a broker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_name("vitrail-author")  # fifteen characters at most
    [program] = read_compiled(filters)
    add_profile("authority")  # its filter lets it change nothing later
    harden_authority(program)


async def _run(clients: _Clients, broker: int, role: str, options: Options) -> None:
    """Serve the clients' channels to their end; report a failed start to them."""
    links = {
        name: Frames(
            client.requests,
            receive_bytes=authority_limits.AUTHORITY_REQUEST_BYTES,
            send_bytes=authority_limits.AUTHORITY_ANSWER_BYTES,
            waiting=authority_limits.AUTHORITY_WAITING_BYTES,
        )
        for name, client in clients.items()
    }
    last: dict[str, bytes] = {}
    try:
        for name in await _serve(links, clients, broker, role, options):
            last[name] = _notice(name, STOPPED, Empty())
    except (VitrailError, OSError, ExceptionGroup) as group:
        error = sole(group)
        # A directory of the user's that is not as it must be is no crash.
        found = path_error(error) if isinstance(error, OSError) else error
        if not isinstance(found, VitrailError):
            raise
        failed = StartFailed(ErrorReport.of(found))
        last |= {name: _notice(name, START_FAILED, failed) for name in links}
    for name, message in last.items():
        await _last(links[name], message)


async def _serve(
    links: Mapping[str, Frames],
    clients: _Clients,
    broker: int,
    role: str,
    options: Options,
) -> Sequence[str]:
    """Serve the clients and the log; return the names of those that await its close."""
    record = record_of(broker)  # a confined process cannot look at another one
    keep_to_own_files(options.paths, options.shipped)  # before the first thread
    async with open_log_runtime(role, options, broker) as log:
        parts = make_authority(options.paths, log, role)
        async with trio.open_nursery() as nursery:
            await nursery.start(parts.run)
            forwards: dict[str, Forwarder] = {}
            for name, client in clients.items():
                key = log.starter.key
                forwards[name] = Forwarder(ProcessKind(name), client.calls, key)
                await nursery.start(forwards[name].run)
            lockdown = parts.authority.lockdown
            networks = HostNetworks(forwards.get("host"), parts.authority.leases)
            lockdown.cut_networks = networks.cut
            api = _control(role, parts, forwards, options.paths.audit, broker)

            async def control() -> None:
                await nursery.start(_serve_control, api, options, broker)
                # After it listens: a second broker leaves the first one's.
                save_record(options.paths.state, record)
                hold_runtime(options.paths.runtime)
                await lockdown.take_kept()
                release_heap()

            attended = _Attended(links, role, broker, parts, control)
            last = await attended.run()
            # The answer to "shutdown" may still be on its way through here.
            with trio.move_on_after(_LAST_SECONDS):
                for forward in forwards.values():
                    await forward.ended.wait()
            nursery.cancel_scope.cancel()
        remove_record(options.paths.state, record)
    return last


class _Attended:
    """The clients, until each of them has taken leave."""

    def __init__(
        self,
        links: Mapping[str, Frames],
        role: str,
        broker: int,
        parts: AuthorityParts,
        control: ServeControl,
    ) -> None:
        """Set up the channels of the clients, by their names."""
        self._left = dict(links)
        self._broker = broker
        self._noted = False
        self._parts = parts
        linked = role != "local"
        checkpoints = LogCheckpoints(parts.log.store, parts.log.sealing)
        rights: dict[str, EventRights] = {}
        self._channels: dict[str, ClientChannel] = {}
        for name, link in links.items():  # a host precedes its viewer
            rights[name] = EventRights(name, linked=linked, host=rights.get("host"))
            self._channels[name] = ClientChannel(
                link,
                ProcessKind(name),
                authority=parts.authority,
                log=parts.log.journal,
                rights=rights[name],
                report=lambda: parts.report(os.getpid()),
                serve_control=control,
                raise_question=parts.questions.raise_dialog,
                key=parts.log.starter.key,
                checkpoints=checkpoints if linked else None,
            )
        if "viewer" in self._channels:
            viewer = self._channels["viewer"]
            parts.questions.waits = partial(viewer.put, QUESTION_WAITS)

    async def run(self) -> Sequence[str]:
        """Serve the channels of host and viewer until each has asked to stop.

        Returns the last one's name.  A channel that ends without that request is
        recorded in the audit log as ProcessDied; then raises InternalError.
        """
        last: list[str] = []
        async with trio.open_nursery() as nursery:
            for name in self._channels:
                nursery.start_soon(self._attend, name, last)
        return last

    async def _attend(self, name: str, last: list[str]) -> None:
        """Welcome and serve one client; answer its stop once the log permits."""
        namer = self._parts.log.store.namer
        welcome = Welcome(os.getpid(), namer.key, namer.clipboard_digest)
        self._channels[name].put(WELCOME, welcome)
        await self._served(name)
        link = self._left.pop(name)
        if self._left:
            await _last(link, _notice(name, STOPPED, Empty()))
        else:
            last.append(name)  # when the log is closed

    async def _served(self, name: str) -> None:
        """Serve a client's channel until it asks to stop.

        Raises InternalError, noted in the log, when it ends otherwise.
        """
        try:
            has_asked = await self._channels[name].serve()
        except (PeerError, ExceptionGroup) as group:
            error = sole(group)
            if not isinstance(error, PeerError):
                raise
            await self._note_end(name, f"its {name} broke the protocol: {error}")
            raise InternalError(f"the {name}'s process failed: {error}") from error
        if not has_asked:
            await self._note_end(name, f"its {name} ended without a request to stop")
            raise InternalError(f"the {name}'s process has ended")

    async def _note_end(self, name: str, reason: str) -> None:
        """Record in the audit log why the broker ends, and what has ended with it."""
        if self._noted:  # with one process, the others end
            await trio.sleep_forever()  # the first one's error ends this task
        self._noted = True
        log_stderr(f"vitrail: the authority ends with the broker's process: {reason}")
        journal = self._parts.log.journal
        await journal.note(
            schema.ProcessDied(
                process=schema.Process.BROKER, pid=self._broker, reason=reason
            )
        )
        for use in self._channels[name].uses.end():
            await journal.note(use)


def _control(
    role: str,
    parts: AuthorityParts,
    forwards: Mapping[str, Forward],
    log: Path,
    broker: int,
) -> Dispatcher:
    """Return the dispatcher: for each method, this process or its owner."""
    other = forwards.get("viewer") or forwards["host"]
    own: list[object] = [
        LogControl(parts.log.retention.prune),
        VersionPart(other, broker),
        parts.authority.lockdown,
    ]
    if role != "host":
        own.append(QuestionControl(parts.questions, parts.authority.decider))
        own.append(EventsPart(log))
    owners = {owner: forwards.get(owner.value, other) for owner in Owner}
    refuse = parts.authority.lockdown.refuse
    return Dispatcher(
        role, own, TABLE, forwards=owners, refuse=refuse, other=describe_service
    )


async def _serve_control(
    api: Dispatcher,
    options: Options,
    broker: int,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Serve the control socket for brokerctl until cancelled."""
    await serve(
        options.paths.control,
        api,
        activated=options.sockets.get("control"),
        refuse=partial(why_not_served, broker=broker),
        task_status=task_status,
    )


def _notice(name: str, row: Row[_Q, Empty], request: _Q) -> bytes:
    """Return the bytes of a notice to a client whose calls are not served."""
    calls = Calls(ProcessKind.AUTHORITY, ProcessKind(name), AUTHORITY_ROWS)
    return calls.notify(row, request)


async def _last(link: Frames, message: bytes) -> None:
    """Send the last message, to a client that may have gone."""
    with contextlib.suppress(VitrailError):
        link.put(message)
    await link.finish(_LAST_SECONDS)


def main() -> None:
    """Start the authority's process; ``programs.start`` has the arguments."""
    role, shipped, *numbers = sys.argv[1:]
    broker, starter, filters, control, *fds = map(int, numbers)
    os.umask(0o077)
    options = Options(
        paths=find_paths(),
        starter=socket.socket(fileno=starter),
        shipped=Path(shipped) if shipped else None,
        sockets={} if control < 0 else {"control": socket.socket(fileno=control)},
    )
    sockets = [socket.socket(fileno=fd) for fd in fds]
    clients = {
        name: ClientEnds(*sockets[2 * at : 2 * at + 2])
        for at, name in enumerate(client_roles(role))
    }
    _become_authority(clients, broker, role, options, filters)


if __name__ == "__main__":
    main()
