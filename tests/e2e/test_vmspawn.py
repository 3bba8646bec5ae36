"""Machines and containers that register with systemd-machined, under a newer systemd.

Root's half boots a root of Debian's sid, whose systemd has systemd-vmspawn, and runs
this file again in it as the ordinary user, with this machine's programs, for the broker
and the desktop; so it is for root alone:

    sudo .venv/bin/python -m pytest tests/e2e/test_vmspawn.py
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.host.images.store import find_image
from broker.host.vmm.hosttools import find_vhost_device_vsock
from broker.host.vmm.qemu_arguments import MACHINES, Accel
from broker.host.vmm.vsock_backend import (
    BACKEND_SOCKET,
    UDS_NAME,
    VSOCK_DIRECTORY,
    draw_cid,
    spawn_backend,
)
from tests.e2e.test_libvirt import leased
from tests.kit.booted import HOST, PLACE
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.podman import SHARED, root_directory
from tests.kit.records import external_record
from tests.kit.vm.impostor import cid_of, impostor, vhost_of
from tests.kit.vm.vmspawn import ASKS, OWN, booted_sid, own_vmspawn
from tests.kit.wayland.compositor import wait_frames, wait_window, windows
from tests.kit.world import world

GREEN, ORANGE = (0, 158, 115), (230, 159, 0)
RECORD = external_record('machine = "{}"', colour="green")
AS_PERSON = pytest.mark.skipif(not PLACE, reason="root's half of this file runs it")
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.mark.root
@pytest.mark.parametrize("case", ["vmspawn", "nspawn", "launch_kind", "two_machines"])
def test_as_root(case):
    with booted_sid() as system:
        system.pytest_of_host(Path(__file__), case)


def ask(line):
    """Have root run a line of shell; its output is in the journal."""
    assert stat.S_ISFIFO(ASKS.stat().st_mode)
    with ASKS.open("w") as asks:
        asks.write(f"{line}\n")


def put(w, place, text):
    """Have root write a file of its configuration, and systemd read it."""
    file = w.base / Path(place).name
    file.write_text(text)
    ask(f"mkdir -p {Path(place).parent}; cp {file} {place}; systemctl daemon-reload")


# vmspawn makes the guest's memory private and gives it the kernel's vsock; this machine
# has none, so QEMU is told to share the memory with vhost-device-vsock.
VMSPAWN = """\
[Service]
Environment=SYSTEMD_VMSPAWN_QEMU_EXTRA="-serial file:{console} -object memory-backend-memfd,id=m9,size=512M,share=on -machine memory-backend=m9 -chardev socket,id=vs9,path={vhost} -device vhost-user-vsock-pci,chardev=vs9"
ExecStart=
ExecStart=systemd-vmspawn --quiet --register=yes --keep-unit --machine=%i --kvm=no --vsock=no --tpm=no --firmware=none --ram=512M --cpus=1 --console=headless --notify-ready=no --pass-ssh-key=no --image-disk-type=virtio-blk --image={image} --linux={kernel} --initrd={initrd} {words}
"""


def start(w, unit, text):
    """Have systemd start a machine by its unit and this drop-in."""
    put(w, f"/etc/systemd/system/systemd-vmspawn@{unit}.service.d/test.conf", text)
    ask(
        f"systemctl start systemd-vmspawn@{unit} || journalctl -u systemd-vmspawn@{unit}"
    )


@asynccontextmanager
async def vsock(w, name="vm"):
    """vhost-device-vsock of the person's, which a QEMU of root's will use."""
    place = w.base / name
    place.mkdir(mode=0o700)
    tool = find_vhost_device_vsock(w.paths)
    process = await spawn_backend(tool, place, draw_cid())
    try:
        await eventually(lambda: takes_connections(place / BACKEND_SOCKET))
        yield place
    finally:
        for console in w.base.glob("*.console"):
            print(console.read_text(errors="replace")[-4000:])
        process.kill()
        await process.wait()
        process.close()


def drop_in(w, vhost, name):
    """What a machine of our guest image needs beyond the unit of systemd's."""
    image = find_image(w.paths)
    folder = w.base / f"{name}.d"
    folder.mkdir()
    initrd = w.base / f"{name}.initrd"
    shutil.copy(image.write_initrd(folder, {}), initrd)
    # vmspawn wants to write to its disk.
    disk = w.base / f"{name}.disk"
    shutil.copy(image.root, disk)
    words = ("root=/dev/vda", "console=ttyS0", "panic=-1", f"vitrail.name={name}")
    return VMSPAWN.format(
        vhost=vhost,
        image=disk,
        kernel=f"{HOST}{image.kernel}",
        initrd=initrd,
        console=w.base / f"{name}.console",
        words=" ".join((*words, *MACHINES[Accel.TCG].kernel_args)),
    )


async def cut(w, sandbox, before=0):
    """Wait until a sandbox's lease has ended, and its windows with it."""

    async def ended():
        found = w.events("lease.end", sandbox=sandbox)
        return len(found) > before and found[-1]

    assert (await eventually(ended, deadline=60))["reason"] == "it has ended"

    async def gone():
        return not windows(await w.comp.tree())

    await eventually(gone)


@AS_PERSON
async def test_vmspawn():
    async with world({}) as w, vsock(w) as place:
        hybrid = f'hybrid = "{place / VSOCK_DIRECTORY / UDS_NAME}"\n'
        w.write_record("work", RECORD.format("lab") + hybrid)
        start(w, "lab", drop_in(w, place / BACKEND_SOCKET, "lab"))
        held = await leased(w, "work")
        words = Path(f"/proc/{held.pid}/cmdline").read_bytes().split(b"\0")
        assert b"qemu" in words[0], "machined's leader is QEMU"
        assert os.stat(f"/proc/{held.pid}").st_uid == 0
        title = "of vmspawn"
        last, _ = await w.run("work", "foot", "-T", title, "sleep", "1000")
        assert last.started.sandbox == "work"
        await wait_window(w.comp, title=title)
        await wait_frames(w.comp, {f"[work] {title}": {GREEN}})
        begin = await w.only_event("lease.begin")
        assert (begin["sandbox"], begin["pid"]) == ("work", held.pid)
        # A program of the person's own is not the machine.
        with socket.socket(socket.AF_UNIX) as outside:
            outside.connect(f"{place / VSOCK_DIRECTORY / UDS_NAME}_6501")
            await w.wait_event("stream.refused", sandbox="work")
        ask(f"kill -KILL {held.pid}")
        await cut(w, "work")
        assert not (place / VSOCK_DIRECTORY / f"{UDS_NAME}_6501").exists()


@AS_PERSON
async def test_two_machines():
    """Two real machines at once, a third that would be the first, and the next one."""
    async with world({}) as w, vsock(w) as place, vsock(w, "till-vm") as other:
        for name, machine, at in (("work", "lab", place), ("bank", "till", other)):
            hybrid = f'hybrid = "{at / VSOCK_DIRECTORY / UDS_NAME}"\n'
            colour = "green" if name == "work" else "orange"
            text = RECORD.replace("green", colour).format(machine)
            w.write_record(name, text + hybrid)
            start(w, machine, drop_in(w, at / BACKEND_SOCKET, machine))
        first, beside = await leased(w, "work"), await leased(w, "bank")
        for lease in (first, beside):
            agent = {"lease": lease.id, "service": "vitrail.Agent"}
            await w.wait_event("stream.opened", deadline=200, **agent)
        for name, title in (("work", "in the lab"), ("bank", "at the till")):
            await w.run(name, "foot", "-T", title, "sleep", "1000")
        both = {"[work] in the lab": {GREEN}, "[bank] at the till": {ORANGE}}
        await wait_window(w.comp, count=2, deadline=200)
        await wait_frames(w.comp, both)
        for name, host in (("work", "lab"), ("bank", "till")):
            assert await w.output(name, "uname", "-n") == (0, f"{host}\n".encode())

        # Its name is taken, as machined says; its connections are another process's.
        sockets = place / VSOCK_DIRECTORY
        text = drop_in(w, vhost_of(w), "third")
        async with impostor(w, sockets, cid_of(w, sockets)) as taker:
            start(w, "named", text.replace("--machine=%i", "--machine=lab"))
            state = w.base / "unit-state"
            show = "systemctl show --value --property=ActiveState"
            ask(f"{show} systemd-vmspawn@named > {state}.new; mv {state}.new {state}")
            await eventually(state.exists)
            assert state.read_text() == "failed\n"
            assert (await leased(w, "work")).id == first.id
            start(w, "third", text)
            found = await w.wait_event("stream.refused", deadline=200, sandbox="work")
            assert str(taker.pid) in str(found), found
            assert (await leased(w, "work")).id == first.id
            await wait_frames(w.comp, both)
            ask("systemctl stop systemd-vmspawn@third")

        ask(f"kill -KILL {first.pid}")
        ended = await w.wait_event("lease.end", lease=first.id)
        closed = w.events("stream.closed", lease=first.id)
        assert closed
        assert all(e["sequence"] < ended["sequence"] for e in closed)
        await wait_frames(w.comp, {"[bank] at the till": {ORANGE}})
        assert (await leased(w, "bank")).id == beside.id


# As in docs/launchers/machined.md, with the programs of this machine.
NSPAWN = """\
[Exec]
Boot=no
Parameters=/wait
Environment=WAYLAND_DISPLAY=/run/vitrail/wayland-0
Environment=PULSE_SERVER=unix:/run/vitrail/vitrail.Audio
Environment=XDG_RUNTIME_DIR=/run
Environment=LANG=C.UTF-8

[Files]
BindReadOnly={sockets}:/run/vitrail
{shared}

[Network]
Private=yes
VirtualEthernet=no
"""
DROP_IN = """\
[Unit]
ConditionPathIsDirectory={sockets}
"""


@AS_PERSON
async def test_nspawn():
    """A container of systemd-nspawn@.service, which the real machined knows."""
    async with world({"work": RECORD.format("office")}, image=False) as w:
        sockets = w.paths.runtime / "machined/work"
        await eventually(sockets.is_dir)
        shared = "\n".join(
            f"BindReadOnly={HOST}{path}:{path}"
            for path in SHARED
            if Path(path).exists()
        )
        tree = root_directory(w.base)
        # It waits for its socket, as a program of a container that boots would not.
        program = tree / "wait"
        program.write_text(
            "#!/bin/sh\nuntil [ -S $WAYLAND_DISPLAY ]; do sleep 0.1; done\n"
            "exec /usr/bin/foot -T boxed sleep 1000\n"
        )
        program.chmod(0o755)
        ask(f"cp -a {tree} /var/lib/machines/office; chown -R 0:0 /var/lib/machines")
        settings = NSPAWN.format(sockets=sockets, shared=shared)
        put(w, "/etc/systemd/nspawn/office.nspawn", settings)
        put(
            w,
            "/etc/systemd/system/systemd-nspawn@office.service.d/vitrail.conf",
            DROP_IN.format(sockets=sockets),
        )
        ask("systemctl start systemd-nspawn@office")
        held = await leased(w, "work")
        group = Path(f"/proc/{held.pid}/cgroup").read_text()
        assert "/machine.slice/systemd-nspawn@office.service" in group
        await wait_window(w.comp, title="boxed")
        await wait_frames(w.comp, {"[work] boxed": {GREEN}})
        # A program of the person's own, outside, is not the container.
        with socket.socket(socket.AF_UNIX) as outside:
            outside.connect(str(sockets / "wayland-0"))
            await w.wait_event("stream.refused", sandbox="work")
        ask("machinectl terminate office")
        await cut(w, "work")
        # The next one of the name is leased, and an ordinary stop ends it.
        before = len(w.events("lease.begin"))
        ask("systemctl start systemd-nspawn@office")
        await eventually(lambda: len(w.events("lease.begin")) > before, deadline=60)
        await wait_window(w.comp, title="boxed")
        ask("systemctl stop systemd-nspawn@office")
        await cut(w, "work", 1)


def flags(pid, path):
    """How a process has a file open (proc(5), fdinfo)."""
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        if fd.exists() and fd.readlink() == path:
            text = Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text()
            yield int(text.partition("flags:")[2].split()[0], 8)


@AS_PERSON
async def test_launch_kind():
    """``brokerctl run`` of a machine of vmspawn, and its end with a killed run."""
    async with world({"work": OWN}) as w:
        env = own_vmspawn(w)
        title = "of vmspawn"
        words = ("run", "work", "--", "foot", "-T", title, "sleep", "1000")
        async with running(*words, env=env) as child:
            held = await leased(w, "work")
            await wait_window(w.comp, title=title, deadline=300)
            await wait_frames(w.comp, {f"[work] {title}": {GREEN}})
            command = Path(f"/proc/{held.pid}/cmdline").read_bytes().split(b"\0")
            assert b"qemu" in command[0]
            assert b"-uuid" in command
            group = Path(f"/proc/{held.pid}/cgroup").read_text()
            assert ".scope" in group, group
            # A guest's writes go to a copy: nothing has the image open for them.
            image = find_image(w.paths).root
            opened = [mode & os.O_ACCMODE for mode in flags(held.pid, image)]
            assert set(opened) <= {os.O_RDONLY}, opened
            # A second program goes into the same machine, which lives on after it.
            said = await brokerctl(
                *("run", "-q", "--no-window", "work", "--", "uname", "-n"),
                env=env,
                deadline=300,
            )
            assert (said.code, said.out) == (0, "work\n"), said
            assert (await leased(w, "work")).id == held.id
            child.kill()
            await child.wait()
        await cut(w, "work")
        await eventually(lambda: not Path(f"/proc/{held.pid}").exists(), deadline=60)
        assert not (w.paths.runtime / "libvirt/work").exists()
