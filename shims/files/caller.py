"""``vitrail-call`` and ``qrexec-client-vm``, where a rule allows the call at once.

``vitrail_call.py`` is this module and those that it needs, all of them with modules of C
alone: half of a call's time would be Python's standard library.  Whatever is not plain
(options, a question, a refusal, a launch that is proved) is done by the whole program,
which takes the connection over.
"""

from __future__ import annotations

import _thread
import io
import os
import struct
import sys
from typing import TYPE_CHECKING

from shims.files.doors import BOX_SOCKETS, SECRET_FILE, door_address, open_door
from shims.files.frames import EXIT_BROKEN, READ_AHEAD_BYTES, CallStream

if TYPE_CHECKING:
    from types import ModuleType
    from typing import List, Optional, Tuple

WHOLE_PROGRAM = "vitrail_files"
BOX_PROGRAM = "vitrail-files"  # the same, in a container or box
_ALLOWED = b'{"type":"go"}'
_FRAME = struct.Struct("<I")
_PLAIN = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-@:"
)


def plain_call(words: List[str]) -> Optional[Tuple[str, str, str]]:
    """Return target, service and argument of a plain command line; None for others."""
    verb, words = words[0], words[1:]
    if verb == "qrexec-client-vm":
        if len(words) != 2:
            return None
        target, (service, _, argument) = words[0], words[1].partition("+")
        target = "" if target == "@default" else target
    elif words[:1] in (["--target"], ["-t"]) and 3 <= len(words) <= 4:
        target, service, argument = (*words[1:], "")[:3]
    elif 1 <= len(words) <= 2:
        target, (service, argument) = "", (*words, "")[:2]
    else:
        return None
    plain = _PLAIN.issuperset(target + service + argument)
    if not plain or not service or "-" in (target[:1], service[:1]):
        return None
    return target, service, argument


def whole_program() -> ModuleType:
    """Return the module of all commands: beside this one, or the one file of a box."""
    import importlib

    try:
        return importlib.import_module(WHOLE_PROGRAM)
    except ImportError:
        from importlib.machinery import SourceFileLoader

        path = f"{BOX_SOCKETS}/{BOX_PROGRAM}"
        return SourceFileLoader(WHOLE_PROGRAM, path).load_module()


def call(words: List[str]) -> int:
    """Make a call, by the words of its command line; returns its exit code."""
    asked = plain_call(words)
    secret = os.environ.get("VITRAIL_SECRET") or SECRET_FILE
    if asked is None or os.path.exists(secret):
        return int(whole_program().main(words))
    target, service, argument = asked
    body = (
        f'{{"type":"call","service":"{service}","argument":"{argument}",'
        f'"target":"{target}"}}'
    ).encode()
    try:
        sock = open_door(door_address("VITRAIL_CALL"))
        sock.sendall(_FRAME.pack(len(body)) + body)
    except OSError:
        # It says why, if the broker cannot be reached by it either.
        return int(whole_program().main(words))
    reader: io.BufferedReader = io.BufferedReader(
        io.FileIO(sock.fileno(), closefd=False), READ_AHEAD_BYTES
    )
    first = reader.peek(_FRAME.size + len(_ALLOWED))
    if first[: _FRAME.size + len(_ALLOWED)] != _FRAME.pack(len(_ALLOWED)) + _ALLOWED:
        return int(whole_program().go_on(sock, reader))
    reader.read(_FRAME.size + len(_ALLOWED))
    return carry_call(CallStream(sock, reader))


def carry_call(stream: CallStream) -> int:
    """Connect the stream of an allowed call with the standard streams."""

    def send() -> None:
        try:
            stream.send_from(0)
        except OSError:  # the far end has gone: the reader of the stream reports it
            return

    _thread.start_new_thread(send, ())
    code = stream.receive_to(1, lambda: None)
    if code is None:
        sys.stderr.write("vitrail: the broker closed the connection\n")
        return EXIT_BROKEN
    return code


def run_call(words: List[str]) -> None:
    """Make a call and end this process, which has nothing to tidy up."""
    try:
        code = call(words)
    except KeyboardInterrupt:
        code = 130
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
