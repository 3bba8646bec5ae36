"""From inside QEMU's jail only the machine's own files can be reached.

Invariant: QEMU and vhost-device-vsock, taken over by the guest whose memory
they hold, reach no file of the person's, no socket of the session, no network
and no other process: not each other either.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.host.devices.crosvm_client import ask_crosvm
from broker.host.gpu.gpu_renderer import (
    DATA_BYTES,
    FILE_BYTES,
    THREADS,
    few_threads,
    renderer_view,
)
from broker.host.vmm.launcher import clean_leftovers, start_vm
from broker.host.vmm.qemu_arguments import Accel
from broker.host.vmm.running import EndKind
from broker.host.vmm.vmm_jail import (
    JailError,
    JailView,
    qemu_view,
    spawn_jailed,
)
from tests.attack.test_jail_worker import check_walls
from tests.kit.eventually import eventually
from tests.kit.vm.machines import (
    leftovers,
    machine,
    require_vm,
    tiny_spec,
    vm_tools,
)
from tests.kit.vm.probes import build, outcome, run_free, run_in_vmm_jail, world
from tests.kit.wayland.compositor import short_directory


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("probe"))


@pytest.fixture
def around():
    with short_directory() as directory, world(directory) as made:
        yield made


@pytest.fixture
def view(tmp_path):
    """What QEMU sees of a machine with a disk; the program is the probe."""
    for name in ("kernel", "initrd", "disk"):
        (tmp_path / name).write_text("x")
    spec = replace(
        tiny_spec(tmp_path),
        kernel=tmp_path / "kernel",
        initrd=tmp_path / "initrd",
        root=tmp_path / "disk",
    )
    return qemu_view(spec, Path("/usr/bin/qemu-system-x86_64"), Accel.TCG)


REACH = [
    pytest.param("open", "/etc/passwd", "ENOENT", id="system-file"),
    pytest.param("open", "/proc/self/status", "ENOENT", id="proc"),
    pytest.param("open", "{home}", "ENOENT", id="home"),
    pytest.param("unix", "{session_socket}", "ENOENT", id="session-socket"),
    pytest.param("unix", "{other_sandbox}", "ENOENT", id="other-sandbox"),
    pytest.param("abstract", "{abstract}", "ECONNREFUSED", id="abstract"),
    pytest.param("tcp", "{tcp}", "EPERM", id="tcp"),
    pytest.param("udp", "{tcp}", "EPERM", id="udp"),
    pytest.param("netlink", "", "EPERM", id="netlink"),
    pytest.param("ptrace", "{victim}", "SIGSYS", id="ptrace"),
    pytest.param("vmread", "{victim}", "SIGSYS", id="memory"),
    pytest.param("getfd", "{victim}", "SIGSYS", id="descriptors"),
    pytest.param("kill", "{victim}", "ESRCH", id="kill"),
    pytest.param("shell", "", "ENOENT", id="shell"),
]


@pytest.mark.parametrize(("what", "on", "answer"), REACH)
async def test_it_works_outside_and_not_inside(built, around, view, what, on, answer):
    argument = on.format_map(vars(around))
    assert run_free(built, what, argument) == "worked"
    assert await run_in_vmm_jail(built, view, what, argument) == answer


@pytest.fixture
def client(built, tmp_path, monkeypatch):
    """Attempts it in the place of the client that asks a crosvm."""
    shutil.copy(built.program, tmp_path / "crosvm")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    async def attempt(what, argument=""):
        null = os.open(os.devnull, os.O_PATH)
        try:
            said = await ask_crosvm([what, argument], null, deadline=20)
        except UpstreamError as error:
            code = re.match("crosvm failed with code (-?[0-9]+)", str(error))
            return outcome(b"", int(code[1]))
        finally:
            os.close(null)
        return outcome(said, 0)

    return attempt


@pytest.mark.parametrize(("what", "on", "answer"), REACH)
async def test_what_asks_a_crosvm_has_such_a_jail(around, client, what, on, answer):
    """crosvm was taken over by its guest, and its answer takes the client over."""
    argument = on.format_map(vars(around))
    # It opens the socket by the number of a descriptor.
    expected = "worked" if argument.startswith("/proc/self/") else answer
    assert await client(what, argument) == expected


async def test_no_crosvm_of_others_is_asked_without_a_jail(client, monkeypatch):
    async def none():
        return "no user namespaces"

    monkeypatch.setattr("broker.host.devices.crosvm_client.why_no_jail", none)
    with pytest.raises(JailError, match="without a jail: no user namespaces"):
        await client("open", "/etc/passwd")


@pytest.mark.parametrize("what", ["unshare", "mount", "bpf", "keyctl", "perf"])
async def test_what_only_an_attacker_calls_kills(built, view, what):
    assert await run_in_vmm_jail(built, view, what) == "SIGSYS"


@pytest.mark.parametrize("what", ["io_uring", "userfaultfd"])
async def test_what_qemu_does_without_is_not_there(built, view, what):
    assert await run_in_vmm_jail(built, view, what) == "ENOSYS"


@pytest.mark.parametrize("what", ["vsock", "clone"])
async def test_the_filter_refuses(built, view, what):
    assert await run_in_vmm_jail(built, view, what) == "EPERM"


async def test_it_opens_few_files():
    """The square of its files are entries of epoll sets, which its user has few of."""
    view = JailView(Path("/usr/bin/sleep"))
    process = await spawn_jailed("QEMU", ["/usr/bin/sleep", "100"], view)
    try:
        found = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        assert found == (limits.VMM_FDS, limits.VMM_FDS)
    finally:
        await process.end(0)
        process.close()


# -- the renderer of a machine with gpu = "render" ---------------------------------


@pytest.fixture
def renderer(tmp_path):
    """Its jail, in place of a node with a library by which it needs none."""
    (tmp_path / "library").write_text("x")
    program = Path("/usr/lib/qemu/vhost-user-gpu")
    return renderer_view(program, None, str(tmp_path / "library"))


@pytest.mark.parametrize(
    ("what", "on", "answer"),
    [
        *REACH,
        pytest.param("fork", "", "SIGSYS", id="fork"),
        pytest.param("raw-fork", "", "SIGSYS", id="raw-fork"),
        pytest.param("inotify", "", "EPERM", id="inotify"),
        pytest.param("queue", "", "EPERM", id="queue"),
        pytest.param("grow", str(FILE_BYTES + 1), "EFBIG", id="memory-file"),
        pytest.param("many-files", "701", "EMFILE", id="many-files"),
    ],
)
async def test_a_renderer_that_was_taken_over(
    built, around, renderer, what, on, answer
):
    argument = on.format_map(vars(around))
    assert run_free(built, what, argument) == "worked"
    assert await run_in_vmm_jail(built, renderer, what, argument) == answer


async def test_a_renderer_has_threads_and_memory_files(built, renderer):
    assert await run_in_vmm_jail(built, renderer, "thread") == "worked"
    assert await run_in_vmm_jail(built, renderer, "grow", str(FILE_BYTES)) == "worked"


async def test_a_renderer_takes_little_and_ends_first(renderer):
    view = replace(renderer, program=Path("/usr/bin/sleep"))
    process = await spawn_jailed(
        "renderer", ["/usr/bin/sleep", "100"], view, entered=few_threads
    )
    try:
        for kind, most in (
            (resource.RLIMIT_NOFILE, limits.SANDBOX_FDS),
            (resource.RLIMIT_NPROC, THREADS),
            (resource.RLIMIT_DATA, DATA_BYTES),
            (resource.RLIMIT_SIGPENDING, limits.BOX_SIGNALS),
        ):
            assert resource.prlimit(process.pid, kind) == (most, most)
        said = Path(f"/proc/{process.pid}/oom_score_adj").read_text()
        assert int(said) == 1000
    finally:
        await process.end(0)
        process.close()


async def test_the_files_of_its_machine_are_readable_and_not_writable(built, view):
    for path in view.readable:
        assert await run_in_vmm_jail(built, view, "open", str(path)) == "worked"
        beside = str(path.with_name("new"))
        assert run_free(built, "create", beside) == "worked"
        Path(beside).unlink()
        assert await run_in_vmm_jail(built, view, "create", beside) == "EROFS"
        assert await run_in_vmm_jail(built, view, "create", str(path)) == "EROFS"


async def test_only_the_directory_of_its_sockets_takes_files(built, tmp_path):
    view = JailView(built.program, writable=(tmp_path,))
    inside, outside = str(tmp_path / "new"), str(tmp_path.parent / "new")
    assert await run_in_vmm_jail(built, view, "create", inside) == "worked"
    assert await run_in_vmm_jail(built, view, "create", outside) == "EROFS"


async def test_a_socket_of_its_own_directory_it_does_reach(built):
    with short_directory() as place, socket.socket(socket.AF_UNIX) as door:
        door.bind(str(place / "vm.vsock_6501"))
        door.listen()
        view = JailView(built.program, writable=(place,))
        path = str(place / "vm.vsock_6501")
        assert await run_in_vmm_jail(built, view, "unix", path) == "worked"


@pytest.fixture
def room():
    require_vm()
    with short_directory() as directory:
        yield directory


async def test_the_real_ones_stand_behind_these_walls(room):
    async with machine(room) as vm:
        roles = [process.role for process in vm.processes]
        assert roles == ["QEMU", "vhost-device-vsock"]
        for process in vm.processes:
            check_walls(process.pid)
            root = Path(f"/proc/{process.pid}/root")
            assert not set(os.listdir(root)) & {"proc", "home", "root", "run", "bin"}
            assert os.listdir(root / "dev") == ["null"]
            usr = {"lib", "lib64", "share", "bin", "local"}
            assert set(os.listdir(root / "usr")) <= usr
        # Neither is in the other's namespaces.
        namespaces = [os.readlink(f"/proc/{p.pid}/ns/pid") for p in vm.processes]
        assert len(set(namespaces)) == 2


async def test_without_bubblewrap_no_machine_starts(monkeypatch, view, built, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    words = [str(built.program), "open", "/etc/passwd"]
    with pytest.raises(SetupError, match="bubblewrap is not installed"):
        await spawn_jailed("QEMU", words, view)
    warned = []
    process = await spawn_jailed("QEMU", words, view, unjailed=warned.append)
    assert await process.wait() == 0
    process.close()
    (warning,) = warned
    assert warning.startswith("QEMU is running without a jail: ")


async def test_without_a_jail_a_vmm_has_no_network_device(
    monkeypatch, view, built, tmp_path
):
    """It would be made in the network of this machine."""
    monkeypatch.setenv("PATH", str(tmp_path))
    words = [str(built.program), "open", "/etc/passwd"]
    entered, warned = [], []

    async def enter(process):
        entered.append(process)

    with pytest.raises(JailError, match="a network without a jail"):
        await spawn_jailed("VMM", words, view, unjailed=warned.append, entered=enter)
    assert (entered, warned) == ([], [])


async def test_a_jail_that_cannot_be_built_says_why(monkeypatch, built, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho bwrap: no permission to >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    words = [str(built.program), "open", "/etc/passwd"]
    with pytest.raises(JailError, match="QEMU: bwrap: no permission to") as caught:
        await spawn_jailed("QEMU", words, JailView(built.program))
    assert "--allow-unjailed-workers" in caught.value.hint
    warned = []
    process = await spawn_jailed(
        "QEMU", words, JailView(built.program), unjailed=warned.append
    )
    assert await process.wait() == 0
    process.close()
    assert "no permission to" in warned[0]


async def test_a_start_that_is_cancelled_leaves_no_process():
    sleep = Path("/usr/bin/sleep")
    seconds = f"1000.{os.getpid()}"
    for step in range(12):
        with trio.move_on_after(step * 0.002):
            process = await spawn_jailed(
                "probe", [str(sleep), seconds], JailView(sleep)
            )
            await process.end(0)
            process.close()

    await eventually(lambda: not running(seconds))


async def kill_launcher(directory, call, when):
    """A launcher is killed at this point; returns the word to find its processes by."""
    seconds = f"1000.{os.getpid()}{call}{when == 'after':d}"
    words = ["tests.kit.vm.killed_launcher", str(directory), seconds, str(call), when]
    done = await trio.run_process([sys.executable, "-m", *words], check=False)
    assert done.returncode == -signal.SIGKILL
    return seconds


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_launcher_killed_before_its_jail_is_built_leaves_nothing(
    tmp_path, when
):
    seconds = await kill_launcher(tmp_path, 1, when)
    await eventually(lambda: not running(seconds))


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_launcher_killed_while_its_program_starts_leaves_it_to_a_later_broker(
    tmp_path, when
):
    seconds = await kill_launcher(tmp_path, 2, when)
    await eventually(lambda: running(seconds))
    assert await clean_leftovers(tmp_path) == 1
    await eventually(lambda: not running(seconds))


def running(word):
    return any(word.encode() in words for words in command_lines())


def command_lines():
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield entry.read_bytes()


async def test_a_missing_file_ends_the_start_with_its_name(room):
    spec = tiny_spec(room, initrd=room / "missing")
    async with trio.open_nursery() as nursery:
        with pytest.raises(VitrailError, match="missing: No such file"):
            await start_vm(spec, await vm_tools(), nursery=nursery)
    assert leftovers(room) == ["logs", "logs/console.log"]


async def test_an_outer_process_that_is_stopped_holds_no_machine_back(room):
    async with machine(room) as vm:
        (outer,) = parents(vm.vmm.pid)
        os.kill(outer, signal.SIGSTOP)
        vm.vmm.kill()
        with trio.fail_after(30):
            assert (await vm.wait()).kind is EndKind.LOST
        assert not Path(f"/proc/{outer}").exists()


def parents(pid):
    """The process that started this one: bubblewrap's outer one."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return [int(fields[1])]
