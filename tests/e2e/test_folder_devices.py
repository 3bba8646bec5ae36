"""A real micro VM whose folders come and go while it runs, by its guest agent."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager

import pytest

from broker.cli.images.building.build import build_image
from broker.core import limits
from broker.core.errors import RefusedError, UpstreamError
from broker.core.paths import find_paths
from broker.helpers.mounts.opened import open_folder
from broker.host.folders.micro_vm import revoke, serve
from broker.host.images.store import ImageSpec
from broker.ipc import agent
from tests.kit.needs import FOLDERS_VM
from tests.kit.shared_home import shared_home
from tests.kit.vm.agent_broker import agent_broker
from tests.kit.vm.machines import alive, boot_of, machine
from tests.kit.wayland.compositor import short_directory

pytestmark = FOLDERS_VM


@asynccontextmanager
async def started():
    """A machine with two places; yields it, the broker's end of its agent, a home."""
    image = await build_image(find_paths(), ImageSpec(), print)
    with short_directory() as place:
        home = shared_home(place)
        boot = boot_of(image, place, folders=True)
        async with (
            machine(place, **boot, disposable=True, folders=2) as vm,
            agent_broker(vm, 600) as broker,
        ):
            yield vm, broker, home


class Guest:
    """Its shell and its mounts."""

    def __init__(self, broker):
        self.broker = broker
        self._number = 0

    async def run(self, script):
        self._number += 1
        await self.broker.run("sh", "-c", script, program=self._number)
        await self.broker.receive(agent.AgentStarted)
        out, code = await self.broker.ended(self._number)
        assert code == 0, (script, out)
        return out.decode()

    async def keep(self, script):
        """Start a program that stays; returns when it has printed a line."""
        self._number += 1
        await self.broker.run("sh", "-c", script, program=self._number)
        await self.broker.receive(agent.AgentStarted)
        await self.broker.receive(agent.Output)
        return self._number

    async def mount(self, place, name):
        await self.broker.send(agent.AgentMount(place, name, True))
        return (await self.broker.receive(agent.AgentMounted)).ok

    async def unmount(self, place, *, force=False):
        await self.broker.send(agent.AgentUnmount(place, force))
        return (await self.broker.receive(agent.AgentMounted)).ok


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_folders_come_and_go_while_a_machine_runs():
    async with started() as (vm, broker, home):
        servers = {p.role: p for p in vm.processes}
        docs = open_folder(str(home / "docs"), home, ())
        shared = await serve(0, servers["virtiofsd-0"], docs, write=False)
        await vm.cont()
        await broker.accept()
        guest = Guest(broker)
        assert await guest.mount(0, "docs")
        assert await guest.mount(0, "docs"), "again is no error"
        await only_to_be_read(guest, home)
        again = await to_be_changed(guest, servers["virtiofsd-1"], home)
        await killed(guest, again, home)
        assert await guest.unmount(0)
        await shared.release()
        docs.close()
        assert await guest.run("echo alive; ls /folders") == "alive\n"
        assert sorted(alive(vm)) == ["QEMU", "vhost-device-vsock", "virtiofsd-0"]


async def only_to_be_read(guest, home):
    assert await guest.run("cat /folders/docs/file") == "docs"
    await guest.run(
        "cd /folders/docs; ! cat out && ! cat absolute && ! touch new"
        " && ! rm -f file && ! sh -c 'echo x >file' && ! chmod 777 file"
    )
    assert sorted(os.listdir(home / "docs")) == ["absolute", "file", "out"]
    assert (home / "docs/file").read_text() == "docs"


async def to_be_changed(guest, server, home):
    """A guest that has a file open does not give it back; another time it does."""
    folder = open_folder(str(home / "Downloads"), home, ())
    served = await serve(1, server, folder, write=True)
    assert await guest.mount(1, "Downloads")
    await guest.run(
        "cd /folders/Downloads; echo guest >new; ! chmod 4755 new; ln -s / up"
    )
    made = home / "Downloads/new"
    assert made.read_text() == "guest\n"
    assert made.stat().st_uid == os.getuid()
    assert oct(made.stat().st_mode) == "0o100644"
    (home / "Downloads/mine").write_text("person")
    assert await guest.run("cat /folders/Downloads/mine") == "person"
    program = await guest.keep(
        "exec 5</folders/Downloads/file; echo open; exec sleep 3600"
    )
    assert not await guest.unmount(1)
    with pytest.raises(RefusedError, match="open"):
        await served.release()
    await guest.broker.send(agent.Signal(program, signal.SIGKILL))
    await guest.broker.receive(agent.AgentExited)
    assert await guest.unmount(1)
    await served.release()
    # The place is used again.
    again = await serve(1, server, folder, write=True)
    assert await guest.mount(1, "Downloads")
    assert await guest.run("cat /folders/Downloads/file") == "Downloads"
    folder.close()
    return again


async def killed(guest, served, home):
    """A guest that keeps a file open loses the folder with its server, and lives."""
    await guest.keep("exec 5</folders/Downloads/file; echo open; exec sleep 3600")
    await revoke(served)
    assert served.server.ended
    with pytest.raises(UpstreamError):
        await served.lost()
    (home / "Downloads/file").write_text("changed")
    assert await guest.unmount(1, force=True)
    await guest.run("! test -e /folders/Downloads/file")


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_guest_that_remembers_too_many_files_hears_so(monkeypatch):
    """It hangs in no call, its other folder works, and what it forgets makes room."""
    monkeypatch.setattr(limits, "FOLDER_FILES", 128)
    async with started() as (vm, broker, home):
        for number in range(300):
            (home / f"docs/{number}").write_text("x")
        servers = {p.role: p for p in vm.processes}
        opened = [open_folder(str(home / n), home, ()) for n in ("docs", "Downloads")]
        for number, folder in enumerate(opened):
            await serve(number, servers[f"virtiofsd-{number}"], folder, write=True)
        await vm.cont()
        await broker.accept()
        guest = Guest(broker)
        assert await guest.mount(0, "docs")
        assert await guest.mount(1, "Downloads")
        said = await guest.run("cd /folders/docs; cat * 2>&1 >/tmp/read; true")
        assert "Too many open files" in said
        assert await guest.run("cat /folders/Downloads/file") == "Downloads"
        await guest.run("! touch /folders/docs/new")
        assert await guest.unmount(0)
        assert await guest.mount(0, "docs")
        assert await guest.run("cat /folders/docs/299") == "x"
        for folder in opened:
            folder.close()
