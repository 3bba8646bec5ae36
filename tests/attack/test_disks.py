"""Attack on disks of the user's images: by the path, by the content, by another sandbox."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import closing
from pathlib import Path

import pytest
import trio

from broker.core.errors import RefusedError, UpstreamError
from broker.core.files.opened_folder import OpenedFolder
from broker.helpers.mounts import opened, tool
from broker.helpers.mounts.opened import open_image
from broker.helpers.mounts.tool import opened_device
from broker.host.folders import disks
from broker.host.folders.disks import Disks, node_of
from broker.host.launchers.microvm_machine import MicroVmMachine
from broker.host.vmm.qmp import QmpError


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/id").write_text("secret")
    (home / "a.img").write_bytes(b"content")
    return home


def opens(home, name="a.img", *, write=False, writable=()):
    return open_image(str(home / name), "data", home, (), writable, write=write)


def refused(home, name="a.img", **more):
    with pytest.raises(RefusedError) as caught:
        opens(home, name, **more).close()
    return caught.value.message


def test_only_an_ordinary_file_of_the_users_is_a_disk(home):
    os.mkfifo(home / "fifo")
    (home / "here").mkdir()
    for name in ("fifo", "here"):
        assert "neither an ordinary file" in refused(home, name)
    for path in ("/dev/null", "/etc/passwd", "/proc/self/mem"):
        assert "it is a system directory" in refused(home, path)
    assert "hidden directories" in refused(home, ".ssh/id")
    assert "No such file" in refused(home, "none")


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize(
    ("magic", "name"),
    [(b"QFI\xfb", "qcow2"), (b"KDMV", "VMDK"), (b"vhdxfile", "VHDX")],
)
def test_image_of_another_format_is_refused(home, magic, name, write):
    """The guest's mkfs destroyed an image whose content it had never seen."""
    (home / "b.img").write_bytes(magic + bytes(1024))
    message = refused(home, "b.img", write=write)
    assert message.endswith(
        f"it is a {name} image, which the sandbox would see as it is stored"
    )
    (home / "b.img").write_bytes(b"")
    opens(home, "b.img").close()


def test_a_file_of_another_user_is_no_disk(home, monkeypatch):
    monkeypatch.setattr("os.getuid", lambda: os.geteuid() + 1)
    assert "another user" in refused(home)


def test_a_link_leads_to_the_file_that_is_checked(home):
    (home / "innocent.img").symlink_to(home / ".ssh/id")
    assert "hidden directories" in refused(home, "innocent.img")


def test_a_link_that_a_sandbox_made_is_not_followed(home):
    shared = home / "shared"
    shared.mkdir()
    (home / "other.img").write_bytes(b"another sandbox's")
    (shared / "a.img").symlink_to(home / "other.img")
    assert "link" in refused(home, "shared/a.img", writable=[shared])


def test_a_link_that_comes_behind_the_check_is_not_followed(home, monkeypatch):
    real = os.path.realpath

    def swapped(path, **more):
        found = real(path, **more)
        if found.endswith("/a.img"):
            (home / "a.img").unlink()
            (home / "a.img").symlink_to(home / ".ssh/id")
        return found

    monkeypatch.setattr(opened.os.path, "realpath", swapped)
    assert "cannot use" in refused(home)


def test_an_image_that_is_only_read_is_not_opened_again_to_write(home):
    """By its name in /proc, as a QEMU that was taken over has it."""
    image = opens(home)
    assert os.read(image.fd, 7) == b"content"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(image.fd, b"x")
    for how in (os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        with pytest.raises(OSError, match="Read-only file system"):
            os.open(f"/proc/self/fd/{image.fd}", how)
    with pytest.raises(OSError, match="Read-only file system"):
        os.chmod(f"/proc/self/fd/{image.fd}", 0o777)
    image.close()
    assert (home / "a.img").read_bytes() == b"content"


def test_an_image_that_is_changed_is_one_sandboxs(home):
    (home / "b.img").hardlink_to(home / "a.img")
    first, second = opens(home), opens(home)
    assert "another sandbox or program uses it" in refused(home, "b.img", write=True)
    kept = os.dup(second.fd)  # QEMU's copy
    first.close()
    second.close()
    assert "another sandbox or program uses it" in refused(home, write=True)
    os.close(kept)
    writer = opens(home, write=True)
    assert "another sandbox or program uses it" in refused(home, "b.img")
    assert os.write(writer.fd, b"changed") == 7
    writer.close()
    opens(home).close()


def test_an_image_that_a_program_of_the_users_locks_is_no_disk(home):
    with (home / "a.img").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "uses it" in refused(home)


@pytest.mark.parametrize("write", [False, True])
def test_the_content_of_an_image_chooses_no_driver(write):
    node = node_of(2, 5, write=write)
    assert node["driver"] == "raw"
    file = node["file"]
    assert (file["driver"], file["filename"]) == ("file", "/dev/fdset/5")
    assert node["read-only"] is file["read-only"] is not write


class FakeQmp:
    """A QEMU with two ports, whose guest keeps what it has, and may refuse devices."""

    def __init__(self, *, keeps=False, refuses=False):
        self.keeps, self.refuses, self.status = keeps, refuses, "running"
        self.devices = ["diskport0", "diskport1", "net"]
        self.nodes, self.ran = set(), []

    async def execute(self, command, arguments=None, fds=()):
        self.ran.append(command)
        match command:
            case "add-fd":
                return {"fdset-id": len(fds)}
            case "query-status":
                return {"status": self.status}
            case "qom-list":
                return [{"name": name} for name in self.devices]
            case "blockdev-add":
                self.nodes.add(arguments["node-name"])
            case "device_add" if self.refuses:
                raise QmpError(command, "GenericError", "no room")
            case "device_add":
                self.devices.append(arguments["id"])
            case "device_del" if arguments["id"] not in self.devices:
                raise QmpError(command, "DeviceNotFound", "not found")
            case "device_del" if not self.keeps:
                self.devices.remove(arguments["id"])
            case "blockdev-del":
                self.nodes.discard(arguments["node-name"])
        return {}


def machine(qmp):
    class Machine(MicroVmMachine):
        def __init__(self):
            self.ours = qmp

        @property
        def qmp(self):
            return self.ours

        def alive(self):
            return frozenset({1})

    return Machine()


@pytest.fixture
def image(home):
    image = opens(home)
    yield OpenedFolder(image.path, image.fd, tag="data")
    image.close()


async def test_a_disk_is_there_while_it_is_permitted(image):
    qmp = FakeQmp()
    async with Disks().attached(machine(qmp), image, write=False) as disk:
        assert (disk.path, disk.place) == ("/dev/disk/by-tag/data", 8)
        assert "disk0" in qmp.devices
        assert qmp.nodes == {"disknode0"}
    assert not disk.kept
    assert "disk0" not in qmp.devices
    assert qmp.nodes == set()
    assert qmp.ran.count("remove-fd") == 1


async def test_a_disk_that_was_refused_leaves_nothing(image):
    qmp = FakeQmp(refuses=True)
    with pytest.raises(UpstreamError, match="no room"):
        async with Disks().attached(machine(qmp), image, write=False):
            pass
    assert qmp.nodes == set()
    assert qmp.ran.count("remove-fd") == 1


async def test_a_guest_that_keeps_its_disk_is_told_of(image, monkeypatch):
    monkeypatch.setattr(disks.limits, "DISK_UNPLUG_SECONDS", 0.2)
    qmp = FakeQmp(keeps=True)
    async with Disks().attached(machine(qmp), image, write=False) as disk:
        with pytest.raises(RefusedError, match="does not let the disk go"):
            await disk.release()
    assert disk.kept
    assert await Disks().forget(machine(qmp))
    qmp.keeps = False
    assert not await Disks().forget(machine(qmp))
    assert "disk0" not in qmp.devices


@pytest.mark.parametrize("alive", [True, False])
async def test_a_machine_that_does_not_answer_keeps_its_disk(image, alive):
    """A suspended one: it has the disk again when it is resumed."""
    qmp = FakeQmp()

    async def no_answer(command, *_, **__):
        raise UpstreamError(f"the answer to {command} did not come")

    suspended = machine(qmp)
    suspended.alive = lambda: frozenset({1} if alive else ())
    async with Disks().attached(suspended, image, write=False) as disk:
        qmp.execute = no_answer
    assert disk.kept == alive


async def test_a_guest_that_never_ran_is_not_waited_for(image):
    qmp = FakeQmp(keeps=True)
    qmp.status = "prelaunch"
    with trio.fail_after(5):
        async with Disks().attached(machine(qmp), image, write=False) as disk:
            pass
    assert disk.kept


async def test_there_is_no_more_than_the_machine_has_ports_for(image):
    qmp, plugs = FakeQmp(), Disks()
    async with (
        plugs.attached(machine(qmp), image, write=False) as first,
        plugs.attached(machine(qmp), image, write=False) as second,
    ):
        assert (first.port, second.port) == (0, 1)
        with pytest.raises(RefusedError, match="no free port"):
            async with plugs.attached(machine(qmp), image, write=False):
                pass


async def test_a_box_has_no_disk(image):
    with pytest.raises(RefusedError, match="only micro VMs"):
        async with Disks().attached(object(), image, write=False):
            pass


# -- block devices of this machine -----------------------------------------------------


def _devices():
    """Block devices that this user may open to write, and that nothing uses."""
    return [
        str(path)
        for path in sorted(Path("/dev").glob("*"))
        if path.is_block_device() and os.access(path, os.R_OK | os.W_OK)
    ]


NEEDS_DEVICE = pytest.mark.skipif(
    not _devices(),
    reason="this user may open no block device (chown one of /dev/loop*)",
)


def test_a_device_that_the_user_may_not_open_is_refused_with_what_to_do(home):
    closed = [
        path
        for path in Path("/dev").glob("*")
        if path.is_block_device() and not os.access(path, os.R_OK)
    ]
    if not closed:
        pytest.skip("each block device of this machine may be opened, or there is none")
    with pytest.raises(RefusedError, match="Permission denied") as caught:
        opens(home, str(closed[0]))
    assert "setfacl" in caught.value.hint


def test_a_device_elsewhere_than_in_dev_is_refused(home, monkeypatch):
    monkeypatch.setattr(opened.stat, "S_ISBLK", lambda mode: mode > 0)
    monkeypatch.setattr(opened.stat, "S_ISREG", lambda _: False)
    assert "neither an ordinary file" in refused(home)


@NEEDS_DEVICE
@pytest.mark.parametrize("write", [False, True])
def test_a_device_is_one_sandbox_s_and_is_not_opened_again(home, write):
    device = _devices()[0]
    with closing(opens(home, device, write=write)) as disk:
        mode = fcntl.fcntl(disk.fd, fcntl.F_GETFL) & os.O_ACCMODE
        assert mode == (os.O_RDWR if write else os.O_RDONLY)
        for other in (False, True):
            assert "uses the device" in refused(home, device, write=other)
        # As a QEMU that was taken over tries.
        for flags in (os.O_RDONLY, os.O_RDWR):
            with pytest.raises(PermissionError):
                os.open(f"/proc/self/fd/{disk.fd}", flags)
    opens(home, device, write=write).close()


def test_only_a_device_has_qemu_s_driver_for_devices():
    assert node_of(0, 1, write=False)["file"]["driver"] == "file"
    node = node_of(0, 1, write=False, device=True)
    assert (node["driver"], node["file"]["driver"]) == ("raw", "host_device")
    assert node["read-only"]
    assert node["file"]["read-only"]


def opened_as_device(home):
    """A file, opened as a block device is."""
    fd = os.open(home / "a.img", os.O_PATH)
    try:
        return opened_device(fd, str(home / "a.img"), write=False)
    finally:
        os.close(fd)


def test_a_device_is_open_on_a_mount_without_devices(home):
    fd = opened_as_device(home)
    flags = os.fstatvfs(fd).f_flag
    os.close(fd)
    assert flags & os.ST_NODEV


def test_a_device_is_claimed(home, monkeypatch):
    real = os.open

    def busy(path, flags, *more, **named):
        if flags & os.O_EXCL and str(path).startswith("/proc/self/fd/"):
            raise OSError(errno.EBUSY, "busy")
        return real(path, flags, *more, **named)

    monkeypatch.setattr(tool.os, "open", busy)  # the child is a copy of this process
    with pytest.raises(OSError, match="busy") as caught:
        os.close(opened_as_device(home))
    assert caught.value.errno == errno.EBUSY
