"""Attack: the process that keeps a sandbox's files among the person's is taken over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shims.files.protocol import frame
from tests.kit.shims import files_program

# Runs the program's verb with a reader of entries that does what an attacker would.
TAKEN = """\
import fcntl, importlib.util, os, resource, socket, sys
spec = importlib.util.spec_from_file_location("tool", {tool!r})
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

def attempts():
    yield "read", lambda: open({secret!r}).read()
    yield "read through the parent", lambda: open("/proc/{parent}/root{secret}").read()
    yield "read through the broker", lambda: os.listdir("/proc/{parent}/fd")
    yield "write", lambda: open("/x", "w")
    yield "list", lambda: os.listdir("/etc")
    yield "execute", lambda: os.execv("/bin/sh", ["sh", "-c", "true"])
    def reach():
        sock = socket.socket(socket.AF_UNIX)
        sock.connect({door!r})
    yield "reach the session", reach
    def abstract():
        sock = socket.socket(socket.AF_UNIX)
        sock.connect("\\0" + {name!r})
    yield "reach the session's abstract sockets", abstract
    def mount():
        if tool.ctypes.CDLL(None).umount2(b"/proc/self", 2) != 0:
            raise OSError
    yield "change mounts", mount
    yield "signal the session", lambda: os.kill({parent}, 0)
    yield "signal by a descriptor", lambda: fcntl.fcntl(0, fcntl.F_SETOWN, {parent})
    yield "start processes", lambda: os.fork() or os._exit(0)
    yield "make sockets", lambda: socket.socketpair()
    def limit():
        try:
            resource.prlimit({parent}, resource.RLIMIT_CORE, (0, 0))
        except PermissionError:
            raise OSError from None
    yield "change limits of the session", limit

def attack(*_):
    done = []
    for name, attempt in attempts():
        try:
            attempt()
        except OSError:
            continue
        done.append(name)
    os.write(2, ("done: " + ", ".join(done)).encode())
    os._exit(0)

tool.read_message = attack
sys.exit(tool.main({words!r}))
"""


@pytest.mark.parametrize("verb", ["store", "edit"])
def test_it_reaches_nothing_of_the_person(tmp_path, verb):
    import socket

    secret = tmp_path / "secret"
    secret.write_text("s")
    (tmp_path / "mine").write_text("m")
    name = f"vitrail-test-{os.getpid()}-{verb}"
    with (
        socket.socket(socket.AF_UNIX) as door,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        door.bind(str(tmp_path / "door"))
        door.listen()
        abstract.bind(f"\0{name}")
        abstract.listen()
        words = {
            "store": ["store", str(tmp_path / "Incoming"), "work", "0"],
            "edit": ["edit", str(tmp_path / "mine"), "work"],
        }[verb]
        values = {
            "tool": files_program(),
            "secret": str(secret),
            "parent": os.getpid(),
            "door": str(tmp_path / "door"),
            "name": name,
            "words": words,
        }
        program = tmp_path / "taken.py"
        program.write_text(TAKEN.format(**values))
        found = subprocess.run(
            [sys.executable, "-I", str(program)],
            input=frame({"type": "end"}),
            capture_output=True,
            timeout=60,
            check=False,
        )
    said = found.stderr.decode().splitlines()[-1:]
    assert said == ["done: "], found
    assert Path(secret).read_text() == "s"
