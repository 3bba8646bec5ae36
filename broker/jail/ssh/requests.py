"""Requests of a sandbox's ssh programs.

Sans-IO.  A request that is not one of ``core.ssh_agent`` fails as an agent's does that
cannot do it: keys are neither added nor removed nor locked, and no data is signed that
is not a login's or a content's in OpenSSH's form.
"""

from __future__ import annotations

import msgspec

from broker.core import ssh_agent as wire
from broker.core.errors import PeerError
from broker.core.ssh_agent import (
    AgentAsk,
    BindSession,
    ListKeys,
    SignContent,
    SignLogin,
    WireReader,
)


class NotPassedError(Exception):
    """A request that our agent does not do; the connection continues."""


def decode_request(untrusted_body: bytes) -> AgentAsk:
    """Decode a request to an ssh agent.

    Raises NotPassedError for a request that does not pass, PeerError for a broken one.
    """
    reader = WireReader(untrusted_body)
    kind = reader.byte()
    try:
        if kind == wire.LIST_REQUEST:
            reader.end()
            return ListKeys()
        if kind == wire.SIGN_REQUEST:
            return _checked(_sign(reader))
        if kind == wire.EXTENSION and reader.string() == wire.SESSION_BIND:
            return _checked(_bind(reader))
    except msgspec.ValidationError as error:
        raise NotPassedError(f"a field of the request is invalid: {error}") from error
    # guard: only list, sign and bind pass to an ssh agent
    raise NotPassedError(f"requests of type {kind} are not forwarded to an ssh agent")


def _checked(ask: AgentAsk) -> AgentAsk:
    """Return a request with its fields inside of their bounds."""
    fields = msgspec.to_builtins(ask, builtin_types=(bytes,))
    return msgspec.convert(fields, type(ask))


def _bind(reader: WireReader) -> BindSession:
    host_key, session, signature = reader.string(), reader.string(), reader.string()
    forwarding = bool(reader.byte())
    reader.end()
    return BindSession(host_key, session, signature, forwarding)


def _sign(reader: WireReader) -> SignLogin | SignContent:
    """Parse a request to sign.  Raises NotPassedError."""
    key, untrusted_data, flags = reader.string(), reader.string(), reader.number()
    reader.end()
    if flags not in {0, 2, 4}:
        raise NotPassedError(f"flags {flags:#x} are not forwarded to an ssh agent")
    try:
        ask = _signed(key, untrusted_data, flags)
        # The signed data is written again from these fields: they must be all of it.
        # guard: only a login or a content of ssh is signed
        whole = ask is not None and wire.signed_data(ask) == untrusted_data
    except (PeerError, UnicodeDecodeError):
        ask, whole = None, False
    if ask is None or not whole:
        raise NotPassedError("the data to sign is neither a login nor an SSH signature")
    return ask


def _signed(
    key: bytes, untrusted_data: bytes, flags: int
) -> SignLogin | SignContent | None:
    """Decode the data to be signed: a login or a content; None for anything else."""
    if untrusted_data.startswith(wire.CONTENT):
        reader = WireReader(untrusted_data[len(wire.CONTENT) :])
        namespace, _, name = reader.string(), reader.string(), reader.string()
        digest = reader.string()
        if wire.DIGESTS.get(name.decode()) != len(digest):
            return None
        return SignContent(key, flags, namespace.decode(), name.decode(), digest)
    reader = WireReader(untrusted_data)
    session, kind = reader.string(), reader.byte()
    user, service, method = reader.string(), reader.string(), reader.string()
    signed, algorithm, of = reader.byte(), reader.string(), reader.string()
    if (kind, service, signed) != (wire.LOGIN, b"ssh-connection", 1):
        return None
    # ssh(1) asks for a signature by the plain key, also of a login by its certificate.
    # guard: a login is by the key that signs it, or by its certificate
    if key not in {of, wire.plain_key(of)}:
        return None
    host_key = reader.string() if method == wire.HOST_BOUND_LOGIN else b""
    return SignLogin(of, flags, session, user.decode(), algorithm.decode(), host_key)
