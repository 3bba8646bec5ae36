"""Messages between a sandbox's program and its broker, before and after the bytes.

JSON objects with a ``type`` key, one in each frame (``core.framing``), on the ports
of ``vitrail.OpenURL``, ``vitrail.OpenFile``, ``vitrail.FileCopy`` and ``vitrail.Call``.
The other side is ``shims/files``, which repeats the tables because a shim imports
nothing of ours; a test compares the two.

The worker decodes a program's request; the viewer decodes it again and serves it.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from broker.core.decoding import Reader, TypedMessage, reader
from broker.core.framing import encode_frame
from broker.core.limits import transfer as limits

_Text = Annotated[str, msgspec.Meta(max_length=1000)]
_Word = Annotated[str, msgspec.Meta(max_length=limits.CALL_COMMAND_BYTES)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Url = Annotated[str, msgspec.Meta(max_length=limits.URL_CHARS)]
# "$" would match before an end of line, too.
# guard: a target is one line
_Target = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[@a-zA-Z0-9:._-]*\Z")]
_Name = Annotated[str, msgspec.Meta(max_length=limits.FILE_NAME_BYTES)]
_Mime = Annotated[str, msgspec.Meta(max_length=127, pattern=r"^[a-z0-9.+/-]*\Z")]
ServiceText = Annotated[
    str,
    msgspec.Meta(
        max_length=limits.CALL_NAME_CHARS, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z"
    ),
]
ArgumentText = Annotated[
    str,
    msgspec.Meta(
        max_length=limits.CALL_NAME_CHARS,
        pattern=r"^([A-Za-z0-9_+.][A-Za-z0-9_+.-]*)?\Z",
    ),
]
"""Without a hyphen at its beginning: the service may take it for an option."""
# The desktop's chooser tries each pattern at each name of a folder, while all of the
# desktop's programs wait for its portal; in GTK a star costs the name's length, and each
# further one multiplies that.  So a pattern is the end of a name, or a whole one.
# guard: a pattern of a dialog has one star, before all else
_Glob = Annotated[
    str, msgspec.Meta(max_length=32, pattern=r"^(\*|\*?[A-Za-z0-9._+-]+)\Z")
]
_FilterType = Annotated[
    str,
    msgspec.Meta(max_length=127, pattern=r"^[A-Za-z0-9.+_-]+/(\*|[A-Za-z0-9.+_-]+)\Z"),
]
FILTER_RULES = 256
"""Patterns and types of all filters of a dialog."""
Token = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]


# -- from the sandbox -----------------------------------------------------------


class OpenUrl(TypedMessage, frozen=True, tag="open-url"):
    """Open an address.  ``target``: a sandbox's name, ``@dispvm…`` or nothing."""

    url: _Url
    target: _Target = ""


class OpenFile(TypedMessage, frozen=True, tag="open-file"):
    """Open a file, whose entry follows the answer."""

    name: _Name
    size: _Count
    mime: _Mime = ""
    target: _Target = ""
    edit: bool = False
    """Changes are to come back: the rule needs ``return=yes``."""


class CopyFiles(TypedMessage, frozen=True, tag="copy"):
    """Copy files and directories, whose entries follow the answer.

    ``name`` is that of the first; ``files`` counts directories, too.
    """

    name: _Name
    files: _Count
    size: _Count
    target: _Target = ""


class Take(TypedMessage, frozen=True, tag="take"):
    """A program that the broker has started in this sandbox fetches its files."""

    token: Token


class ReturnFile(TypedMessage, frozen=True, tag="return"):
    """An edited file goes back to where it came from; its entry follows the answer."""

    token: Token
    size: _Count


class GiveFiles(TypedMessage, frozen=True, tag="give"):
    """A program that the broker has started in this sandbox sends its files.

    They were copied or dragged to another sandbox; entries follow the answer.
    """

    token: Token
    name: _Name
    files: _Count
    size: _Count
    left_out: _Count = 0
    """Entries that are not copied, as they are neither files nor directories."""


class CallService(TypedMessage, frozen=True, tag="call"):
    """Call a service of another sandbox; its stream follows the answer."""

    service: ServiceText
    argument: ArgumentText = ""
    target: _Target = ""


class OfferServices(TypedMessage, frozen=True, tag="offer"):
    """Serve calls to a container or box, in which nothing is started from outside."""


class FileFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which files the chooser lists: a name for the user, patterns and types."""

    name: Annotated[str, msgspec.Meta(max_length=limits.CALL_NAME_CHARS)]
    globs: Annotated[tuple[_Glob, ...], msgspec.Meta(max_length=64)] = ()
    types: Annotated[tuple[_FilterType, ...], msgspec.Meta(max_length=64)] = ()


class ChooseFiles(TypedMessage, frozen=True, tag="choose"):
    """Have the user choose files of the desktop: entries follow the answer.

    ``save``: the user chooses where one file goes; an empty file of its name comes, with
    the token by which its content is returned, each time that it is written.  With
    ``names`` it is the folder of several files, which come together, each with a token.
    ``offered``: only asks whether a rule may allow it.
    """

    kind: Literal["offered", "open", "folder", "save"]
    several: bool = False
    name: _Name = ""
    """To begin with; the user may take another one."""
    names: Annotated[
        tuple[_Name, ...], msgspec.Meta(max_length=limits.SAVED_AT_ONCE)
    ] = ()
    filters: Annotated[tuple[FileFilter, ...], msgspec.Meta(max_length=16)] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for too many patterns and types together."""
        rules = sum(len(one.globs) + len(one.types) for one in self.filters)
        # guard: all filters of a dialog have a total
        if rules > FILTER_RULES:
            raise ValueError(f"the filters have more than {FILTER_RULES} patterns")


class PrintPages(TypedMessage, frozen=True, tag="print"):
    """Print a document, whose pages follow the answer as one file.

    Their form is that of ``shims/files/pages.py``.  ``size`` 0: only asks whether a
    rule may allow it.
    """

    name: _Name = ""
    """What the user knows the document by."""
    size: _Count = 0


Ask: TypeAlias = (
    OpenUrl
    | OpenFile
    | CopyFiles
    | Take
    | ReturnFile
    | GiveFiles
    | CallService
    | OfferServices
    | ChooseFiles
    | PrintPages
)


# -- to the sandbox ---------------------------------------------------------------


class Wait(TypedMessage, frozen=True, tag="wait"):
    """The user is asked, or a sandbox is started; ``what`` says which."""

    what: _Text


class Go(TypedMessage, frozen=True, tag="go"):
    """Permitted: send the entries, or the stream."""


class TransferRefused(TypedMessage, frozen=True, tag="refused"):
    """Not permitted, or broken off."""

    reason: _Text


class TransferProgress(TypedMessage, frozen=True, tag="progress"):
    """So many bytes have been passed on."""

    size: _Count


class TransferDone(TypedMessage, frozen=True, tag="done"):
    """The object was opened, or the target has kept all of it.

    To a program that took a delivery: all entries were passed on.
    """


class GuestDelivery(TypedMessage, frozen=True, tag="delivery"):
    """Answer to ``take``: entries follow, from the sandbox ``source``.

    ``open``: the file is to be opened, else kept below ``~/Incoming/SOURCE``.
    ``size``: the bytes that were announced.  ``back``: the token by which a changed
    file may be returned; empty where it may not.  One for each of several files, in
    their order, with "," between them.
    """

    source: _Text
    open: bool
    size: _Count = 0
    back: _Text = ""


class GuestCall(TypedMessage, frozen=True, tag="service"):
    """Answer to ``take``: the stream of a call from the sandbox ``source`` follows."""

    source: _Text
    service: _Text
    argument: _Text
    command: tuple[_Word, ...] = ()
    """The program, by the target's record; empty: one of the guest's directories."""
    directory: _Text = ""
    """Where it is started; empty: its user's home."""


class GuestCalled(TypedMessage, frozen=True, tag="called"):
    """To a program that serves calls: start a program that takes this call by the token.

    ``over``: end that one; its stream's end may be after bytes that it does not read.
    """

    token: Token
    over: bool = False


Reply: TypeAlias = (
    Wait
    | Go
    | TransferRefused
    | TransferProgress
    | TransferDone
    | GuestDelivery
    | GuestCall
    | GuestCalled
)

_replies: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)

decode_ask: Reader[Ask] = reader(
    msgspec.json.Decoder(Ask), "invalid request for files or links"
)
"""Return what a sandbox asks."""


def decode_reply(body: bytes) -> Reply:
    """Return a reply; for tests, which play the sandbox."""
    return _replies.decode(body)


def reply_frame(reply: Reply) -> bytes:
    """Return the frame of a reply."""
    return encode_frame(msgspec.json.encode(reply), limits.TRANSFER_FRAME_BYTES)
