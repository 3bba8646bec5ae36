"""Messages between the guest agent and the broker: tables, limits, validation.

The tables are those of ``broker/ipc/agent.py``, and the limits those of
``broker/core/limits``; they are repeated here because the agent imports nothing of
the broker, and a test compares them.
"""

from __future__ import annotations

import binascii
import json
from typing import Any, Dict

VERSION = 8
HOST_CID = 2
AGENT_PORT = 6500
DISPLAY_PORT = 6501
AUDIO_PORT = 6502
DEVICES_PORT = 6503
SECURITY_KEY_PORT = 6504
FOLDERS_PORT = 6515
# All of the broker's, those for links and files included; broker/core/services.py.
STREAM_PORTS = (6500, 6501, 6502, 6503, 6504, *range(6510, 6514), 6515)
# Sockets of these names, in a machine whose connections go over a virtio-serial port.
PORT_SOCKETS = "/run/vitrail/port"
LOW_PORT_OFFSET = 6000  # subtracted from these where the broker has those, too
# Message type -> its fields, as in broker/ipc/agent.py.
FROM_GUEST = {
    "hello": ("version", "waypipe", "kernel", "programs"),
    "started": ("program",),
    "failed": ("program", "reason"),
    "output": ("program", "data", "stderr"),
    "exited": ("program", "code"),
    "hop": ("name", "ok", "detail"),
    "taken": ("program", "count"),
    "mounted": ("place", "ok", "detail"),
}
# Message type -> fields with their types; those in OPTIONAL may be absent.
TO_GUEST: Dict[str, Dict[str, type]] = {
    "run": {
        "program": int,
        "argv": list,
        "env": dict,
        "display": bool,
        "stdin": bool,
        "tty": bool,
        "rows": int,
        "columns": int,
        "stderr": bool,
        "window": int,
    },
    "more": {"program": int, "count": int},
    "input": {"program": int, "data": str, "end": bool},
    "resize": {"program": int, "rows": int, "columns": int},
    "signal": {"program": int, "number": int},
    "poweroff": {},
    "ping": {"serving": str, "displays": int, "time": int},
    "mount": {
        "place": int,
        "name": str,
        "write": bool,
        "stream": bool,
        "at": str,
        "disk": bool,
        "size": int,
    },
    "unmount": {"place": int, "force": bool},
}
OPTIONAL: Dict[str, Any] = {
    "env": {},
    "display": True,
    "stdin": False,
    "tty": False,
    "rows": 24,
    "columns": 80,
    "stderr": False,
    "window": 0,
    "data": "",
    "end": False,
    "stream": False,
    "at": "",
    "disk": False,
    "size": 0,
    "time": 0,
}
# As in broker/core/limits.py.
FRAME_BYTES = 65536
OUTPUT_BYTES = 16384
INPUT_WINDOW = 32768  # bytes of input that wait for a program, at most
OUTPUT_OVERHEAD = 256  # what a message of output counts beside its bytes
PROGRAMS = 64
STREAMS = 256
SHORT = 120
TEXT = 1000
# A read, and so a write.  Larger writes become packets in several pieces in
# newer kernels (seen: 6.12), and vhost-device-vsock 0.3 loses all but the first.
PIECE_BYTES = 28672
CONTROL_PIECE_BYTES = 3584  # as LINK_PIECE_BYTES there: no transport loses these


class MessageError(Exception):
    """The broker sent an unknown message; the connection ends."""


def decode(body: bytes) -> Dict[str, Any]:
    """Return a checked message of TO_GUEST with every field set."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"invalid JSON: {error}") from error
    if not isinstance(message, dict) or message.get("type") not in TO_GUEST:
        raise MessageError("unknown message")
    fields = TO_GUEST[message["type"]]
    for name, kind in fields.items():
        if name not in message and name in OPTIONAL:
            message[name] = OPTIONAL[name]
        if type(message.get(name)) is not kind:
            raise MessageError(f"{message['type']}.{name} must be {kind.__name__}")
    unknown = set(message) - set(fields) - {"type"}
    if unknown:
        raise MessageError(f"unknown field in {message['type']}: {min(unknown)}")
    if message["type"] == "run":
        check_run(message)
    elif message["type"] == "mount":
        if message["name"] in ("", ".", "..") or set(message["name"]) & {"/", "\0"}:
            raise MessageError("mount.name is not a file name")
        if message["at"] and not is_place(message["at"]):
            raise MessageError("mount.at is not an absolute path")
    elif message["type"] == "input":
        try:
            message["data"] = binascii.a2b_base64(message["data"])
        except ValueError as error:
            raise MessageError(f"input.data is not base64: {error}") from error
    for name in ("window", "count", "size", "time"):
        if message.get(name, 0) < 0:
            raise MessageError(f"{message['type']}.{name} must not be negative")
    for name in ("rows", "columns"):
        if message.get(name, 1) < 1:
            raise MessageError(f"{message['type']}.{name} must be at least 1")
    return message


def is_place(path: str) -> bool:
    """Return whether a path is absolute and has no part that is not a name."""
    parts = path.split("/")
    return parts[0] == "" and not {"", ".", ".."} & set(parts[1:]) and "\0" not in path


def check_run(message: Dict[str, Any]) -> None:
    """Raise MessageError unless arguments and environment can be executed."""
    words = list(message["argv"])
    for key, value in message["env"].items():
        if not key or "=" in key:
            raise MessageError("run.env contains an invalid name")
        words += [key, value]
    if not message["argv"] or not all(isinstance(word, str) for word in words):
        raise MessageError("run.argv and run.env must be strings, argv not empty")
    if any("\0" in word for word in words):
        raise MessageError("run.argv or run.env contains a NUL byte")
