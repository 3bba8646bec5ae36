"""Print what happens in Vitrail, one line an event; a program for its varlink API.

    follow.py [KIND…]        for example: follow.py question decision lease
    follow.py windows        each time the windows on the screen change

Python's standard library only.  Messages are JSON objects with a zero byte after each
(varlink.org); a call with "more": true has many replies.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOCKET = Path(os.environ["XDG_RUNTIME_DIR"], "vitrail", "control")


def replies(method: str, **parameters: object) -> Iterator[dict[str, Any]]:
    """Call a method with 'more' and yield the parameters of each reply."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(SOCKET))
        except OSError as error:
            sys.exit(f"no broker answers at {SOCKET}: {error.strerror}")
        call = {
            "method": f"io.vitrail.Broker.{method}",
            "parameters": parameters,
            "more": True,
        }
        sock.sendall(json.dumps(call).encode() + b"\0")
        waiting = b""
        while True:
            while b"\0" not in waiting:
                data = sock.recv(65536)
                if not data:
                    return
                waiting += data
            message, waiting = waiting.split(b"\0", 1)
            reply = json.loads(message)
            if "error" in reply:
                sys.exit(f"{reply['error']}: {reply.get('parameters')}")
            yield reply["parameters"]
            if not reply.get("continues"):
                return


def follow_events(kinds: list[str]) -> None:
    """Print each event of these kinds; of all without any."""
    for item in replies("Events", kinds=kinds):
        if item["event"] is None:
            print("following", flush=True)
            continue
        event = json.loads(item["event"])
        words = [event["kind"], event.get("sandbox") or "-"]
        words += [
            str(event[key])
            for key in ("service", "verdict", "answer", "object")
            if event.get(key)
        ]
        print(*words, flush=True)


def follow_windows() -> None:
    """Print sandbox and title of each window, whenever they change."""
    for item in replies("Windows"):
        print(
            ", ".join(f"{w['sandbox']}: {w['title']}" for w in item["windows"])
            or "no windows",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:] == ["windows"]:
        follow_windows()
    else:
        follow_events(sys.argv[1:])
