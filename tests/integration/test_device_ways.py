"""The ways into machines that other programs started: libvirt, QMP, crosvm.

libvirt and QEMU are real; this machine has no USB, so their answers about a device
that is not there is tried, and pulling out is tried with devices of QEMU's own.
crosvm is a script with its words: there is no package of it.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace

import pytest
import trio

from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.lease import Lease
from broker.core.names import LeaseId, SandboxName
from broker.helpers.process.spawn import run_tool, spawn
from broker.host.devices.crosvm import CrosvmDevice
from broker.host.devices.host_devices import DeviceHost
from broker.host.devices.libvirt import LibvirtDevice
from broker.net.peers.identity import ContainerClaim, SharedClaim
from broker.root import devices_service as service_module
from tests.integration.test_device_service import service
from tests.integration.test_usb_qemu import machine
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.shared import Shared
from tests.kit.vm.wide_jail import widen_jail
from tests.kit.wayland.compositor import short_directory

LEASE = Lease(LeaseId("0123456789abcdef"), SandboxName("work"), SandboxName("work"), 1)
_URI = "qemu:///session"
_OF_LIBVIRT = ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")
_DOMAIN = """\
<domain type='qemu'><name>vt</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<controller type='usb' model='qemu-xhci'/><memballoon model='none'/></devices></domain>
"""
_KEYBOARD = """\
<input type='keyboard' bus='usb'><alias name='ua-vitrail-dev-1'/></input>
"""


@asynccontextmanager
async def domain():
    """Our libvirt with a running domain; gives a function that runs virsh."""
    if shutil.which("libvirtd") is None or shutil.which("virsh") is None:
        pytest.skip("libvirt is not installed (libvirt-daemon-driver-qemu)")
    with short_directory() as place:
        env = {**os.environ, **dict.fromkeys(_OF_LIBVIRT, str(place))}
        (place / "domain.xml").write_text(_DOMAIN)
        (place / "keyboard.xml").write_text(_KEYBOARD)
        log = os.open(place / "libvirtd.log", os.O_WRONLY | os.O_CREAT)
        daemon = spawn(["libvirtd"], env=env, stdout=log, stderr=log)
        os.close(log)

        async def virsh(*words):
            argv = ["virsh", "--quiet", "--connect", _URI, *words]
            return (await run_tool(argv, env=env)).decode()

        try:
            libvirt = place / "libvirt/libvirt-sock"
            await eventually(lambda: takes_connections(libvirt))
            await virsh("create", str(place / "domain.xml"))
            try:
                yield virsh, place
            finally:
                with trio.CancelScope(shield=True):
                    await virsh("destroy", "vt")
        finally:
            await daemon.kill_and_wait()


shared_domain = Shared(domain)


@contextmanager
def its_user(place):
    """Have our programs, which the stage does not start, find the libvirt in ``place``."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _OF_LIBVIRT:
            patch.setenv(name, str(place))
        yield


@shared_domain.test
async def test_libvirt_that_has_no_such_device_is_reported_and_nothing_stays(running):
    virsh, place = running
    with its_user(place):
        device = LibvirtDevice(_URI, "vt", "dev-1")
        with pytest.raises(UpstreamError, match=r"usb|USB") as caught:
            await device.attach(1, 99)
        assert "node" in caught.value.hint
        assert "hostdev" not in await virsh("dumpxml", "vt")


@shared_domain.test
async def test_libvirt_pulls_a_device_out_by_our_alias(running):
    virsh, place = running
    with its_user(place):
        device = LibvirtDevice(_URI, "vt", "dev-1")
        assert not await device.present()
        await virsh("attach-device", "vt", str(place / "keyboard.xml"), "--live")
        assert await device.present()
        await device.detach()
        assert "ua-vitrail-dev-1" not in await virsh("dumpxml", "vt")
        await device.detach()


@shared_domain.test
async def test_domain_that_does_not_run_has_nothing(running):
    _virsh, place = running
    with its_user(place):
        assert not await LibvirtDevice(_URI, "other", "dev-1").present()


_CROSVM = """\
#!/bin/sh
# crosvm's words: usb attach NUMBERS PATH SOCKET, usb detach PORT SOCKET, usb list SOCKET
test "$2" = list || echo "$@" >> {log}
case "$2" in
attach) readlink "$4" >> {log}; readlink "$5" >> {log}; > {log}.taken; {attach} ;;
detach) readlink "$4" >> {log}; rm -f {log}.taken; echo {detach} ;;
list) echo "devices 1 046d c31c$(test -e {log}.taken && echo ' 3 0781 5567')" ;;
esac
"""


@pytest.fixture
def crosvm(tmp_path, monkeypatch):
    """Installs the script; gives its log."""

    def install(attach="echo ok 3", detach="ok 3"):
        path = tmp_path / "crosvm"
        log = tmp_path / "log"
        path.write_text(_CROSVM.format(log=log, attach=attach, detach=detach))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        # The real one is one program without a further file, and writes no log.
        more = [word for here in ("/usr", "/bin") for word in ("--ro-bind", here, here)]
        widen_jail(path, [*more, "--bind", str(tmp_path), str(tmp_path)])
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return log

    return install


@pytest.fixture
def control():
    """The socket of a crosvm."""
    with short_directory() as place, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "control"))
        yield place / "control"


async def test_crosvm_is_given_the_open_node_and_asked_for_its_port(crosvm, control):
    log = crosvm()
    node = os.open("/dev/null", os.O_RDWR)
    device = CrosvmDevice(control)
    await device.attach(node)
    await device.detach()
    await device.detach()
    os.close(node)
    first, opened, there, last, again = log.read_text().splitlines()
    assert first.startswith("usb attach 00:00:00:00 /proc/self/fd/")
    assert opened == "/dev/null"
    assert last.startswith("usb detach 3 /proc/self/fd/")
    assert there == again == str(control)


async def test_a_link_to_the_socket_of_another_crosvm_is_refused(crosvm, control):
    """A taken-over crosvm can put it in the place of its own."""
    log = crosvm()
    planted = control.with_name("planted")
    planted.symlink_to(control)
    node = os.open("/dev/null", os.O_RDWR)
    for wrong in (planted, control.parent):
        with pytest.raises(UpstreamError, match="not a socket"):
            await CrosvmDevice(wrong).attach(node)
    os.close(node)
    assert not log.exists()


@pytest.mark.parametrize(
    ("reply", "error"),
    [("no_available_port", RefusedError), ("failed_to_open_device", UpstreamError)],
)
async def test_crosvm_that_refuses_is_reported(crosvm, control, reply, error):
    crosvm(attach=f"echo {reply}")
    node = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(error):
        await CrosvmDevice(control).attach(node)
    os.close(node)


@pytest.mark.parametrize("attach", ["exit 1", "echo half an answer"])
async def test_a_device_that_crosvm_took_without_an_answer_is_pulled_out(
    crosvm, control, attach
):
    """The user was told that it was not attached; another one's device stays."""
    log = crosvm(attach)
    node = os.open("/dev/null", os.O_RDWR)
    device = CrosvmDevice(control)
    with pytest.raises(UpstreamError):
        await device.attach(node)
    await device.detach()
    os.close(node)
    assert "usb detach 3 " in log.read_text()
    assert "usb detach 1 " not in log.read_text()
    assert not log.with_name("log.taken").exists()


async def test_crosvm_that_is_not_installed(monkeypatch, tmp_path, control):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError):
        await CrosvmDevice(control).attach(0)


_MACHINE = """
[[device]]
sandboxes = ["work"]
with-interface = {{ op = "match-all", values = ["08:*:*"] }}
[[machine]]
sandbox = "work"
{way}
"""


@asynccontextmanager
async def device_host(monkeypatch, way):
    """A host with ``vitrail-devices``; nodes are /dev/null."""
    monkeypatch.setattr(
        service_module, "open_node", lambda held: os.open("/dev/null", os.O_RDWR)
    )
    async with service(monkeypatch, _MACHINE.format(way=way)) as place:
        made = DeviceHost(lambda lease: None, path=place.path)
        async with trio.open_nursery() as nursery:
            await nursery.start(made.run)
            await eventually(lambda: not made.problem)
            (item,) = (await made.devices()).devices
            yield made, item.number
            nursery.cancel_scope.cancel()


async def test_record_of_the_host_names_crosvm(monkeypatch, crosvm, control):
    log = crosvm()
    way = f'crosvm = "{control}"'
    async with device_host(monkeypatch, way) as (host, number):
        async with host.attached(number, LEASE) as made:
            assert made.backend == "crosvm"
            (item,) = (await host.devices()).devices
            assert item.state == "attached"
        (item,) = (await host.devices()).devices
        assert item.state == "plugged"
    assert log.read_text().splitlines()[-2].startswith("usb detach 3")


async def test_record_of_the_host_names_a_monitor_of_qemu(monkeypatch):
    """Its machine has no USB: QEMU's own refusal, in our words, and nothing stays."""
    with short_directory() as place:
        path = place / "second"
        async with (
            machine("-qmp", f"unix:{path},server=on,wait=off"),
            device_host(monkeypatch, f'qmp = "{path}"') as (host, number),
        ):
            for _ in range(2):  # a monitor serves one client: it is kept open
                with pytest.raises(RefusedError, match="no USB controller"):
                    async with host.attached(number, LEASE):
                        raise AssertionError
            (item,) = (await host.devices()).devices
            assert item.state == "plugged"


async def test_sandbox_without_a_way_is_refused_with_what_helps(monkeypatch):
    async with device_host(monkeypatch, 'crosvm = "/nowhere"') as (host, number):
        other = Lease(LEASE.id, SandboxName("web"), SandboxName("web"), 1)
        with pytest.raises(
            RefusedError, match="no method is set up for its machine"
        ) as caught:
            async with host.attached(number, other):
                raise AssertionError
        assert "vhci-hcd" in caught.value.hint


@pytest.mark.parametrize(
    ("claim", "why", "help_"),
    [
        # Rootless Podman's and bubblewrap's alike.
        (ContainerClaim("/run/x", 4026532000), "is a container", "--device"),
        (SharedClaim("/run/x", 1000), "shares your session", "a virtual machine"),
    ],
)
async def test_container_is_refused_with_why(monkeypatch, claim, why, help_):
    async with service(monkeypatch) as place:
        held = SimpleNamespace(claim=claim)
        leases = [SimpleNamespace(lease=LEASE, held=held)]
        made = DeviceHost(lambda lease: None, path=place.path, leases=lambda: leases)
        async with trio.open_nursery() as nursery:
            await nursery.start(made.run)
            await eventually(lambda: not made.problem)
            (item,) = (await made.devices()).devices
            with pytest.raises(RefusedError, match=why) as caught:
                async with made.attached(item.number, LEASE):
                    raise AssertionError
            nursery.cancel_scope.cancel()
        assert help_ in caught.value.hint
