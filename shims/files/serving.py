"""``vitrail-services``: calls of other sandboxes to a container or box are taken.

In a machine its agent starts the program of each call.  Here this one does, as a
separate process for each call, whose end is the call's.
"""

from __future__ import annotations

import os
import select
import signal
from functools import partial
from typing import TYPE_CHECKING

from shims.files.calling import serve_call
from shims.files.connection import BrokerConnection
from shims.files.frames import EXIT_BROKEN
from shims.files.protocol import TransferError, frame, reported, tell

if TYPE_CHECKING:
    from typing import Dict, List

SERVED_AT_ONCE = 64  # as the broker lets run of one sandbox
SERVICES_USAGE = "usage: vitrail-services [COMMAND [ARGUMENT…]]"


def serve_services(words: List[str]) -> int:
    """Serve calls; with a command: beside it, until the command ends."""
    if words[:1] == ["--"]:
        words = words[1:]
    elif words and words[0].startswith("-"):
        raise TransferError(SERVICES_USAGE)
    connection = BrokerConnection("VITRAIL_CALL")
    connection.send(frame({"type": "offer"}))
    parent = 0
    if words:
        parent = os.getpid()
        if os.fork():
            connection.socket.close()
            os.execvp(words[0], words)
        os.setsid()
        import threading

        threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    take_calls(connection)
    return EXIT_BROKEN


def end_with(parent: int) -> None:
    """End this process when the process ``parent`` has ended."""
    try:
        held = os.pidfd_open(parent)
    except OSError:
        os._exit(0)
    select.select([held], [], [])
    os._exit(0)


def take_calls(connection: BrokerConnection) -> None:
    """Start a process for each call, until the broker closes.

    Raises TransferError.
    """
    running: Dict[str, int] = {}
    while True:
        called = connection.wait("called")
        token = str(called["token"])
        for done, child in list(running.items()):
            if os.waitpid(child, os.WNOHANG)[0]:
                del running[done]
        if called.get("over"):
            if token in running:
                os.kill(running[token], signal.SIGTERM)
            continue
        if len(running) >= SERVED_AT_ONCE:
            tell("vitrail: too many calls at the same time")
            continue
        child = os.fork()
        if not child:
            connection.socket.close()
            os._exit(reported("a call", partial(serve_call, [token])))
        running[token] = child
