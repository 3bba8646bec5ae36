"""The hook in a real Podman, with a slow broker, and killed at each of its steps.

Without ``required`` the container starts; with it, the container never runs without us.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from broker.net.peers.credentials import can_ask_pid_namespaces
from shims.hooks.oci_broker import DEADLINE_SECONDS
from tests.kit.eventually import eventually
from tests.kit.listening import LISTENS
from tests.kit.own_command import hooked_words, install_hook
from tests.kit.podman import (
    containers,
    podman_settings,
    podman_start,
    root_directory,
)
from tests.kit.podman_store import run
from tests.kit.shared import Shared
from tests.kit.world import world

HOOKED = """\
class = "disposable"
display = "allow"
[launch]
kind = "podman"
required = {required}
"""
RECORDS = {"work": "false", "strict": "true"}
IT_RUNS = ("sh", "-c", "echo it runs")
SOCKETS = ("sh", "-c", "echo it runs; ls /run/vitrail")
# Of each, before the broker has it, and when the broker has done it.
STEPS = [
    (method, moment)
    for method in ("LaunchPrepare", "LaunchBind")
    for moment in ("asked", "answered")
]


@pytest.fixture(autouse=True)
def _kernel():
    """Whether the kernel can tell a container's pid namespace (Linux 6.11)."""
    if not can_ask_pid_namespaces():
        pytest.skip("this kernel cannot tell a process's pid namespace")


@asynccontextmanager
async def hooked_world():
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        for name, required in RECORDS.items():
            w.write_record(name, HOOKED.format(required=required))
        root_directory(w.base)
        await install_hook(w)
        yield w


hooked = Shared(hooked_world)
"""One broker for all tests: each looks at the leases that began since its own begin."""


@asynccontextmanager
async def unharmed(w):
    """No container and no lease is left; gives the leases that have begun since."""
    before = len(w.events("lease.begin"))
    yield lambda: w.events("lease.begin")[before:]
    assert containers(w.environ) == []
    await eventually(lambda: _leases_ended(w))


async def _leases_ended(w):
    return len(w.events("lease.begin")) == len(w.events("lease.end"))


def start(w, name, *command):
    return podman_start(
        w.environ, *hooked_words(w.base / "root", name=name)[1:], *command
    )


async def ended(child):
    """Its exit status, and its output."""
    out, err = await trio.to_thread.run_sync(child.communicate)
    return child.returncode, out, err


# -- a slow broker -------------------------------------------------------------------


PROCESSES = ("host", "authority")
"""The authority takes the hook's calls; the host's process answers them."""


@asynccontextmanager
async def paused(w, process):
    """A process of the broker is stopped: connections are taken, and not answered."""
    pid = await w.pid_of(process)
    await eventually(lambda: not is_asked(w))  # our own question has ended
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def hook_files(w):
    """The hook's files for Podman, and their texts."""
    folder = w.paths.config[0].parent / "containers/oci/hooks.d"
    return {path: path.read_text() for path in folder.iterdir()}


@contextmanager
def impatient_hooks(w):
    """The hooks have less time than they have by default, which is less than Podman's."""
    hooks = hook_files(w)
    for path, text in hooks.items():
        document = json.loads(text)
        assert document["hook"]["timeout"] > DEADLINE_SECONDS
        document["hook"]["args"] += ["--seconds", "2"]
        path.write_text(json.dumps(document))
    try:
        yield
    finally:
        for path, text in hooks.items():
            path.write_text(text)


def is_asked(w):
    """Whether the broker's socket has a connection, accepted or waiting for that."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    found = [line.split() for line in lines if line.endswith(f" {w.paths.control}")]
    return any(words[3] != LISTENS for words in found)


@pytest.mark.parametrize("process", PROCESSES)
@hooked.test
async def test_a_slow_broker_keeps_no_container_waiting_for_longer_than_the_hook(
    w,
    process,
):
    """Until the hook gives up by its limit."""
    async with unharmed(w) as begun:
        async with paused(w, process):
            with impatient_hooks(w):
                started = {name: start(w, name, *SOCKETS) for name in RECORDS}
                found = {name: await ended(child) for name, child in started.items()}
        code, out, err = found["work"]
        assert (code, "it runs" in out) == (2, True), err
        code, out, err = found["strict"]
        assert (code != 0, out) == (True, ""), err
        assert begun() == []
        # It continues, and knows nothing of those two.
        code, out, err = await ended(start(w, "strict", *SOCKETS))
        assert (code, "wayland-0" in out) == (0, True), err


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", RECORDS)
@hooked.test
async def test_a_broker_that_answers_late_leases_the_container(w, name, process):
    async with unharmed(w) as begun:
        async with paused(w, process):
            child = start(w, name, *SOCKETS)
            await eventually(lambda: is_asked(w))
            assert child.poll() is None
        code, out, err = await ended(child)
        assert (code, "wayland-0" in out) == (0, True), err
        assert len(begun()) == 1


# -- a hook that is killed -----------------------------------------------------------


class Between:
    """Relays the hook's calls to the broker, and kills it at a step of them.

    ``outer``: the hook's first process; else the one that does the work.
    """

    def __init__(self, w, step, *, outer):
        self.control, self.step, self.outer = w.paths.control, step, outer
        self.path = w.base / "between"
        self.killed = 0

    async def serve(self, *, task_status=trio.TASK_STATUS_IGNORED):
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.bind(str(self.path))
        sock.listen()
        await trio.serve_listeners(
            self._relay, [trio.SocketListener(sock)], task_status=task_status
        )

    async def _relay(self, stream):
        async with stream:
            request = await _message(stream)
            method = json.loads(request[:-1])["method"].rpartition(".")[2]
            if self.step == (method, "asked"):
                self._kill(stream)
                return
            async with await trio.open_unix_socket(self.control) as broker:
                await broker.send_all(request)
                reply = await _message(broker)
            if self.step == (method, "answered"):
                self._kill(stream)
                return
            await stream.send_all(reply)

    def _kill(self, stream):
        found = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid = struct.unpack("3i", found)[0]
        if self.outer:
            stat = Path(f"/proc/{pid}/stat").read_text()
            pid = int(stat.rpartition(")")[2].split()[1])
        assert b"vitrail_oci_hook" in Path(f"/proc/{pid}/cmdline").read_bytes()
        os.kill(pid, signal.SIGKILL)
        self.killed += 1


async def _message(stream):
    data = b""
    while not data.endswith(b"\0"):
        more = await stream.receive_some(65536)
        assert more, "the other end hung up"
        data += more
    return data


@asynccontextmanager
async def relayed(w, step, *, outer):
    """The hook's files name our socket in the place of the broker's."""
    between = Between(w, step, outer=outer)
    hooks = hook_files(w)
    for path, text in hooks.items():
        assert str(w.paths.control) in text
        path.write_text(text.replace(str(w.paths.control), str(between.path)))
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(between.serve)
            yield between
            nursery.cancel_scope.cancel()
    finally:
        for path, text in hooks.items():
            path.write_text(text)
        between.path.unlink(missing_ok=True)


@pytest.mark.parametrize("step", STEPS, ids="-".join)
@hooked.test
async def test_a_hook_whose_work_is_killed(w, step):
    """Its container starts, unless its record requires the lease."""
    async with unharmed(w) as begun, relayed(w, step, outer=False) as between:
        code, out, err = await ended(start(w, "work", *IT_RUNS))
        assert (code, out) == (0, "it runs\n"), err
        assert between.killed == 1
        code, out, err = await ended(start(w, "strict", *IT_RUNS))
        assert (code != 0, out) == (True, ""), err
        assert between.killed == 2
        assert (len(begun()) > 0) is (step == STEPS[-1])


@pytest.mark.parametrize("step", STEPS, ids="-".join)
@hooked.test
async def test_a_hook_that_is_killed_as_a_whole_leaves_no_container(w, step):
    """Podman itself refuses the start then; no lease and no container stay."""
    async with unharmed(w), relayed(w, step, outer=True) as between:
        for number, name in enumerate(RECORDS, 1):
            code, out, err = await ended(start(w, name, *IT_RUNS))
            assert (code != 0, out) == (True, ""), err
            assert between.killed == number


# -- a file that names a record --------------------------------------------------------

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: pod
  annotations:
    io.vitrail.sandbox: {record}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: localhost/tree
    command: ["/bin/busybox", "ls", "/run/vitrail"]
"""


def play(w, record):
    """Play a file that names a record; return what its container and the pod's print."""
    file = w.base / "pod.yaml"
    file.write_text(POD.format(record=record))
    run(w.environ, "kube", "play", "--network=none", str(file))
    run(w.environ, "wait", "pod-c")
    output = run(w.environ, "logs", "pod-c")
    run(w.environ, "start", "--attach", "pod-c", check=False)
    again = run(w.environ, "logs", "pod-c")
    run(w.environ, "kube", "down", str(file))
    return output, again.removeprefix(output)


@pytest.mark.skipif(
    not shutil.which("catatonit", path="/usr/bin:/usr/libexec/podman"),
    reason="no catatonit",
)
@hooked.test
async def test_file_names_a_record_only_if_that_permits_it(w):
    """Podman plays a stranger's file with an image of its choice."""
    tree = w.base / "tree"
    (tree / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin")
    archive = str(w.base / "tree.tar")
    await trio.run_process(["tar", "-C", str(tree), "-cf", archive, "."])
    run(w.environ, "import", archive, "localhost/tree")
    w.write_record("files", HOOKED.format(required="false") + "by_files = true\n")
    async with unharmed(w) as leases:
        assert await trio.to_thread.run_sync(play, w, "work") == ("", "")
        assert leases() == []
    refused = w.events("lease.refused")[-1]
    assert "a file for Podman names the record 'work'" in refused["reason"]
    async with unharmed(w) as leases:
        outputs = await trio.to_thread.run_sync(play, w, "files")
        assert all("wayland-0" in output for output in outputs), outputs
        assert len(leases()) == 2
