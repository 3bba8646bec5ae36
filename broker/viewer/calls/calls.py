"""``vitrail.Call``: a program of one sandbox calls a service of another one.

The request is read by the caller's worker and decided by rule; a program of the
target's agent then connects by a token, and the pump moves the bytes between the two
connections.  No process of Vitrail reads them: the programs at both ends frame their
stream themselves (``shims/files/calling.py``).
"""

from __future__ import annotations

import errno
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
)
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec
import trio

from broker.authority.permit import Permit, Request, request_of
from broker.core.errors import RefusedError, UpstreamError
from broker.core.lease import Opening
from broker.core.limits import transfer as limits
from broker.core.prompt_words import VIEWER
from broker.core.services import (
    CAMERA,
    NOTIFICATION,
    RESERVED,
    SCREEN_SHARE,
    SECRET,
    SETTINGS,
    SSH_AGENT,
    TCP,
    TRAY,
)
from broker.host_and_viewer.pump_supervisor import PumpSupervisor
from broker.ipc import transfer as messages
from broker.ipc.guest.file_requests import CallService, GuestCall
from broker.ipc.session.service_orders import StartService
from broker.viewer import camera, screens
from broker.viewer.calls.box_calls import is_box, joined_in_box
from broker.viewer.calls.desktop_services import DesktopServices
from broker.viewer.calls.places import CallPlaces
from broker.viewer.calls.tcp_ports import take_port, user_port
from broker.viewer.exchange.failures import ShareableError, shareable_failures
from broker.viewer.exchange.guest_connection import GuestConnection, Meeting
from broker.viewer.hung_up import when_hung_up
from broker.viewer.looks import Setting, fixed_settings
from broker.viewer.pipewire_video import VideoUses
from broker.viewer.sandboxes.programs import LeaseProgram, wait_unless_ended
from broker.viewer.ssh.ssh_agents import SandboxAgent
from broker.viewer.ssh.ssh_keys import SshKeys
from broker.viewer.transfer.targets import Targets
from policy.names import ADMIN_NAMES
from policy.records.model import CalledService, Record
from policy.services.fields import DEFAULT_CALLS

if TYPE_CHECKING:
    from broker.viewer.authority.interface import Permits
    from broker.viewer.sandboxes.guest import Guest

_OF_DESKTOP = frozenset({SETTINGS, NOTIFICATION, TRAY})
"""Services that only the desktop has."""
_VIDEO: Mapping[str, Mapping[str, tuple[int, int]]] = MappingProxyType(
    {CAMERA: camera.SIZES, SCREEN_SHARE: screens.SIZES}
)
"""Services of pictures, and the sizes that each has."""
OFFERED = "offered"
"""The argument that asks only whether a rule may allow it."""
_DAEMONS = 4
"""Of one sandbox and service: a daemon for each session bus of it."""
_OWN_WINDOWS = 1
"""That a sandbox shares at one time."""
_LINGER_SECONDS = 2.0
"""For the bytes that are on their way when the caller goes."""


@dataclass(frozen=True)
class _Call:
    """A call that is permitted."""

    exchange: GuestConnection
    ask: CallService
    conn: socket.socket
    permit: Permit

    @property
    def guest(self) -> Guest:
        """The caller."""
        return self.exchange.guest


class SandboxCalls:
    """All calls of one viewer's sandboxes."""

    def __init__(
        self,
        decider: Permits,
        targets: Targets,
        pump: PumpSupervisor,
        desktop: DesktopServices,
    ) -> None:
        self._decider = decider
        self._desktop = desktop
        self._places = CallPlaces()
        self._targets = targets
        self._pump = pump
        self._ssh_keys = SshKeys(
            decider, desktop.session, self._far_agent, self._places
        )

    async def call(
        self, exchange: GuestConnection, ask: CallService, conn: socket.socket
    ) -> None:
        """Decide a sandbox's call, and carry its stream to its end.

        Raises VitrailError.
        """
        if ask.service == SSH_AGENT:
            await self._ssh_keys.serve(exchange, ask.target)
            return
        request, lease = call_request(exchange.opening, ask), exchange.guest.lease
        if ask.service in _VIDEO and ask.argument.startswith(OFFERED):
            await self._offered(request)
            return
        if users := self._video_uses(ask):
            # guard: the user is not asked again about what was taken back
            users.check_ended(lease)
        on_ask = exchange.wait_for_user
        async with self._decider.permit(request, on_ask=on_ask) as permit:
            call = _Call(exchange, ask, conn, permit)
            if permit.target in {lease.sandbox, ""}:
                raise ShareableError("a sandbox cannot call itself")
            with shareable_failures(permit.target):
                if permit.target in ADMIN_NAMES:
                    await self._carry_to_desktop(call)
                    return
                async with self._target(permit, exchange) as target:
                    await self._carry(call, target)

    def _target(
        self, permit: Permit, exchange: GuestConnection
    ) -> AbstractAsyncContextManager[Guest]:
        """Return a context of the permit's target guest, which is started if needed."""
        source, start = exchange.guest.lease, permit.autostart
        wait = exchange.wait
        return self._targets.guest(permit.target, wait, source, autostart=start)

    def _video_uses(self, ask: CallService) -> VideoUses | None:
        """Return the uses of a camera or screen that a call is for; None for others.

        A window of the sandbox itself is not the user's.
        """
        if ask.service == CAMERA:
            return self._desktop.cameras
        if ask.service == SCREEN_SHARE and ask.argument != screens.OWN:
            return self._desktop.screens
        return None

    async def _offered(self, request: Request) -> None:
        """Raise RefusedError unless a rule may allow it."""
        (answer,) = await self._decider.preview([request])
        if answer is None or answer.verdict == "deny":
            raise RefusedError(f"no rule for {request.service} allows the call")

    async def _carry_to_desktop(self, call: _Call) -> None:
        """Carry a call to a service of the user's desktop, to its end."""
        ask, source = call.ask, call.guest.lease.sandbox
        if call.permit.user is not None:
            raise ShareableError(
                f"{call.permit.where}: the desktop does not support user="
            )
        if ask.service == TCP:
            port, warrant = take_port(ask.argument), call.permit.warrant
            with await user_port(self._desktop.session, warrant, port) as far:
                await self._relay(call, far)
            return
        if ask.service == SECRET:
            record, warrant = call.guest.lease.record, call.permit.warrant
            reading = self._desktop.secrets.reading(record, warrant, ask.argument)
            async with reading as far:
                await self._relay(call, far)
            return
        if ask.service == SETTINGS:
            # A separate place, which no other caller can take.
            own = call.guest.lease.id
            with self._places.one(own, SETTINGS, 2 * _DAEMONS, source):

                def fixed() -> Mapping[tuple[str, str], Setting]:
                    return fixed_settings(call.guest.valid_record().viewer.looks)

                async with self._desktop.settings.serving(fixed) as far:
                    await self._relay(call, far)
            return
        if ask.service == SCREEN_SHARE and ask.argument == screens.OWN:
            own = call.guest.lease.id
            # guard: a sandbox shares few of its windows at a time
            with self._places.one(own, SCREEN_SHARE, 2 * _OWN_WINDOWS, source):
                # It has what its programs have drawn, and nothing of the user's.
                number, lease = call.exchange.stream, call.guest.lease
                serve = partial(
                    call.guest.order, messages.TransferServe(number, "window")
                )
                await self._desktop.screens.share_own(lease, number, serve)
            return
        if users := self._video_uses(ask):
            colour = call.guest.valid_record().viewer.label.colour
            carry, size = partial(self._relay, call), _VIDEO[ask.service][ask.argument]
            await users.serve(call.permit, size, carry, colour)
            return
        if daemon := self._desktop.daemons.get(ask.service):
            own = call.guest.lease.id
            # guard: daemons of a sandbox are few
            with self._places.one(own, ask.service, 2 * _DAEMONS, source):
                await daemon(call.exchange, call.permit.request)
            return
        order = StartService(ask.service, ask.argument)
        caller = call.guest.lease.record
        serving = self._desktop.serving
        async with serving(order, call.permit, self._places, caller) as far:
            await self._relay(call, far)

    async def _carry(self, call: _Call, target: Guest) -> None:
        """Carry a call to a service of another sandbox, to its end."""
        source, ask = call.guest, call.ask
        named = _named(target.valid_record(), ask.service)
        asked = GuestCall(
            source.lease.sandbox,
            ask.service,
            ask.argument,
            named.command,
            named.working_directory,
        )
        user = call.permit.user or named.user
        places = _places_of_calls(target)
        place, caller = self._places.one, source.lease.record
        with (
            place(target.lease.id, "", places, caller),
            place(target.lease.id, ask.service, named.concurrent, caller),
        ):
            async with self.served(target, asked, user) as far:
                await self._relay(call, far)

    @asynccontextmanager
    async def served(
        self, target: Guest, asked: GuestCall, user: str = ""
    ) -> AsyncIterator[socket.socket]:
        """Have a program of a sandbox serve a call; yield its connection.

        ``user``: of the guest; empty: its programs' one.  Raises VitrailError.
        """
        async with self._met(target, asked, user) as meeting:
            if meeting.far is None:
                raise UpstreamError(
                    f"no program of {target.lease.sandbox} accepted the call"
                )
            yield meeting.far

    @asynccontextmanager
    async def _far_agent(
        self, permit: Permit, exchange: GuestConnection
    ) -> AsyncIterator[SandboxAgent]:
        """Have a program of a sandbox connect to its ssh agent; yield the agent.

        Raises VitrailError.
        """
        async with self._target(permit, exchange) as target:
            source = exchange.guest.lease
            asked = GuestCall(source.sandbox, SSH_AGENT, "")
            places = _places_of_calls(target)
            with self._places.one(target.lease.id, "", places, source.record):
                async with self._met(target, asked, permit.user or "") as meeting:
                    if meeting.exchange is None:
                        raise UpstreamError(
                            f"no program of {target.lease.sandbox} accepted the call"
                        )
                    yield SandboxAgent(meeting.exchange)

    @asynccontextmanager
    async def _met(
        self, target: Guest, asked: GuestCall, user: str
    ) -> AsyncIterator[Meeting]:
        """Have a program of the target join a call.

        Yield the call with its connection.
        """
        token, full = secrets.token_hex(16), f"{asked.service}+{asked.argument}"
        meeting = Meeting(asked)
        with target.transfers.calls.one(token, meeting):
            if is_box(target):
                async with joined_in_box(target, token, user, meeting.arrived):
                    yield meeting
                return
            words = ["vitrail-files", "serve", token, user, full]
            program = await target.start_program(words, {}, display=False)
            try:
                await _joined(target, program, meeting)
                yield meeting
            except BaseException:
                # It may not see the stream's end, after bytes that it does not read.
                with trio.move_on_after(_LINGER_SECONDS, shield=True):
                    await target.signal(program, signal.SIGTERM)
                raise

    async def _relay(self, call: _Call, far: socket.socket) -> None:
        """Answer the caller, and move the bytes until both ends have closed."""
        exchange = call.exchange
        await call.guest.order(messages.TransferLeave(exchange.stream))
        # No byte of a call moves before the worker has left.
        await exchange.passed()
        max_bytes, over = call.permit.max_size or 0, trio.Event()
        async with trio.open_nursery() as nursery:

            def gone() -> None:
                # The last bytes are on their way.
                nursery.cancel_scope.deadline = trio.current_time() + _LINGER_SECONDS

            # A caller never closes one way, but to a port: the end of its data is a frame.
            # guard: a call ends with its caller
            nursery.start_soon(
                partial(
                    when_hung_up,
                    call.conn,
                    over,
                    gone,
                    sending=call.ask.service != TCP,
                )
            )
            try:
                ours, theirs = both_again(call.conn, far)
                end = await self._pump.relay(
                    ours, theirs, name=str(exchange.stream), max_bytes=max_bytes
                )
            finally:
                over.set()
        if nursery.cancel_scope.cancelled_caught:
            raise ShareableError("the caller closed the connection")
        exchange.relayed = end.bytes_ab, end.bytes_ba
        if end.errno == errno.EFBIG:
            raise ShareableError(
                f"the call exceeded the {max_bytes} bytes that {call.permit.where} allows"
            )

    async def join(
        self, exchange: GuestConnection, untrusted_token: str, conn: socket.socket
    ) -> None:
        """Connect a program of the target to its caller; return at the call's end."""
        guest = exchange.guest
        meeting = guest.transfers.calls.take(untrusted_token)
        if meeting.service.service == SSH_AGENT:
            await guest.order(
                messages.TransferServe(exchange.stream, "agent", meeting.service)
            )
            meeting.exchange = exchange
            meeting.arrived.set()
            await meeting.over.wait()
            return
        order = messages.TransferLeave(exchange.stream, meeting.service)
        await guest.order(order)
        await exchange.passed()
        meeting.far = conn
        meeting.arrived.set()
        await meeting.over.wait()


def _places_of_calls(target: Guest) -> int:
    """Return how many of a sandbox's programs may serve calls at one time."""
    # guard: calls leave room for the target's own programs
    return max(target.valid_record().viewer.limits.programs // 2, 1)


async def _joined(target: Guest, program: LeaseProgram, meeting: Meeting) -> None:
    """Wait for the connection of the program that serves a call."""
    with trio.move_on_after(limits.TRANSFER_TAKE_SECONDS):
        await wait_unless_ended(program, meeting.arrived)
    if not meeting.arrived.is_set():
        raise UpstreamError(f"no program of {target.lease.sandbox} accepted the call")


def call_request(opening: Opening, ask: CallService) -> Request:
    """Return the permit request for a call.  Raises RefusedError for a reserved name.

    A name with a dot is its service with its argument, as in Qubes, so that rules
    written for Qubes mean the same; any other is the argument of ``vitrail.Call``.
    """
    if ask.service in _VIDEO:
        return _video_request(opening, ask)
    request = replace(request_of(opening, ask.service), target=ask.target)
    if ask.service in _OF_DESKTOP:
        if ask.argument or ask.target not in {"", *ADMIN_NAMES}:
            raise RefusedError(f"only dom0 serves {ask.service}, without an argument")
        counts = ask.service == SETTINGS
        return replace(request, target=VIEWER, settled=True, counts_bytes=counts)
    argument, name = f"+{ask.argument}", ask.argument
    if ask.service == TCP:
        return replace(request, argument=f"+{take_port(ask.argument)}")
    if ask.service == SECRET:
        if not name:
            raise RefusedError(
                "the call does not name a secret",
                hint="run 'vitrail-call vitrail.Secret NAME'",
            )
        return replace(request, argument=argument)
    # guard: a call is not a service of the broker's
    if ask.service.lower().startswith(RESERVED):
        raise RefusedError(
            f"'{ask.service}' cannot be called: names that begin with 'vitrail.' are reserved"
        )
    if "." in ask.service:
        return replace(request, argument=argument)
    argument = f"+{ask.service}" + (argument if name else "")
    return replace(request, service=opening.service, argument=argument)


def own_call(record: Record, service: str, argument: str) -> list[str]:
    """Return the command that serves the user's own call in a guest.

    Raises RefusedError for what is not the name or the argument of a service.
    """
    try:
        ask = msgspec.convert({"service": service, "argument": argument}, CallService)
    except msgspec.ValidationError as error:
        raise RefusedError(
            f"invalid service name or argument '{service}' '{argument}': they have up to "
            "64 letters, digits and . _ -, an argument also +; neither begins with '-'"
        ) from error
    named = _named(record, ask.service)
    full = f"{ask.service}+{ask.argument}"
    words = ["vitrail-files", "call-here", "", named.user, full]
    return [*words, named.working_directory, *named.command]


def both_again(near: socket.socket, far: socket.socket) -> tuple[int, int]:
    """Duplicate both sockets for the pump, which closes the duplicates.

    Raises ShareableError where the far end has been closed, or where there is no room.
    """
    try:
        with near.dup() as ours, far.dup() as theirs:
            return ours.detach(), theirs.detach()
    except OSError as error:
        raise ShareableError("the service is no longer running") from error


def _named(record: Record, service: str) -> CalledService:
    """Return a service as the record has it; without a command: a file of the guest."""
    services = record.viewer.services
    named = next((one for one in services if one.name == service), None)
    return named or CalledService(service, (), "", "", DEFAULT_CALLS)


def _video_request(opening: Opening, ask: CallService) -> Request:
    """Return the permit request for camera or screen pictures.  Raises RefusedError."""
    sizes = _VIDEO[ask.service]
    known = {*sizes, OFFERED}
    if ask.service == SCREEN_SHARE:
        known |= {screens.OWN, OFFERED + screens.OWN}
    own = ask.argument.endswith(screens.OWN)
    # guard: the user says yes to each share of a screen
    asks = ask.service == SCREEN_SHARE and not own
    # guard: we choose the size of the camera's pictures
    if ask.argument not in known or ask.target not in {"", *ADMIN_NAMES}:
        raise RefusedError(
            f"only dom0 serves {ask.service}, with the argument {' or '.join(sizes)}"
        )
    return replace(
        request_of(opening, ask.service),
        argument=f"+{screens.OWN}" if own else "+",
        settled=True,
        asks=asks,
        counts_bytes=not own,
    )
