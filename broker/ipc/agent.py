"""Messages between broker and guest agent on ``vitrail.Agent``.

JSON objects with a ``type`` key, one in each frame (``core.framing``).  The
guest's side is ``shims/guest``, which repeats this table because a
shim imports no module of the broker; a test holds the two together.

A guest's message is decoded in the sandbox's jailed worker and again, from
the worker's re-encoding, in the broker: a value that passed here has known
types and bounded sizes, and is still a claim, not a fact.

The worker decodes what the guest agent sends; the viewer, the broker's process here,
decodes it again and makes the orders.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from broker.core import limits
from broker.core.decoding import Reader, TypedMessage, reader
from broker.core.limits import transfer as transfer_limits

VERSION = 8
"""2: the agent knows ``ping``; one of version 1 gets none.  3: input, terminals.
4: standard error apart, output at its reader's pace.  5: folders.  6: by a stream, too.
7: disks, and mounts at other paths and in memory.  8: the time in a ping."""
INPUT_VERSION = 3
"""The first version that knows ``input``, ``resize`` and their fields of ``run``."""
FOLDERS_VERSION = 5
"""The first version that knows ``mount`` and ``unmount``."""
STREAMED_FOLDERS_VERSION = 6
"""The first version that knows ``mount``'s ``stream``."""
MOUNTS_VERSION = 7
"""The first version that knows ``mount``'s ``at``, ``size`` and ``disk``."""
TIMED_VERSION = 8
"""The first version that knows ``ping``'s ``time``."""
PACED_VERSION = 4
"""The first version that knows ``more`` and its fields of ``run``."""

FIRST_MEMORY = transfer_limits.FIRST_MEMORY
_PLACES = FIRST_MEMORY + transfer_limits.MEMORY_MOUNTS_PER_SANDBOX
FolderPlace = Annotated[int, msgspec.Meta(ge=0, lt=_PLACES)]
"""Which of a micro VM's virtiofs devices; after them which of its disks; from
``FIRST_MEMORY`` on, which of its file systems in memory."""
_Short = Annotated[str, msgspec.Meta(max_length=120)]
_Text = Annotated[str, msgspec.Meta(max_length=1000)]
_Size = Annotated[int, msgspec.Meta(ge=1, le=65535)]
ProgramId = Annotated[int, msgspec.Meta(ge=1, le=0xFFFFFFFF)]
"""Counted by the broker for each lease; the guest only repeats it."""


# -- guest to broker -----------------------------------------------------------


class AgentHello(TypedMessage, frozen=True, tag="hello"):
    """First message of a connection: who the agent is, what still runs."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    waypipe: _Short
    kernel: _Short
    programs: Annotated[
        list[ProgramId], msgspec.Meta(max_length=limits.PROGRAMS_PER_SANDBOX)
    ] = msgspec.field(default_factory=list)


class AgentStarted(TypedMessage, frozen=True, tag="started"):
    """A program that was asked for has been executed."""

    program: ProgramId


class AgentFailed(TypedMessage, frozen=True, tag="failed"):
    """A program that was asked for could not be executed."""

    program: ProgramId
    reason: _Text


class Output(TypedMessage, frozen=True, tag="output"):
    """Data of a program's standard output or error, base64 in JSON."""

    program: ProgramId
    data: Annotated[bytes, msgspec.Meta(max_length=limits.AGENT_OUTPUT_BYTES)]
    stderr: bool = False
    """The data is of standard error; only where Run requests that separately."""


class AgentExited(TypedMessage, frozen=True, tag="exited"):
    """A program ended: exit code 0..255, or minus the signal's number."""

    program: ProgramId
    code: Annotated[int, msgspec.Meta(ge=-64, le=255)]


class Taken(TypedMessage, frozen=True, tag="taken"):
    """A program's standard input has taken so many bytes; as many may be sent."""

    program: ProgramId
    count: Annotated[int, msgspec.Meta(ge=1, le=limits.AGENT_INPUT_WINDOW)]


class AgentStep(TypedMessage, frozen=True, tag="hop"):
    """A step inside the guest on the way to a window, and whether it worked.

    Used for one thing: naming the hop when no window comes up.
    """

    name: _Short
    ok: bool
    detail: _Text = ""


class AgentMounted(TypedMessage, frozen=True, tag="mounted"):
    """The answer to ``mount`` and ``unmount``."""

    place: FolderPlace
    ok: bool
    detail: _Text = ""


FromGuest = (
    AgentHello
    | AgentStarted
    | AgentFailed
    | Output
    | AgentExited
    | AgentStep
    | Taken
    | AgentMounted
)


# -- broker to guest --------------------------------------------------------------


class Run(TypedMessage, frozen=True, tag="run", omit_defaults=True):
    """Start a program; ``display`` wants a Wayland connection for it.

    ``stdin``: its standard input comes by Input; otherwise it is empty.
    ``tty``: it gets a terminal of this size in characters, whose input comes by
    Input too.  Defaults are left out, so that older agents understand the rest.
    ``stderr``: its standard error is sent apart.  ``window``: so many bytes of
    output are sent before More; each message counts AGENT_OUTPUT_OVERHEAD beside
    its data.  0: output is never held back.
    """

    program: ProgramId
    argv: list[str]
    env: dict[str, str] = msgspec.field(default_factory=dict)
    display: bool = True
    stdin: bool = False
    tty: bool = False
    rows: _Size = 24
    columns: _Size = 80
    stderr: bool = False
    window: Annotated[int, msgspec.Meta(ge=0, le=limits.AGENT_OUTPUT_WINDOW)] = 0


class More(TypedMessage, frozen=True, tag="more"):
    """The reader of a program's output has taken so much of the window.

    0: it has gone, and output is not held back from now on.
    """

    program: ProgramId
    count: Annotated[int, msgspec.Meta(ge=0, le=limits.AGENT_OUTPUT_WINDOW)]


class Input(TypedMessage, frozen=True, tag="input"):
    """Bytes for a program's standard input, base64 in JSON.

    At most AGENT_INPUT_WINDOW bytes are under way that Taken has not reported.
    ``end``: nothing follows; a pipe is closed, a terminal gets Ctrl-D.
    """

    program: ProgramId
    data: Annotated[bytes, msgspec.Meta(max_length=limits.AGENT_INPUT_BYTES)] = b""
    end: bool = False


class Resize(TypedMessage, frozen=True, tag="resize"):
    """The terminal of a program has this size now, in characters."""

    program: ProgramId
    rows: _Size
    columns: _Size


class Signal(TypedMessage, frozen=True, tag="signal"):
    """Send a signal to a program's process group."""

    program: ProgramId
    number: Annotated[int, msgspec.Meta(ge=1, le=64)]


class AgentPowerOff(TypedMessage, frozen=True, tag="poweroff"):
    """End every program and switch the machine off."""


class AgentPing(TypedMessage, frozen=True, tag="ping", omit_defaults=True):
    """The broker is there; after hello, then every AGENT_PING_SECONDS.

    A broker that is killed cannot say that it goes, and not every transport
    does it in its place: see ``limits.AGENT_PING_SECONDS``.
    """

    serving: Annotated[str, msgspec.Meta(max_length=32)]
    """Random, one for each worker: with another one all display streams that
    the guest had are gone."""
    displays: Annotated[int, msgspec.Meta(ge=0)]
    """Display streams that the broker has, those included that wait for a
    decision.  0 in several pings in a row: the connections that the guest still
    has are the ends of streams that died unseen."""
    time: Annotated[int, msgspec.Meta(ge=0)] = 0
    """The broker's clock, in nanoseconds since 1970: the guest sets its own by it."""


class AgentMount(TypedMessage, frozen=True, tag="mount", omit_defaults=True):
    """Mount the folder of a place at /folders/NAME; it may be mounted there already.

    ``stream``: by a connection to ``vitrail.Folder``, not by a virtiofs device.
    ``at``: another path.  ``disk``: NAME is the tag of a disk, mounted only with ``at``.
    ``size``: of a file system in memory, in bytes.
    """

    place: FolderPlace
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    write: bool
    stream: bool = False
    at: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    disk: bool = False
    size: Annotated[int, msgspec.Meta(ge=0)] = 0


class AgentUnmount(TypedMessage, frozen=True, tag="unmount"):
    """Unmount it.  ``force``: also where files are open, whose reads then fail."""

    place: FolderPlace
    force: bool


ToGuest = (
    Run
    | More
    | Input
    | Resize
    | Signal
    | AgentPowerOff
    | AgentPing
    | AgentMount
    | AgentUnmount
)

_encoder = msgspec.json.Encoder()

# RecursionError: unknown fields are skipped by recursion, and a guest
# can nest thousands of them in one frame.
decode_from_guest: Reader[FromGuest] = reader(
    msgspec.json.Decoder(FromGuest), "the guest agent sent an invalid message"
)
"""Return the message in a frame's body."""


def encode(message: FromGuest | ToGuest) -> bytes:
    """Return a frame's body; ``core.framing`` adds the length."""
    return _encoder.encode(message)
