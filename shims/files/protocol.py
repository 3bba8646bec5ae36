"""Messages of transfers: frames, limits and paths of entries.

Source: ``broker/ipc/guest/file_requests.py`` and ``broker/core/transfer/entries.py``,
which this program cannot import; a test compares the tables.

Programs in the sandbox run it, and the jailed programs of session children; brokerctl
reads pages by it.
"""

from __future__ import annotations

import errno
import json
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, BinaryIO, Callable, Dict, List

FRAME_BYTES = 1 << 16
DEPTH = 16
COPY_BYTES = 1 << 18


# Made once: json.dumps and json.loads make or look for one with each call, and there
# is a message for each file.
ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
DECODE = json.JSONDecoder().decode
LENGTH = struct.Struct("<I")

FULL = (errno.ENOSPC, errno.EDQUOT)
EXIT_FAILED = 1
EXIT_LEFT_OUT = 3  # done, but only files and directories were copied
EXIT_NO_ROOM = 73  # EX_CANTCREAT of sysexits.h; the broker reports it to the sender


class TransferError(Exception):
    """The user sees this message; ``code`` is the program's exit code."""

    code = EXIT_FAILED


class NoRoomError(TransferError):
    """The disk, or the user's share of it, is full."""

    code = EXIT_NO_ROOM


def frame(message: Dict[str, Any]) -> bytes:
    """Return a message as bytes."""
    body = ENCODE(message).encode()
    if len(body) > FRAME_BYTES:
        raise TransferError("a name is too long to send")
    return LENGTH.pack(len(body)) + body


def read_exactly(source: BinaryIO, size: int) -> bytes:
    """Return so many bytes.  Raises TransferError when it ends before."""
    data = source.read(size)
    if len(data) != size:
        raise TransferError("the transfer was interrupted")
    return data


def read_message(source: BinaryIO) -> Dict[str, Any]:
    """Read the next message (a JSON frame) of a transfer.  Raises TransferError."""
    (size,) = LENGTH.unpack(read_exactly(source, 4))
    if not 0 < size <= FRAME_BYTES:
        raise TransferError(f"invalid message size: {size} bytes")
    try:
        message = DECODE(read_exactly(source, size).decode())
    except (ValueError, RecursionError) as error:
        raise TransferError(f"invalid message: {error}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise TransferError("invalid message")
    return message


def check_path(path: object) -> None:
    """Raise TransferError unless each component is a plain name (checked before, too)."""
    names: List[Any] = path if isinstance(path, list) else []
    good = 0 < len(names) <= DEPTH
    for name in names if good else ():
        # guard: paths of the receiver
        good = good and isinstance(name, str) and name not in ("", ".", "..")
        good = good and "/" not in name and "\0" not in name and fits(name)
    if not good:
        raise TransferError("an entry has an invalid path")


def fits(name: str) -> bool:
    """Return whether a text is UTF-8, which JSON does not ensure, and short."""
    try:
        return len(name.encode()) <= 255
    except UnicodeEncodeError:
        return False


def size_of(entry: Dict[str, Any]) -> int:
    """Return the size that an entry announces.  Raises TransferError for any other."""
    size = entry.get("size")
    # A negative one would be read to the end of the stream.
    # guard: sizes of the receiver
    if type(size) is not int or size < 0:
        raise TransferError("an entry has an invalid size")
    return size


def tell(text: str) -> None:
    """Print a line for the user; control characters do not reach the terminal."""
    sys.stderr.write("".join(c if c.isprintable() else "?" for c in text) + "\n")


def reported(name: str, work: Callable[[], int]) -> int:
    """Run a command; return its exit code, and tell the user of a failure."""
    try:
        return work()
    except TransferError as error:
        tell(f"vitrail: {error}")
        return error.code
    except OSError as error:
        tell(f"vitrail: {error.filename or name}: {error.strerror}")
        return EXIT_NO_ROOM if error.errno in FULL else EXIT_FAILED
    except KeyboardInterrupt:
        return 130
