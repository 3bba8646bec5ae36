"""Guests without machines: the real agent as a process, leased by a real broker.

``async with plain(w, "work", "personal") as guests`` leases each name of a world
``w`` by a hybrid-vsock path.  The test process plays the VMM: it carries each of
the guest's connections to the broker, as vhost-device-vsock does.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import trio

from broker.core.services import PORTS
from broker.helpers.process.spawn import DEVNULL, spawn
from broker.ipc.control.api import LeaseRequest
from broker.ipc.control.methods import LEASE_ACQUIRE
from tests.kit.records import external_record
from tests.kit.shims import guest_program
from tests.kit.world import record

RECORD = external_record('hybrid = "{}"', colour="green")
_VARIABLES = {
    "vitrail.Agent": "VITRAIL_AGENT",
    "vitrail.Display": "VITRAIL_DISPLAY",
    "vitrail.Audio": "VITRAIL_AUDIO",
    "vitrail.OpenURL": "VITRAIL_OPEN_URL",
    "vitrail.OpenFile": "VITRAIL_OPEN_FILE",
    "vitrail.FileCopy": "VITRAIL_COPY",
    "vitrail.Call": "VITRAIL_CALL",
}


@dataclass
class PlainGuest:
    """One guest: its home, and programs as its user would start them."""

    name: str
    folder: Path
    env: dict[str, str]

    @property
    def home(self) -> Path:
        return self.folder / "home"

    async def command(self, *words, deadline=60):
        """Run one of the guest's commands; returns code and output."""
        tools = self.folder / "runtime/bin"
        # Files: a program that fills a pipe would wait for who waits for its end.
        with TemporaryFile() as out, TemporaryFile() as err:
            child = spawn(
                [str(tools / words[0]), *words[1:]],
                env=self.env,
                cwd=self.home,
                stdout=out.fileno(),
                stderr=err.fileno(),
            )
            try:
                with trio.fail_after(deadline):
                    code = await child.wait()
            finally:
                await child.kill_and_wait()
            out.seek(0)
            err.seek(0)
            return code, (out.read() + err.read()).decode()

    async def script(self, text, deadline=60):
        """Run a line of shell with the guest's commands; returns code and output."""
        run = self.folder / "runtime/bin/run-script"
        run.write_text(f"#!/bin/sh\nPATH={run.parent}:$PATH\n{text}\n")
        run.chmod(0o755)
        return await self.command("run-script", deadline=deadline)

    def replace_tool(self, text):
        """Have another program run where the broker asks for the files tool."""
        program = self.folder / "tool"
        program.unlink(missing_ok=True)
        program.write_text(text)
        program.chmod(0o755)
        # The agent runs this file in a separate process.
        words = f"os.execv({str(program)!r}, ['tool', *words])"
        (self.folder / "runtime/vitrail_files.py").write_text(
            f"import os\ndef main(words):\n    {words}\n"
        )

    def opens(self, kind, command):
        """Register a program for a type, as a desktop does."""
        folder = self.home / ".local/share/applications"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{kind.replace('/', '-')}.desktop"
        entry = "[Desktop Entry]\nType=Application\nName=Test\n"
        (folder / name).write_text(f"{entry}Exec={command}\n")
        with (folder / "mimeapps.list").open("a") as chosen:
            if not chosen.tell():
                chosen.write("[Default Applications]\n")
            chosen.write(f"{kind}={name};\n")


def records(base, *names):
    """The records of such guests, below a world's directory."""
    return {name: RECORD.format(base / name / "vm" / "s") for name in names}


@asynccontextmanager
async def plain(w, *names, tops=None, path=None):
    """Lease and run guests; yields them by name.

    ``tops``: the first lines of a guest's record, by its name.  ``path``: where the
    agents look for waypipe and programs.
    """
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        guests = {}
        for name in names:
            guests[name] = await stack.enter_async_context(
                _one(w, name, nursery, (tops or {}).get(name, ""), path)
            )
        yield guests
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _one(w, name, nursery, top, path):
    folder = w.base / name
    base = folder / "vm" / "s"
    for part in ("vm", "door", "home", "runtime"):
        (folder / part).mkdir(mode=0o700, parents=True)
    w.write_record(name, RECORD.format(base))
    async with w.client() as client:
        request = LeaseRequest(record=name, hybrid=str(base), leader=os.getpid())
        await client.call(LEASE_ACQUIRE, request)
    # Machines of others do not have our agent; from now on it is our machine.
    w.write_record(name, record("persistent", top=top))
    env = {"PATH": path or os.environ["PATH"], "HOME": str(folder / "home")}
    for service, variable in _VARIABLES.items():
        door = folder / "door" / str(PORTS[service])
        env[variable] = f"unix:{door}"
        await nursery.start(_carry, door, f"{base}_{PORTS[service]}")
    argv = [sys.executable, "-I", guest_program()]
    child = spawn(
        # By env, because what starts the child must be found whatever the agent finds.
        ["/usr/bin/env", *(f"{k}={v}" for k, v in env.items()), *argv],
        env=env
        | {
            "PATH": os.environ["PATH"],
            "VITRAIL_RUNTIME": str(folder / "runtime"),
        },
        stdout=DEVNULL,
        stderr=None,
    )
    try:
        await w.wait_event("stream.opened", sandbox=name, service="vitrail.Agent")
        yield PlainGuest(name, folder, env)
    finally:
        await child.kill_and_wait()


async def _carry(door, path, task_status=trio.TASK_STATUS_IGNORED):
    """Accept at ``door`` and connect to ``path``, both ways, for each."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(door))
    sock.listen(64)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))

    async def serve(near):
        try:
            far = await trio.open_unix_socket(path)
        except OSError:
            return
        async with far, trio.open_nursery() as nursery:

            async def move(source, sink):
                try:
                    async for data in source:
                        await sink.send_all(data)
                    await sink.send_eof()
                except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                    nursery.cancel_scope.cancel()

            nursery.start_soon(move, near, far)
            nursery.start_soon(move, far, near)

    await trio.serve_listeners(serve, [listener], task_status=task_status)
