"""The ssh agent's protocol: its requests as values, and what an agent's client writes.

Sans-IO.  Only what passes is here: list the keys, bind a session to a host's key, and
sign a login or a content.  The signed data is written from the fields that the rules and
the user see, and never taken over from a sandbox.

Sources: draft-ietf-sshm-ssh-agent, sections 3 and 4; OpenSSH's PROTOCOL.agent
(session-bind@openssh.com), PROTOCOL (publickey-hostbound-v00@openssh.com) and
PROTOCOL.sshsig; RFC 4252, section 7.

Workers decode the requests of programs, the viewer decides about them, session children
and workers send them to an agent.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, TypeAlias

import msgspec

from broker.core.decoding import TypedMessage
from broker.core.errors import PeerError
from broker.core.framing import FrameReader
from broker.core.limits.ssh_agent import SSH_FRAME_BYTES, SSH_KEY_BYTES, SSH_KEYS

FAILURE, SUCCESS = 5, 6
LIST_REQUEST, LIST_ANSWER = 11, 12
SIGN_REQUEST, SIGN_ANSWER = 13, 14
EXTENSION = 27
SESSION_BIND = b"session-bind@openssh.com"
LOGIN = 50
"""SSH_MSG_USERAUTH_REQUEST (RFC 4252)."""
PLAIN_LOGIN, HOST_BOUND_LOGIN = b"publickey", b"publickey-hostbound-v00@openssh.com"
CONTENT = b"SSHSIG"
DIGESTS = {"sha256": 32, "sha512": 64}

SESSION_BYTES = 64
"""A session id is a digest: of SHA-512 at most (RFC 4253, section 7.2)."""

_CERTIFICATE = b"-cert-v"
"""Of the names of certificates' kinds; of no other key's."""
_CERTIFIED: Mapping[bytes, tuple[bytes, int]] = MappingProxyType(
    {
        plain.partition(b"@")[0] + b"-cert-v01@openssh.com": (plain, fields)
        for plain, fields in (
            (b"ssh-rsa", 2),
            (b"ssh-dss", 4),
            (b"ssh-ed25519", 1),
            (b"ecdsa-sha2-nistp256", 2),
            (b"ecdsa-sha2-nistp384", 2),
            (b"ecdsa-sha2-nistp521", 2),
            (b"sk-ssh-ed25519@openssh.com", 2),
            (b"sk-ecdsa-sha2-nistp256@openssh.com", 3),
        )
    }
)
"""Kinds of certificates: the kind of the key in it, and of how many fields that is."""

_Key = Annotated[bytes, msgspec.Meta(min_length=1, max_length=SSH_KEY_BYTES)]
_Session = Annotated[bytes, msgspec.Meta(min_length=1, max_length=SESSION_BYTES)]
_Signature = Annotated[bytes, msgspec.Meta(min_length=1, max_length=SSH_KEY_BYTES)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[!-~]+\Z")]
_Flags = Annotated[int, msgspec.Meta(ge=0, le=4)]
"""None, SSH_AGENT_RSA_SHA2_256, SSH_AGENT_RSA_SHA2_512."""


class ListKeys(TypedMessage, frozen=True, tag="list"):
    """Which keys are there?  Answered by KeyList."""


class BindSession(TypedMessage, frozen=True, tag="bind"):
    """A session is one to the host with this key, which has signed the session's id.

    ``forwarding``: it carries the agent on, and does not log in itself.
    """

    host_key: _Key
    session: _Session
    signature: _Signature
    forwarding: bool


class SignLogin(TypedMessage, frozen=True, tag="login"):
    """Sign a login of a session.  ``host_key``: as the signed data names it; or empty."""

    key: _Key
    flags: _Flags
    session: _Session
    user: _Name
    algorithm: _Name
    host_key: Annotated[bytes, msgspec.Meta(max_length=SSH_KEY_BYTES)] = b""


class SignContent(TypedMessage, frozen=True, tag="content"):
    """Sign the digest of a content, for a namespace as ``git`` or ``file``."""

    key: _Key
    flags: _Flags
    namespace: _Name
    digest_name: Annotated[str, msgspec.Meta(pattern=r"^sha(256|512)\Z")]
    digest: Annotated[bytes, msgspec.Meta(min_length=32, max_length=64)]


AgentAsk: TypeAlias = ListKeys | BindSession | SignLogin | SignContent


class AgentKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A public key, and the comment by which its owner knows it."""

    key: _Key
    comment: Annotated[str, msgspec.Meta(max_length=256)]


class KeyList(TypedMessage, frozen=True, tag="keys"):
    """The keys of an agent."""

    keys: Annotated[tuple[AgentKey, ...], msgspec.Meta(max_length=SSH_KEYS)]


class SignatureMade(TypedMessage, frozen=True, tag="signature"):
    """A signature."""

    signature: _Signature


class KeyDone(TypedMessage, frozen=True, tag="done"):
    """It is done, and has no answer."""


class KeyRefused(TypedMessage, frozen=True, tag="failed"):
    """It is refused."""


AgentAnswer: TypeAlias = KeyList | SignatureMade | KeyDone | KeyRefused


def string(data: bytes) -> bytes:
    """Return a ``string`` of RFC 4251, section 5."""
    return struct.pack(">I", len(data)) + data


class WireReader:
    """Reads the fields of one message.  Each method raises PeerError where it is short."""

    def __init__(self, untrusted_data: bytes) -> None:
        self._data = untrusted_data
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes of an agent message.  Raises PeerError."""
        end = self._at + size
        # guard: a field of an ssh agent's message ends inside of it
        if end > len(self._data):
            raise PeerError("an ssh agent's message is truncated")
        data, self._at = self._data[self._at : end], end
        return data

    def byte(self) -> int:
        """Return the next byte."""
        return self.take(1)[0]

    def number(self) -> int:
        """Return a ``uint32``."""
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        """Return a ``string``."""
        return self.take(self.number())

    def end(self) -> None:
        """Raise PeerError where something is left."""
        if self._at != len(self._data):
            raise PeerError("an ssh agent's message is too long")


def frames() -> FrameReader:
    """Return a reader that cuts a stream, of client or agent, into messages."""
    # guard: a message of an ssh agent has a size
    return FrameReader(SSH_FRAME_BYTES, struct.Struct(">I"))


def signed_data(ask: SignLogin | SignContent) -> bytes:
    """Return the bytes that an ssh key signs for a login or a content.

    ``request_frame`` puts them into a request, in a session child or a worker.
    """
    if isinstance(ask, SignContent):
        name, reserved = ask.namespace.encode(), b""
        of_content = (name, reserved, ask.digest_name.encode(), ask.digest)
        return CONTENT + b"".join(map(string, of_content))
    method = HOST_BOUND_LOGIN if ask.host_key else PLAIN_LOGIN
    fields = (ask.user.encode(), b"ssh-connection", method)
    data = string(ask.session) + bytes([LOGIN]) + b"".join(map(string, fields))
    data += b"\x01" + string(ask.algorithm.encode()) + string(ask.key)
    return data + (string(ask.host_key) if ask.host_key else b"")


def wrongly_signed(ask: BindSession) -> BindSession:
    """Return a session with another signature, which an agent has to refuse.

    The gpg-agent of newer GnuPG accepts any signature of a session (T5931).
    """
    last = bytes([ask.signature[-1] ^ 1]) if ask.signature else b""
    return msgspec.structs.replace(ask, signature=ask.signature[:-1] + last)


def request_frame(ask: AgentAsk) -> bytes:
    """Encode a request to an ssh agent.

    A session child sends it to the user's agent, a worker to the agent of its sandbox.
    """
    match ask:
        case ListKeys():
            return string(bytes([LIST_REQUEST]))
        case BindSession():
            fields = (SESSION_BIND, ask.host_key, ask.session, ask.signature)
            data = b"".join(map(string, fields)) + bytes([ask.forwarding])
            return string(bytes([EXTENSION]) + data)
        case SignLogin() | SignContent():
            data = string(ask.key) + string(signed_data(ask))
            data += struct.pack(">I", ask.flags)
            return string(bytes([SIGN_REQUEST]) + data)


def decode_answer(untrusted_body: bytes, ask: AgentAsk) -> AgentAnswer:
    """Decode an agent's answer to a request.  Raises PeerError for anything else."""
    reader = WireReader(untrusted_body)
    kind = reader.byte()
    answer: AgentAnswer = KeyRefused()
    match ask:
        case ListKeys() if kind == LIST_ANSWER:
            answer = KeyList(_keys(reader))
        case SignLogin() | SignContent() if kind == SIGN_ANSWER:
            answer = SignatureMade(reader.string())
        case BindSession() if kind == SUCCESS:
            answer = KeyDone()
        case _:
            return answer  # whatever it says, it is no yes
    reader.end()
    try:
        return msgspec.convert(
            msgspec.to_builtins(answer, builtin_types=(bytes,)), type(answer)
        )
    except msgspec.ValidationError as error:
        raise PeerError(f"invalid answer of an ssh agent: {error}") from error


def _keys(reader: WireReader) -> tuple[AgentKey, ...]:
    """Read the list of an agent's keys.  Raises PeerError for too many."""
    count = reader.number()
    # Before they are read: each may be an empty one.
    if count > SSH_KEYS:
        raise PeerError(f"the ssh agent has too many keys: {count}")
    keys = [
        AgentKey(reader.string(), reader.string().decode(errors="replace")[:256])
        for _ in range(count)
    ]
    return tuple(key for key in keys if _has_name(key.key))


def _has_name(key: bytes) -> bool:
    """Return whether a key has a fingerprint by which rules can name it."""
    try:
        plain_key(key)
    except PeerError:
        # guard: a certificate whose key is not known is not used
        return False
    return True


def plain_key(key: bytes) -> bytes:
    """Return the public key of a certificate; another key as it is.

    OpenSSH's PROTOCOL.certkeys.  Raises PeerError for a certificate of another kind.
    """
    reader = WireReader(key)
    try:
        kind = reader.string()
    except PeerError:
        return key
    if _CERTIFICATE not in kind:
        return key
    if kind not in _CERTIFIED:
        raise PeerError("the ssh key is a certificate of an unknown kind")
    plain, fields = _CERTIFIED[kind]
    reader.string()  # a random number, which makes signatures of it unpredictable
    return b"".join(map(string, (plain, *(reader.string() for _ in range(fields)))))


def fingerprint(key: bytes) -> str:
    """Return a key's fingerprint as ssh-keygen(1) and ssh-add(1) print it.

    That of a certificate is its key's.  Raises PeerError as ``plain_key``.
    """
    # guard: a certificate has the fingerprint of its key
    digest = hashlib.sha256(plain_key(key)).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def key_name(key: AgentKey) -> str:
    """Return a key's name in rules, permits and questions; a comment's blanks are hyphens.

    The viewer names the key in its request; the session child compares that name with
    the keys of the user's agent.  A certificate's ends with a third word, which no rule names: a permit for the key is
    none for its certificate.
    """
    comment = "-".join(key.comment.split())
    certificate = "" if plain_key(key.key) == key.key else " (certificate)"
    return f"{fingerprint(key.key)} {comment}{certificate}"
