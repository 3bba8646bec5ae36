"""Messages between the supervisor and a worker.

One msgpack value in one packet of a SEQPACKET socket (``wire.fdpass``), or,
from a worker, in one message of a pipe (``wire.packets``).  Two parties:

* the **supervisor** is the broker itself: trusted, parses no guest bytes;
* a **worker** (the jailed half) parses what one sandbox sends.  It may have
  been taken over, so everything from it is decoded strictly here, and texts
  in it are hostile: ``core.escape.printable`` before a user reads them.

The broker's process here is the viewer.
"""

from __future__ import annotations

import enum
from typing import Annotated, TypeAlias

import msgspec

from broker.core import limits
from broker.core.decoding import Reader, TypedMessage, reader
from broker.core.errors import InternalError
from broker.core.limits import sound as pulse_limits
from broker.core.limits import wayland as wayland_limits
from broker.core.streams.sound_rules import Level, SoundRules
from broker.core.streams.wayland_rules import WindowRules
from broker.ipc import clipboard, transfer
from broker.ipc.agent import FromGuest, ToGuest
from broker.ipc.fork_server import Jail

_Text = Annotated[str, msgspec.Meta(max_length=4000)]
_Word = Annotated[str, msgspec.Meta(max_length=40)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


# -- supervisor to worker ------------------------------------------------------


class FrameRules(TypedMessage, frozen=True, tag="frames"):
    """How this sandbox's windows are treated; the first order of all.

    The supervisor alone reads the record: the rules are finished.  A worker that has
    not got this message serves no display.  A later one replaces it: wholly for
    new connections, only in its colour and restrictions for existing ones.  ``trace``: report
    messages (VITRAIL_DEBUG=wayland) by Traced.
    """

    rules: WindowRules
    trace: bool = False


class AgentStream(TypedMessage, frozen=True, tag="agent-stream"):
    """The guest agent has connected; one descriptor comes with it.

    ``stream`` is the supervisor's number for it.  A sandbox has one agent: a
    newer stream replaces an older one, because after a guest's agent was
    restarted the old connection may never say so.
    """

    stream: _Count


class WaylandStream(TypedMessage, frozen=True, tag="wayland-stream"):
    """An application's own connection, for the filter; a descriptor comes with it.

    Of a sandbox on this machine that has no need of waypipe (a container).
    ``stream`` is the supervisor's number for it.
    """

    stream: _Count


class DisplayStream(TypedMessage, frozen=True, tag="display-stream"):
    """An application's waypipe stream, whose descriptor comes with this.

    A second one is the sandbox's arena, if it has one.
    ``head`` are its first bytes, which the supervisor waited for.  The worker
    decodes it and says DisplayClosed at its end; the supervisor cuts it by
    shutting the socket, of which it keeps a descriptor.
    """

    stream: _Count
    head: Annotated[bytes, msgspec.Meta(max_length=limits.DISPLAY_HEADER_BYTES)]


class DisplaysOpen(TypedMessage, frozen=True, tag="displays-open"):
    """How many display streams of this sandbox the supervisor holds open.

    Streams that wait for a decision are among them.  The worker repeats the
    number in its pings to the guest agent (``agent.Ping.displays``).
    """

    count: _Count


class ToAgent(TypedMessage, frozen=True, tag="to-agent"):
    """Send a message to the guest agent; dropped when none is connected."""

    message: ToGuest


class AskStatistics(TypedMessage, frozen=True, tag="ask-statistics"):
    """Answer with one Statistics."""


class AskWindows(TypedMessage, frozen=True, tag="ask-windows"):
    """Answer with Windows that carry the same number."""

    ask: _Count


class CloseWindow(TypedMessage, frozen=True, tag="close-window"):
    """Ask an application to close a window, or ``cut`` its connection.

    Answer with WindowClosed that carries the same number.
    """

    ask: _Count
    window: _Count
    cut: bool


TOKEN_CHARACTERS = 1000
"""Maximum length of an activation token in a message; a longer one is cut."""


class RaiseWindow(TypedMessage, frozen=True, tag="raise-window"):
    """Raise a window of the sandbox, by a token of the compositor's."""

    token: _Text


class StopWorker(TypedMessage, frozen=True, tag="stop"):
    """Close everything and exit."""


class Sound(TypedMessage, frozen=True, tag="sound"):
    """How the sandbox's sound is treated; sent before its first stream.

    And again when that changes: what runs goes by it, or is ended.
    """

    rules: SoundRules
    level: Level


class SoundStream(TypedMessage, frozen=True, tag="sound-stream"):
    """A client of the guest's sound, and a connection to the sound server.

    Two descriptors come with it, in that order.
    """

    stream: _Count


class SoundLevel(TypedMessage, frozen=True, tag="sound-level"):
    """The user has moved the sandbox's slider."""

    volume: Annotated[int, msgspec.Meta(ge=0, le=pulse_limits.PULSE_VOLUME)]
    muted: bool


class Hearing(enum.StrEnum):
    """The source of recordings."""

    ALLOW = "allow"
    """The real source."""
    REST = "rest"
    """Nothing: no stream records, and the next one asks again."""
    DENY = "deny"
    """Nothing, by a no: what records is silent or ended, as the rules say."""


class MicrophoneOrder(TypedMessage, frozen=True, tag="microphone"):
    """Answered with MicrophoneSet of the same number once it is so."""

    number: _Count
    hearing: Hearing


ToRest: TypeAlias = (
    FrameRules
    | AgentStream
    | WaylandStream
    | DisplayStream
    | DisplaysOpen
    | ToAgent
    | AskStatistics
    | AskWindows
    | CloseWindow
    | RaiseWindow
    | Sound
    | SoundStream
    | SoundLevel
    | MicrophoneOrder
)
"""All but Stop, the clipboard's and those about files, links and calls."""
ToWorker: TypeAlias = ToRest | StopWorker | clipboard.ToWorker | transfer.ToWorker


# -- worker to supervisor ------------------------------------------------------


class WorkerReady(TypedMessage, frozen=True, tag="ready"):
    """The jail is shut; sent once, before any guest's byte was read."""

    jail: Jail


class FromAgent(TypedMessage, frozen=True, tag="from-agent"):
    """A valid message of the guest agent: a claim, not a fact."""

    stream: _Count
    message: FromGuest


class AgentClosed(TypedMessage, frozen=True, tag="agent-closed"):
    """An agent stream has ended; ``reason`` may repeat a guest's words.

    The bytes are the worker's count, so a taken-over worker's claim.
    """

    stream: _Count
    reason: _Text
    from_guest: _Count = 0
    to_guest: _Count = 0


class DisplayClosed(TypedMessage, frozen=True, tag="display-closed"):
    """A display stream has ended; as AgentClosed."""

    stream: _Count
    reason: _Text
    from_guest: _Count = 0
    to_guest: _Count = 0


class WaylandOpened(TypedMessage, frozen=True, tag="wayland-opened"):
    """An application of the guest has a connection to the compositor."""

    client: _Count


class WaylandAnswered(TypedMessage, frozen=True, tag="wayland-answered"):
    """The compositor has sent that connection its first bytes.

    ``unlettered``: its frames show a name, and have no picture of it from the broker.
    """

    client: _Count
    unlettered: bool = False


class WindowMapped(TypedMessage, frozen=True, tag="window-mapped"):
    """A window of the sandbox is on the screen that was not before."""


class Fault(enum.StrEnum):
    """The party that caused the end of a connection."""

    NONE = "none"
    CLIENT = "client"
    COMPOSITOR = "compositor"
    OURS = "ours"


class WaylandClosed(TypedMessage, frozen=True, tag="wayland-closed"):
    """That connection ended; bytes each way, why, and through whom.

    ``stream`` is that of its WaylandStream, 0 for a window that came by waypipe.
    """

    client: _Count
    to_compositor: _Count
    to_client: _Count
    reason: _Text
    fault: Fault = Fault.NONE
    stream: _Count = 0


class Use(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that is limited for a sandbox: how much it has, how much it may.

    ``refused`` is how often more was wanted.  ``most`` is 0 for a rate.
    """

    what: _Word
    now: _Count
    most: _Count
    refused: _Count


class WorkerStreamCount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stream that the worker carries: bytes, and milliseconds of work on it."""

    stream: _Count
    from_guest: _Count
    to_guest: _Count
    work: _Count = 0


class WorkerStatistics(TypedMessage, frozen=True, tag="statistics"):
    """What the worker does now; ``clients`` are connected."""

    clients: _Count
    uses: Annotated[list[Use], msgspec.Meta(max_length=64)] = msgspec.field(
        default_factory=list
    )
    streams: Annotated[
        list[WorkerStreamCount], msgspec.Meta(max_length=2 * limits.STREAMS_PER_SANDBOX)
    ] = msgspec.field(default_factory=list)


class WindowReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A window as ``wayland.listing`` has it; the words are the guest's."""

    number: _Count
    title: Annotated[str, msgspec.Meta(max_length=wayland_limits.WAYLAND_TITLE_CHARS)]
    app_id: Annotated[str, msgspec.Meta(max_length=wayland_limits.WAYLAND_APP_ID_CHARS)]
    width: _Count
    height: _Count
    focused: bool


class Windows(TypedMessage, frozen=True, tag="windows"):
    """Some of the windows that were asked for; ``last`` with the last of them."""

    ask: _Count
    windows: Annotated[
        list[WindowReport],
        msgspec.Meta(max_length=wayland_limits.WAYLAND_WINDOWS_PER_MESSAGE),
    ]
    last: bool


class WindowClosed(TypedMessage, frozen=True, tag="window-closed"):
    """A window was asked to close, or was cut; or there is a ``problem``."""

    ask: _Count
    problem: _Text = ""


class UserInput(TypedMessage, frozen=True, tag="acted"):
    """The user has acted in a window of the sandbox, so many seconds ago."""

    ago: Annotated[float, msgspec.Meta(ge=0, le=60)]


class LimitHit(TypedMessage, frozen=True, tag="limited"):
    """The sandbox wanted more than it may have, ``times`` since the last report."""

    what: _Word
    times: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]


class Traced(TypedMessage, frozen=True, tag="traced"):
    """Lines about what passes on Wayland connections (``FrameRules.trace``).

    Text of the guest in them was escaped by the worker, for what that is
    worth.  ``lost`` lines before these were too many.
    """

    lines: Annotated[
        list[_Text], msgspec.Meta(max_length=wayland_limits.WAYLAND_TRACE_LINES)
    ]
    lost: _Count


class Violation(TypedMessage, frozen=True, tag="violation"):
    """The guest broke a protocol or a limit; what did it has been ended."""

    reason: _Text


class Broken(TypedMessage, frozen=True, tag="broken"):
    """The worker met an internal error and exits; ``reason`` is a traceback."""

    reason: _Text


class SoundClosed(TypedMessage, frozen=True, tag="sound-closed"):
    """A connection to the sound server ended; bytes each way, and why."""

    stream: _Count
    from_guest: _Count
    to_guest: _Count
    reason: _Text
    fault: Fault = Fault.NONE


class SoundState(TypedMessage, frozen=True, tag="sound-state"):
    """State of recording, and whether the real source is open: a worker's claim.

    Sent when it has changed, a few times a second at most.  ``missing`` says
    why there is nothing to hear with.
    """

    streams: _Count
    idle: _Count
    wanted: bool
    active: bool
    application: _Text
    source: _Text
    missing: _Text


class SoundRefused(TypedMessage, frozen=True, tag="sound-refused"):
    """Commands that were answered "access denied", equal ones counted."""

    command: _Text
    what: _Text
    count: _Count


class MicrophoneSet(TypedMessage, frozen=True, tag="microphone-set"):
    """That order is done: no byte of the source goes to the guest but by it."""

    number: _Count


FromSound: TypeAlias = SoundClosed | SoundState | SoundRefused | MicrophoneSet
"""Messages of a worker about sound."""
FromRest: TypeAlias = (
    WorkerReady
    | FromAgent
    | AgentClosed
    | DisplayClosed
    | WaylandOpened
    | WaylandAnswered
    | WindowMapped
    | WaylandClosed
    | WorkerStatistics
    | Windows
    | WindowClosed
    | UserInput
    | LimitHit
    | Traced
    | Violation
    | Broken
)
"""All else."""
FromWorker: TypeAlias = (
    FromRest | FromSound | clipboard.FromWorker | transfer.FromWorker
)


# -- codec ---------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()

Message: TypeAlias = ToWorker | FromWorker


def encode(message: Message) -> bytes:
    """Return the packet of a message.

    Raises InternalError beyond ``limits.WORKER_MESSAGE_BYTES``.
    """
    data = _encoder.encode(message)
    if len(data) > limits.WORKER_MESSAGE_BYTES:
        raise InternalError(f"the worker message is too long: {len(data)} bytes")
    return data


# RecursionError: a message nested thousands deep is as bad as no message.
decode_from_worker: Reader[FromWorker] = reader(
    msgspec.msgpack.Decoder(FromWorker), "the worker sent an invalid message"
)
"""Return the message of a worker."""

decode_to_worker: Reader[ToWorker] = reader(
    msgspec.msgpack.Decoder(ToWorker), "invalid message to the worker", InternalError
)
"""Return the supervisor's message."""


def clip(text: str) -> str:
    """Return the text cut to what a message may carry."""
    return text if len(text) <= 4000 else text[:3999] + "…"
