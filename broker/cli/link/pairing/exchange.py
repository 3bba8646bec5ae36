"""Run a pairing over a connection, with codes that the user types."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Awaitable, Callable

import trio

from broker.cli.link.pairing.protocol import Pairing
from broker.core.errors import InternalError, RefusedError, UpstreamError
from broker.core.limits import link as limits
from broker.core.services import PAIRING_PORT
from broker.net.addresses import Endpoint, HybridEndpoint, UnixEndpoint, VsockEndpoint
from broker.net.link.keys import BrokerIdentity, PublicKey
from broker.net.link.wire_types import LinkRefusedError, Role
from broker.net.link_service.config import LinkConfig
from broker.net.link_service.sockets import describe_far_end, dial, receive, send_all
from broker.net.listeners import Listener

Show = Callable[[str, str], None]
"""(our code, the other end's fingerprint) for the user to read."""
Ask = Callable[[], Awaitable[str]]
"""Returns the user's input: the code on the other screen."""


class NoCodeError(UpstreamError):
    """The pairing ended before this end sent its nonce."""


def pairing_endpoint(link: Endpoint) -> Endpoint:
    """Return the endpoint of the pairing, which differs from the link's."""
    match link:
        case VsockEndpoint():
            return VsockEndpoint(link.cid, PAIRING_PORT)
        case HybridEndpoint():
            return HybridEndpoint(link.path, PAIRING_PORT)
        case UnixEndpoint():
            return UnixEndpoint(link.path.with_name(f"{link.path.name}.pair"))


async def knock(config: LinkConfig) -> socket.socket:
    """Connect to the viewer's machine, as the host's part.

    Raises UpstreamError or SetupError.
    """
    try:
        return await dial(config)
    except UpstreamError as error:
        raise UpstreamError(
            f"cannot connect to 'brokerctl pair' on the viewer's machine: {error}",
            hint="run 'brokerctl pair NAME --as viewer' there first, then run this "
            "command again",
        ) from error


async def let_in(
    listener: Listener, config: LinkConfig, turned_away: Callable[[RefusedError], None]
) -> socket.socket:
    """Accept the next connection of the host's machine, as the viewer's part.

    Whom the kernel does not name as the configured peer is turned away, and
    the next one waited for; ``turned_away`` hears why.  Raises UpstreamError.
    """
    while True:
        conn = await listener.accept()
        try:
            describe_far_end(conn, config)
        except OSError:
            conn.close()  # it has gone already
        except RefusedError as error:
            conn.close()
            turned_away(error)
        else:
            return conn


async def pair(
    sock: socket.socket, *, role: Role, identity: BrokerIdentity, show: Show, ask: Ask
) -> PublicKey:
    """Run a pairing; returns the key to pin.  Owns the socket.

    Raises LinkRefusedError (a wrong code, a broken protocol; nothing is
    paired then), NoCodeError or UpstreamError.
    """
    machine = Pairing(
        role=role,
        dials=role is Role.HOST,
        identity=identity,
        random=secrets.token_bytes,
    )
    with sock:
        try:
            with trio.fail_after(limits.LINK_PAIRING_SECONDS):
                await _codes_soon(sock, machine)
                code, fingerprint = machine.code, machine.peer_fingerprint
                if code is None or fingerprint is None:
                    raise InternalError("the pairing has no codes")
                show(code, fingerprint)
                await _confirm(sock, machine, ask)
        except trio.TooSlowError as error:
            raise UpstreamError(
                "the pairing was not confirmed on both machines within "
                f"{limits.LINK_PAIRING_SECONDS:g} s",
                hint="start 'brokerctl pair' on both machines again",
            ) from error
    if machine.peer_key is None:
        raise InternalError("the finished pairing has no key")
    return machine.peer_key


async def _codes_soon(sock: socket.socket, machine: Pairing) -> None:
    """Exchange keys and nonces within a time limit."""
    try:
        with trio.fail_after(limits.LINK_HANDSHAKE_SECONDS):
            await _codes(sock, machine)
    except trio.TooSlowError as error:
        seconds = limits.LINK_HANDSHAKE_SECONDS
        text = f"the other end did not send its code within {seconds:g} s"
        raise _no_code(machine, text) from error
    except (LinkRefusedError, UpstreamError) as error:
        hint = error.hint or "see the output of 'brokerctl pair' on the other machine"
        raise _no_code(machine, error.message, hint) from error


def _no_code(machine: Pairing, text: str, hint: str = "") -> UpstreamError:
    """Return the error for a pairing that ended before its codes were known."""
    # A far end that has our nonce knows both codes.  It could end the connection and
    # connect again until the code is the one for which the other screen waits.
    # guard: one nonce is shown in a run of pairing
    if machine.nonce_sent:
        return UpstreamError(
            f"the pairing ended before its codes were known: {text}",
            hint="start 'brokerctl pair' on both machines again; if it fails again, "
            "an attacker may control the connection",
        )
    return NoCodeError(text, hint=hint)


async def _codes(sock: socket.socket, machine: Pairing) -> None:
    """Exchange keys and nonces until both codes are known."""
    try:
        if machine.code is None and machine.dials:
            await send_all(sock, machine.start())
        while machine.code is None:
            await _take(sock, machine)
    except LinkRefusedError as error:
        await _tell(sock, error)
        raise


async def _confirm(sock: socket.socket, machine: Pairing, ask: Ask) -> None:
    """Exchange the confirmations of both users, in any order."""
    refused: list[LinkRefusedError | UpstreamError] = []

    async def listen(scope: trio.CancelScope) -> None:
        try:
            while not machine.confirmed_there:
                await _take(sock, machine)
        except (LinkRefusedError, UpstreamError) as error:
            refused.append(error)
            scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen, nursery.cancel_scope)
        typed = await ask()
        try:
            await send_all(sock, machine.confirm(typed))
        except (LinkRefusedError, UpstreamError) as error:
            refused.append(error)
            nursery.cancel_scope.cancel()
    if refused:
        if isinstance(refused[0], LinkRefusedError):
            await _tell(sock, refused[0])
        raise refused[0]


async def _take(sock: socket.socket, machine: Pairing) -> None:
    untrusted = await receive(sock)
    if not untrusted:
        machine.eof()
    await send_all(sock, machine.feed(untrusted))


async def _tell(sock: socket.socket, error: LinkRefusedError) -> None:
    """Send the other end a refusal, if there is one to send."""
    if error.answer:
        with trio.move_on_after(1):
            try:
                await send_all(sock, error.answer)
            except UpstreamError:
                return  # it has gone, and knows
