"""What the fork server of helpers executes, which has the user's rights.

It has imported the code of pumps and acceptors, which the table of programs counts as
confined: so it executes none of that once it takes orders.
"""

from __future__ import annotations

import json
import os
import socket

import pytest

from broker.core.errors import SetupError
from broker.core.services import WAYLAND_DOOR
from broker.helpers import fork_command
from broker.helpers.apart import from_child, read_compiled
from broker.helpers.fork_start import spawn_server
from broker.helpers.process.fork_client import ForkServer
from broker.helpers.process.fork_handle import ForkServerHandle
from broker.helpers.pump.starting import PUMPS, fork_pump
from broker.host.acceptor import Acceptors, end_acceptor
from broker.net.addresses import UnixEndpoint
from docs.tables.processes import PROGRAMS
from tests.kit.relay.sockets import running

_TRACED = """
import json, os, sys
report, package = sys.argv[1:3]
sys.path[0] = os.path.dirname(os.path.abspath(package))
sys.argv[1:] = sys.argv[4:]
from broker.helpers.process import fork_server

server, seen, serve = os.getpid(), set(), fork_server.serve

def note(frame, event, _):
    if event == "call" and os.getpid() == server:
        seen.add(frame.f_globals.get("__name__", ""))

def traced(*words, **named):
    sys.setprofile(note)
    serve(*words, **named)
    sys.setprofile(None)
    with open(report, "w") as file:
        json.dump(sorted(seen), file)

from broker.programs import fork_server as program
program.serve = traced
program.main()
"""


def _closure(name):
    return next(program for program in PROGRAMS if program.name == name).closure()


async def test_it_executes_no_code_of_its_confined_children(tmp_path, monkeypatch):
    program, report = tmp_path / "traced.py", tmp_path / "report"
    program.write_text(_TRACED)
    honest = fork_command.our_program

    def our_program(*words):
        argv = honest(*words)
        at = next(n for n, word in enumerate(argv) if word.endswith("/broker"))
        return [*argv[:at], str(program), str(report), *argv[at:]]

    monkeypatch.setattr(fork_command, "our_program", our_program)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = spawn_server(PUMPS, [theirs.fileno()])
    acceptors = Acceptors(ForkServerHandle(ours, process))
    server: ForkServer = acceptors._server
    async with running(await fork_pump(server)) as pump:
        assert pump.statistics().pid, "it serves"
        tmp_path.chmod(0o700)
        place = {WAYLAND_DOOR: UnixEndpoint(tmp_path / "door")}
        child, doors = await acceptors.start(place, WAYLAND_DOOR)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "door"))
            (await doors[WAYLAND_DOOR].accept()).conn.close()
        doors[WAYLAND_DOOR].close()
        await end_acceptor(child)
    await server.close()
    assert await process.wait() == 0
    seen = set(json.loads(report.read_text()))
    assert "broker.helpers.process.fork_server" in seen
    confined = _closure("pump and acceptor") - _closure("helpers")
    assert "broker.helpers.pump.engine" in confined
    assert seen & confined == set()


def test_a_process_does_not_begin_without_its_filter():
    """One child compiles for several; each reader has all of its own, or an error."""

    def fail():
        raise ImportError("no libseccomp here")

    pipes = [os.pipe() for _ in range(2)]
    with pytest.raises(SetupError, match="cannot compile"):
        from_child(
            lambda: [b"x"], {pipes[0][1]: lambda: [b"1", b"2"], pipes[1][1]: fail}
        )
    assert read_compiled(pipes[0][0]) == [b"1", b"2"]
    with pytest.raises(SetupError, match="cannot compile"):
        read_compiled(pipes[1][0])
