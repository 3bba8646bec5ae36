"""Real containers of systemd-nspawn, started and held."""

from __future__ import annotations

import json
import os
import platform
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.helpers.process.spawn import has_ended
from broker.host.launchers.nspawn import process
from broker.host.launchers.nspawn.arguments import ContainerTree, Scope
from broker.host.launchers.nspawn.process import choose_scope, start_held
from tests.attack.test_podman_vsock import TRIES
from tests.kit.nspawn import skip_without_nspawn
from tests.kit.podman import SHARED, root_directory
from tests.kit.wayland.compositor import short_directory

pytestmark = pytest.mark.slow


@pytest.fixture
def base():
    skip_without_nspawn()
    with short_directory() as path:
        root_directory(path)
        (path / "sockets").mkdir()
        (path / "shared").mkdir()
        yield path


def tree(base, script, **more):
    shared = tuple(Path(path) for path in SHARED if Path(path).exists())
    command = ("/bin/sh", "-c", script)
    folder = (base / "shared",)
    return ContainerTree(
        "work",
        command,
        base / "root",
        base / "sockets",
        read_only=shared,
        read_write=folder,
        **more,
    )


@asynccontextmanager
async def started(wanted):
    held = await start_held(wanted, None)
    try:
        yield held
    finally:
        await held.end()
        process.close_output(held.child)


async def result(base, script):
    """What the script has written to ``result``."""
    async with started(tree(base, f"{{ {script}; }} > {base}/shared/result")) as held:
        held.release()
        with trio.fail_after(60):
            assert await held.child.wait() == 0, held.child.popen.stderr.read()
    return (base / "shared" / "result").read_text()


def groups():
    return list(process._group_of().glob("vitrail-*"))


async def test_it_has_no_right_no_network_and_leaves_nothing(base):
    before = groups()
    text = await result(
        base, "grep -E '^(CapBnd|NoNewPrivs)' /proc/self/status; ls /sys/class/net"
    )
    assert text.split() == ["CapBnd:", "0" * 16, "NoNewPrivs:", "1", "lo"]
    assert groups() == before


async def test_nothing_is_written_to_its_tree_and_its_user_is_the_person_outside(base):
    await result(base, f"touch /here {base}/shared/mine; ls /here")
    assert not (base / "root" / "here").exists()
    assert (base / "shared" / "mine").stat().st_uid == os.getuid()


async def test_it_sees_no_process_and_no_home_of_the_persons(base):
    text = await result(base, "ls -d /proc/[0-9]* | wc -l; ls /home /root 2>&1; id -u")
    lines = text.split()
    assert int(lines[0]) < 10
    assert "user" in lines
    assert lines[-1] == "0"


async def test_a_file_beside_the_tree_adds_nothing(base):
    secret = base / "secret"
    secret.write_text("hunter2")
    # nspawn itself passes over what our options set, such as the binds.
    text = f"[Exec]\nHostname=beside\n[Files]\nBindReadOnly={secret}:/secret\n"
    for name in ("work", "root"):
        (base / f"{name}.nspawn").write_text(text)
    script = "cat /proc/sys/kernel/hostname /secret 2>/dev/null || echo none"
    assert await result(base, script) == "work\nnone\n"


async def test_shell_of_tree_makes_no_namespace_before_limits(base):
    """The gate is the tree's own shell: it runs before limits are set."""
    (base / "root" / "bin").unlink()
    (base / "root" / "bin").mkdir()
    shell = base / "root" / "bin" / "sh"
    shell.write_text(
        "#!/usr/bin/bash\n"
        f"unshare --user true 2>> {base}/shared/early && echo made >> {base}/shared/early\n"
        'exec /usr/bin/bash "$@"\n'
    )
    shell.chmod(0o755)
    assert await result(base, "echo started") == "started\n"
    early = (base / "shared" / "early").read_text()
    assert "unshare failed: No space left on device" in early
    assert "made" not in early


async def test_its_leader_is_the_first_process_inside(base):
    async with started(tree(base, "sleep 1000")) as held:
        numbers = process._numbers(held.leader)
        assert numbers[0] == str(held.leader)
        assert numbers[-1] == "1"
        pidfd = os.pidfd_open(held.leader)
    try:
        assert has_ended(pidfd)
    finally:
        os.close(pidfd)


async def test_what_nspawn_prints_about_a_failure_is_in_the_error(base):
    wanted = tree(base, "true")
    (base / "root" / "usr").rmdir()
    before = groups()
    with pytest.raises(UpstreamError, match=r"systemd-nspawn ended: .*usr"):
        await start_held(wanted, None)
    assert groups() == before


async def test_a_start_that_finds_no_room_for_a_process_leaves_no_group(
    base, monkeypatch
):
    before = groups()

    def spawn(*_words, **_more):
        assert len(groups()) == len(before) + 1
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(process, "spawn", spawn)
    with pytest.raises(BlockingIOError):
        await start_held(tree(base, "true"), None)
    assert groups() == before


async def test_a_start_that_is_cancelled_leaves_no_process_and_no_group(
    base, monkeypatch
):
    begun = []

    async def never(child):
        begun.append(os.pidfd_open(child.pid))
        await trio.sleep_forever()

    monkeypatch.setattr(process, "_leader", never)
    before = groups()
    async with trio.open_nursery() as nursery:

        async def start():
            with scope:
                await start_held(tree(base, "sleep 1000"), None)

        scope = trio.CancelScope()
        nursery.start_soon(start)
        while not begun:
            await trio.lowlevel.checkpoint()
        scope.cancel()
    assert has_ended(begun[0])
    os.close(begun[0])
    assert groups() == before


def test_systemd_of_the_user_is_preferred(tmp_path):
    import socket

    with short_directory() as run, socket.socket(socket.AF_UNIX) as listener:
        (run / "systemd").mkdir()
        listener.bind(str(run / "systemd" / "private"))
        found = choose_scope({"XDG_RUNTIME_DIR": str(run)}, 100, 10)
    assert found == Scope(100, 10)


def test_without_systemd_and_without_a_group_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(process, "may_divide", lambda: False)
    with pytest.raises(SetupError, match="separate control group") as caught:
        choose_scope({}, 100, 10)
    assert "enable-linger" in caught.value.hint


async def test_a_link_that_is_made_while_it_starts_shows_nothing(base, monkeypatch):
    """systemd-nspawn looks up the path itself, after it was looked at."""
    secret, path = base / "secret", base / "shared/sub"
    secret.mkdir()
    path.mkdir()
    taken = process.spawn

    def spawn(*words, **more):
        path.rename(base / "shared/was")
        path.symlink_to(secret)
        return taken(*words, **more)

    monkeypatch.setattr(process, "spawn", spawn)
    before = groups()
    wanted = tree(base, "true")
    wanted = replace(wanted, read_only=(*wanted.read_only, path), read_write=())
    with pytest.raises(RefusedError, match="another sandbox may have changed"):
        async with started(wanted):
            pass
    assert groups() == before


async def test_the_root_is_the_one_that_was_looked_at(base, monkeypatch):
    """An overlay does not show the layers below it: this is bound before it is made."""
    root_directory(base / "other")
    taken = process.spawn

    def spawn(*words, **more):
        (base / "root").rename(base / "was")
        (base / "other/root").rename(base / "root")
        return taken(*words, **more)

    monkeypatch.setattr(process, "spawn", spawn)
    with pytest.raises(UpstreamError, match="another sandbox has changed"):
        async with started(tree(base, "true")):
            pass


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the calls are of x86")
async def test_its_programs_have_no_vsock(base):
    """systemd-nspawn's own filter leaves it open, and network namespaces as well."""
    (base / "shared/tries.py").write_text(TRIES)
    made = json.loads(await result(base, f"python3 {base}/shared/tries.py"))
    done = {name for name in made if made[name]}
    assert {"unix", "inet", "netlink", "plain pages", "terminals"} <= done
    assert not [name for name in done if "vsock" in name or "huge" in name]
    assert not done & {"io_uring", "aio", "many terminals"}
