"""Broker and worker about files and links: typed, bounded, msgpack.

The worker reads what a program of its sandbox asks and moves the bytes; the broker
decides, and hands each side one end of a pipe.  So the bytes of a sandbox are
parsed in its jailed worker and again in that of the receiver, and a descriptor
of one sandbox never reaches another's worker.

The broker's process here is the viewer.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from broker.core.decoding import TypedMessage
from broker.core.ssh_agent import AgentAnswer, AgentAsk
from broker.core.transfer.quota import Quota
from broker.ipc.guest.daemons import FromDaemon, ToDaemon
from broker.ipc.guest.file_requests import Ask, GuestCall, Token

_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Text = Annotated[str, msgspec.Meta(max_length=4000)]


# -- to the worker ----------------------------------------------------------------


class TransferStream(TypedMessage, frozen=True, tag="transfer-stream"):
    """A connection to one of the ports; its descriptor comes with this.

    ``agent``: its program speaks to an ssh agent from the first byte on, and gets no
    message of ours.  Then there is no request, and TransferServe or TransferFinish follows.
    """

    stream: _Count
    agent: bool = False


class TransferWait(TypedMessage, frozen=True, tag="transfer-wait"):
    """Notify the program that it takes longer, and why."""

    stream: _Count
    what: _Text


class TransferSend(TypedMessage, frozen=True, tag="transfer-send"):
    """Permitted: pass the entries on to the pipe that comes with this.

    The name of ``quota`` is in the question, and the decision is about it.
    """

    stream: _Count
    quota: Quota


class TransferDeliver(TypedMessage, frozen=True, tag="transfer-deliver"):
    """Give the program the content of the pipe that comes with this.

    ``announced``: bytes, as the sender claims.  ``back``: see ``GuestDelivery``.
    """

    stream: _Count
    source: _Text
    open: bool
    quota: Quota
    announced: _Count = 0
    back: _Text = ""


class TransferLeave(TypedMessage, frozen=True, tag="transfer-leave"):
    """Permitted: answer the program, and leave its connection to the pump.

    ``service``: the answer to a program that serves a call; None: to a caller.
    Answered by TransferPassed once the connection is closed in the worker.
    """

    stream: _Count
    service: GuestCall | None = None


class TransferCalled(TypedMessage, frozen=True, tag="transfer-called"):
    """Have a program that serves calls take one by the token; ``over``: end it.

    The next one follows once this one was taken, or was given up.
    """

    stream: _Count
    token: Token
    over: bool = False


class TransferServe(TypedMessage, frozen=True, tag="transfer-serve"):
    """Permitted: answer the program, and serve its connection until TransferFinish.

    ``what``: be an ssh agent's end of it, or that of a daemon of the desktop: then its
    messages are passed on by StreamSaid, and those to it come by StreamTell.  Or send it
    pictures of a window of the sandbox.  ``service``: the answer to a program that leads
    to an ssh agent of this sandbox; None: to a program that asks an agent.
    """

    stream: _Count
    what: Literal["agent", "daemon", "window"]
    service: GuestCall | None = None


class StreamTell(TypedMessage, frozen=True, tag="stream-tell"):
    """Send a message: an answer, a request to the sandbox's agent, or the user's click."""

    stream: _Count
    message: AgentAsk | AgentAnswer | ToDaemon


class DaemonMore(TypedMessage, frozen=True, tag="daemon-more"):
    """The last request of a daemon was taken: send the next one."""

    stream: _Count


class TransferFinish(TypedMessage, frozen=True, tag="transfer-finish"):
    """Report the end to the program (no ``reason``: it was done) and close."""

    stream: _Count
    reason: _Text = ""


ToWorker: TypeAlias = (
    TransferStream
    | TransferWait
    | TransferSend
    | TransferDeliver
    | TransferLeave
    | TransferCalled
    | TransferServe
    | StreamTell
    | DaemonMore
    | TransferFinish
)


Said: TypeAlias = AgentAsk | AgentAnswer | FromDaemon

# -- from the worker ----------------------------------------------------------------


class TransferAsked(TypedMessage, frozen=True, tag="transfer-asked"):
    """The program's request: a claim of a sandbox."""

    stream: _Count
    ask: Ask


class TransferMoved(TypedMessage, frozen=True, tag="transfer-moved"):
    """So much has passed so far; not more often than twice a second."""

    stream: _Count
    size: _Count
    files: _Count


class TransferPassed(TypedMessage, frozen=True, tag="transfer-passed"):
    """The bytes have ended: whole, or for a ``reason``.  The program still waits.

    ``sha256``: of a single file's content; empty for several.
    """

    stream: _Count
    size: _Count
    files: _Count
    reason: _Text = ""
    sha256: Annotated[bytes, msgspec.Meta(max_length=32)] = b""


class StreamSaid(TypedMessage, frozen=True, tag="stream-said"):
    """A message of the program: a claim of a sandbox.

    A request to an ssh agent, after whose answer the next one follows; what the agent of
    this sandbox has answered; or a daemon's request, of which the next follows DaemonMore.
    """

    stream: _Count
    message: Said


class TransferClosed(TypedMessage, frozen=True, tag="transfer-closed"):
    """The connection is over; ``reason`` may repeat a guest's words."""

    stream: _Count
    from_guest: _Count
    to_guest: _Count
    reason: _Text


FromWorker: TypeAlias = (
    TransferAsked | TransferMoved | TransferPassed | StreamSaid | TransferClosed
)
