"""Guest images for real: built without root, equal twice, booted, seen."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from broker.cli.images.building.build import build_image
from broker.core.errors import SetupError
from broker.core.paths import Paths, find_paths
from broker.helpers.process.spawn import PIPE, spawn
from broker.host.images import store
from broker.host.images.store import ImageSpec
from broker.host.vmm.running import EndKind
from broker.ipc import agent
from tests.kit.vm.agent_broker import agent_broker
from tests.kit.vm.copies import output, stage
from tests.kit.vm.machines import allow_copies, boot_of, machine, require_vm
from tests.kit.vm.tinyguest import ordinary_user
from tests.kit.wayland.compositor import desktop, short_directory, wait_window

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
DRAW_KEYS = ("dbus", "openssh-server", "ssl-cert")
# The key's file is drawn in the background.
HOST_KEYS = """
until [ -s /etc/ssh/ssh_host_ed25519_key.pub ]; do sleep 0.1; done
ls /etc/ssh/ssh_host_*_key; cat /etc/ssh/ssh_host_*.pub
"""


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """Separate paths, in a place that the build's other users may enter."""
    ordinary_user()
    scratch = Path("/var/tmp") / f"vitrail-test-{os.getpid()}"
    scratch.mkdir(mode=0o711)
    monkeypatch.setenv("TMPDIR", str(scratch))
    yield Paths(tmp_path / "run", tmp_path / "state", tmp_path / "cache/vitrail", ())
    assert list(scratch.iterdir()) == [], "nothing is left in the scratch place"
    scratch.rmdir()


def contents(paths):
    return sorted(path.name for path in paths.images.iterdir())


async def killed_build(paths, at):
    """Build in another process; kill it, and all it started, when it says ``at``."""
    env = {**os.environ, "XDG_CACHE_HOME": str(paths.cache.parent)}
    env["XDG_RUNTIME_DIR"] = "/tmp"  # short; a build makes nothing there
    words = [Path(sys.executable).with_name("brokerctl"), "image", "build"]
    child = spawn(words, env=env, cwd=Path(__file__).parents[2], stderr=PIPE)
    said = b""
    async with trio.lowlevel.FdStream(os.dup(child.popen.stderr.fileno())) as stream:
        async for chunk in stream:
            said += chunk
            if at in said:
                break
    child.kill(signal.SIGKILL)
    await child.wait()
    child.popen.stderr.close()
    assert at in said, said


async def test_equal_packages_give_equal_bytes_even_after_a_killed_build(paths):
    await killed_build(paths, b"unpacking packages")
    with pytest.raises(SetupError, match="there is no guest image"):
        store.find_image(paths)
    assert ".default.scratch" in contents(paths), "a killed build leaves a note"

    first = await build_image(paths, ImageSpec(), print)
    kept = {
        file.name: file.read_bytes()
        for file in (first.kernel, first.initrd, first.root)
    }
    whole = {".default.lock", first.directory.name, "default"}
    assert set(contents(paths)) == whole, "and the next removes it"
    assert await build_image(paths, ImageSpec(), print) == first, "not built again"

    second = await build_image(paths, ImageSpec(), print, force=True)
    assert first.directory.exists(), "the one before stays for a rollback"
    assert second.manifest.digest == first.manifest.digest
    for file in (second.kernel, second.initrd, second.root):
        assert file.read_bytes() == kept[file.name], file.name


async def test_cancelled_build_leaves_nothing(paths):
    with trio.CancelScope() as scope:

        def progress(text):
            if "unpacking" in text:
                scope.cancel()

        await build_image(paths, ImageSpec(), progress)
    assert scope.cancelled_caught
    assert contents(paths) == [".default.lock"]


async def test_unknown_package_is_named_and_leaves_nothing(paths):
    spec = ImageSpec(packages=("no-such-package-xyz",))
    steps = []
    with pytest.raises(SetupError, match="not contain the package no-such-package-xyz"):
        await build_image(paths, spec, steps.append)
    # Before the base system is downloaded, which takes minutes.
    assert not [step for step in steps if "install" in step or "download" in step]
    assert contents(paths) == [".default.lock"]


# -- booted and seen ----------------------------------------------------------------


async def splice(one, other):
    async def copy(source, sink):
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for chunk in source:
                await sink.send_all(chunk)
        await one.aclose()
        await other.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy, one, other)
        nursery.start_soon(copy, other, one)


@pytest.fixture
def _vm():
    require_vm()


@pytest.mark.usefixtures("_vm")
@pytest.mark.parametrize("suite", ["bookworm", "trixie", "sid"])
async def test_foot_of_each_suite_is_seen(suite):
    """waypipe 0.8, 0.9 and 0.11 in the guest, this machine's at the other end."""
    name = store.DEFAULT_NAME if suite == store.DEFAULT_SUITE else suite
    paths = find_paths()
    image = await build_image(paths, ImageSpec(name=name, suite=suite), print)
    with short_directory() as place:
        client = place / "client"
        boot = boot_of(image, place, memory_mib=768)
        async with (
            desktop() as comp,
            machine(place, **boot) as vm,
            agent_broker(vm) as broker,
        ):
            words = ["waypipe", "-c", "none", "--no-gpu", "-s", client, "client"]
            waypipe = spawn(words, env=comp.environment)
            try:
                await show_foot(vm, broker, client, comp, image)
            finally:
                with trio.CancelScope(shield=True):
                    await waypipe.stop()


async def show_foot(vm, broker, client, comp, image):
    async def carry(stream):
        await splice(stream, await trio.open_unix_socket(str(client)))

    title = f"of {image.suite}"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, carry, [broker.listen_display()])
        await vm.cont()
        hello = await broker.accept()
        assert image.waypipe.startswith(hello.waypipe)
        assert hello.kernel == image.manifest.kernel
        await broker.run("foot", "-T", title, display=True)
        await wait_window(comp, title=title, deadline=60)
        await broker.send(agent.AgentPowerOff())
        end = await vm.wait()
        assert end.kind is EndKind.GUEST
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("_vm")
async def test_copies_of_an_image_with_ssh_have_host_keys_of_their_own(monkeypatch):
    """Packages draw keys while they are installed: all machines would have the same."""
    allow_copies(monkeypatch)
    packages = (*ImageSpec().packages, *DRAW_KEYS)
    spec = replace(ImageSpec(), name="ssh", packages=packages)
    image = await build_image(find_paths(), spec, print)
    keys = []
    async with stage(image) as s:
        await s.starter.make(await s.request("maker"))
        memory = (s.place / "parents" / "web" / "memory").read_bytes()
        assert b"BEGIN OPENSSH PRIVATE KEY" not in memory
        for name in ("one", "two"):
            async with s.machine(name) as (started, broker, _vm):
                assert (started.how, started.why) == ("copy", "")
                keys.append(await output(broker, HOST_KEYS))
    one, two = keys
    assert one[0] == two[0] == "/etc/ssh/ssh_host_ed25519_key"
    assert one[1].startswith("ssh-ed25519 ")
    assert one[1].split()[1] != two[1].split()[1]
