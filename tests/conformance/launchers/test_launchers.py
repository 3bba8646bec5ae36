"""Every launcher passes the steps of ``broker.host.launchers.interface``, with real processes.

A launcher is a class below with ``record``, ``start`` and ``kind``; a new one gets
all of these tests by its line in LAUNCHERS.  Its program makes a file in ``shared``
and then waits, so that it can be seen when it began to run.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from broker.authority.control import server
from broker.core import limits
from broker.core.errors import RefusedError, SetupError
from broker.core.names import SandboxName
from broker.core.paths import find_paths
from broker.core.services import DISPLAY
from broker.helpers.mounts.namespaces import mount_table
from broker.helpers.process.identity import boot_id
from broker.helpers.process.spawn import DEVNULL, PIPE, spawn
from broker.host import launches
from broker.host.launchers.bubblewrap.arguments import Box
from broker.host.launchers.interface import read_state
from broker.host.launchers.nspawn.arguments import ContainerTree
from broker.host.launchers.nspawn.process import start_held as start_tree
from broker.host.launchers.podman.arguments import Container, podman_args
from broker.host.launchers.podman.hooks import PROGRAM, write_hooks
from broker.host.launches import LaunchControl, Launches
from broker.host.processes.tracked import find
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.net.peers.credentials import pid_namespaces_of_self
from broker.net.peers.identity import ProcessFacts, check
from policy.records.model import RecordSet
from policy.tools.record_files import parse_record
from tests.kit.boxes import start_held
from tests.kit.control import partly
from tests.kit.eventually import eventually
from tests.kit.link.roles import SilentViewer, host_role
from tests.kit.nspawn import skip_without_nspawn
from tests.kit.podman import SHARED, podman_settings, root_directory, shared_words
from tests.kit.wayland.compositor import short_directory

pytestmark = pytest.mark.slow
NAME = SandboxName("work")
PROGRAM_TEXT = (
    "(ulimit -n 9999; ulimit -Hn) >{shared}/files 2>/dev/null; "
    "touch {shared}/began; exec sleep 1000"
)
MOST_OF_A_MESSAGE = 253
"""SCM_MAX_FD: the descriptors that one message may carry (unix(7))."""


@pytest.fixture(autouse=True)
def _kernel():
    """Whether the kernel can tell a container's pid namespace (Linux 6.11)."""
    if len(pid_namespaces_of_self()) == 0:
        pytest.skip("this kernel cannot tell a process's pid namespace")


class Stage:
    """A broker's host part as launchers see it."""

    def __init__(self, base):
        self.base = base
        self.shared = base / "shared"
        self.shared.mkdir()
        self.text = PROGRAM_TEXT.format(shared=self.shared)
        self.read_only, self.read_write = (), (self.shared,)
        run = base / "run"
        run.mkdir(mode=0o700)
        self.paths = find_paths(
            {"XDG_RUNTIME_DIR": str(run), "HOME": str(base), "XDG_CONFIG_DIRS": "/none"}
        )
        self.records = {}
        self.viewer = SilentViewer()
        self.settings = {}

    def add(self, name, text, folder=Path()):
        file = folder / f"{name}.toml"
        made, problems = parse_record(name, file, text.encode())
        assert made is not None, problems
        self.records[name] = made

    @asynccontextmanager
    async def broker(self):
        """One life of the broker; at its end its sockets are closed."""
        log = self.base / f"log-{len(list(self.base.glob('log-*')))}"
        log.mkdir()
        self.log = log
        async with host_role(log, None, viewer=self.viewer) as host:
            self.host = host
            self.launches = Launches(
                self.paths,
                host,
                host._log,
                records=lambda: RecordSet(self.records, {}, (), ""),
                reload=trio.lowlevel.checkpoint,
            )
            async with trio.open_nursery() as nursery:
                await nursery.start(self.launches.run)
                api = partly([LaunchControl(self.launches)])
                await nursery.start(server.serve, self.paths.control, api)
                yield
                nursery.cancel_scope.cancel()

    @property
    def directories(self):
        return list((self.paths.runtime / "launch").glob("*"))

    @property
    def began(self):
        return (self.shared / "began").exists()

    def names(self):
        return [one.lease.sandbox for one in self.host.active_leases()]

    def events(self, kind):
        with open_log(self.log / "audit.sqlite") as log:
            return [row.fields() for row in log.find(Filters(kinds=(kind,)))]


class Bwrap:
    """Bound by the program that starts it."""

    kind = "bwrap"
    binds_itself = False

    def __init__(self, stage):
        self.stage = stage

    @property
    def record(self):
        return 'class = "persistent"\n[launch]\nkind = "bwrap"\n'

    async def prepare(self, **words):
        return await self.stage.launches.prepare(NAME, None, ours=True, **words)

    @asynccontextmanager
    async def held(self, state):
        """Its first process, which has run nothing yet."""
        stage = self.stage
        binds = {"files": stage.read_only, "writable": stage.read_write}
        box = Box(("/bin/sh", "-c", stage.text), state.sockets, **binds)
        held = await start_held(box)
        try:
            yield held
        finally:
            await held.end()
            close_pipes(held.child)

    @asynccontextmanager
    async def start(self):
        """It runs, under its lease."""
        state = await self.prepare()
        async with self.held(state) as held:
            lease = await self.stage.launches.bind(state.id, held.leader)
            assert not self.stage.began
            held.release()
            yield lease


class Podman:
    """Bound by the hook, on the control socket."""

    kind = "podman"

    def __init__(self, stage):
        self.stage = stage

    @property
    def record(self):
        return 'class = "persistent"\n[launch]\nkind = "podman"\nrequired = true\n'

    @asynccontextmanager
    async def start(self):
        stage = self.stage
        hooks = stage.base / "hooks"
        write_hooks(hooks, hooks / PROGRAM, stage.paths.control, ())
        root = stage.base / "root"
        if not root.exists():
            root_directory(stage.base)
        container = Container(
            NAME,
            ("/bin/sh", "-c", stage.text),
            None,
            root,
            read_only=stage.read_only,
            read_write=stage.read_write,
        )
        cid = stage.base / "cid"
        words = podman_args(container, hooks, cid, stage.paths.runtime)
        place = words.index("--cidfile")
        words[place:place] = shared_words()
        env = {**os.environ, **stage.settings}
        child = spawn(words, env=env, stdout=DEVNULL, stderr=PIPE)
        try:
            await eventually(lambda: stage.began or child.returncode is not None)
            assert stage.began, child.popen.stderr.read()
            (lease,) = stage.host.active_leases()
            yield lease
        finally:
            remove = ["podman", "rm", "-f", "-t", "0", "-i", "--cidfile", str(cid)]
            gone = spawn(remove, env=env, stdout=DEVNULL, stderr=DEVNULL)
            await gone.wait()
            await child.stop()
            close_pipes(child)
            cid.unlink(missing_ok=True)


def close_pipes(child):
    for pipe in (child.popen.stdout, child.popen.stderr):
        if pipe is not None:
            pipe.close()


class Nspawn(Bwrap):
    """Bound by the program that starts it, too."""

    kind = "nspawn"

    @property
    def record(self):
        root = self.stage.base / "root"
        return f'class = "persistent"\n[launch]\nkind = "nspawn"\nrootfs = "{root}"\n'

    @asynccontextmanager
    async def held(self, state):
        root = self.stage.base / "root"
        if not root.exists():
            root_directory(self.stage.base)
        shared = tuple(Path(path) for path in SHARED if Path(path).exists())
        tree = ContainerTree(
            "work",
            ("/bin/sh", "-c", self.stage.text),
            root,
            state.sockets,
            read_only=(*shared, *self.stage.read_only),
            read_write=self.stage.read_write,
        )
        held = await start_tree(tree, None)
        try:
            yield held
        finally:
            await held.end()
            close_pipes(held.child)


LAUNCHERS = {one.kind: one for one in (Bwrap, Podman, Nspawn)}


@pytest.fixture(params=LAUNCHERS)
async def launcher(request):
    made = LAUNCHERS[request.param]
    with short_directory() as base:
        stage = Stage(base)
        if made is Bwrap:
            if shutil.which("bwrap") is None:
                pytest.skip("bubblewrap is not installed")
            yield _with_record(made(stage))
            return
        if made is Nspawn:
            skip_without_nspawn()
            yield _with_record(made(stage))
            return
        async with podman_settings() as settings:
            stage.settings = settings
            yield _with_record(made(stage))


def _with_record(made):
    made.stage.add(NAME, made.record)
    return made


def leader_of(lease):
    return lease.machine.facts.pid


def facts(lease):
    """The kernel's facts about the first process, as of one that connected."""
    from broker.net.peers import credentials

    pid = leader_of(lease)
    pidfd = os.pidfd_open(pid)
    try:
        return credentials.facts_of((pid, os.getuid(), os.getgid()), pidfd)
    finally:
        os.close(pidfd)


# -- the steps ---------------------------------------------------------------------


async def test_its_sockets_are_there_when_it_runs_and_nothing_of_it_afterwards(
    launcher,
):
    stage = launcher.stage
    async with stage.broker():
        async with launcher.start() as lease:
            await eventually(lambda: stage.began)
            assert stage.names() == [NAME]
            sockets = Path(lease.held.claim.directory)
            assert {p.name for p in sockets.iterdir()} >= {"wayland-0", DISPLAY}
            (begin,) = stage.events("lease.begin")
            assert begin["pid"] == leader_of(lease)
            os.kill(leader_of(lease), signal.SIGKILL)
            await lease.ended.wait()
        assert stage.directories == []
        (end,) = stage.events("lease.end")
        assert end["reason"] == "it has ended"


async def test_its_own_processes_are_it_and_no_others_are(launcher):
    async with launcher.stage.broker(), launcher.start() as lease:
        claim = lease.held.claim
        inside = facts(lease)
        check(claim, inside)
        outside = ProcessFacts(
            os.getpid(), os.getuid(), os.getgid(), 1, pid_namespaces_of_self()
        )
        with pytest.raises(RefusedError, match="not in this container"):
            check(claim, outside)


RENAMES = """
cd {shared}
mv .git old; mv .git/sub .git/old; rm -r .git
mkdir -p .git/sub/hooks; echo evil >.git/sub/hooks/pre-commit
echo evil >.git/sub/hooks/new
echo fine >.git/sub/config; mv .git/sub/config .git/config
touch began; exec sleep 1000
"""


async def test_directory_above_read_only_path_keeps_its_name(launcher):
    """The kernel lets a directory be renamed that contains a mount point."""
    stage = launcher.stage
    hooks = stage.shared / ".git/sub/hooks"
    hooks.mkdir(parents=True)
    (hooks / "pre-commit").write_text("exit 0")
    record, problems = parse_record(
        "work",
        Path("work.toml"),
        'class = "persistent"\n[launch]\nkind = "bwrap"\n'
        f'bind_read_write = ["{stage.shared}"]\n'
        f'bind_read_only = ["{hooks}"]\n'.encode(),
    )
    assert record is not None, problems
    launch = record.host.launch
    stage.read_only, stage.read_write = launch.read_only, launch.read_write
    stage.text = RENAMES.format(shared=stage.shared)
    async with stage.broker(), launcher.start():
        await eventually(lambda: stage.began)
    assert [path.name for path in hooks.iterdir()] == ["pre-commit"]
    assert (hooks / "pre-commit").read_text() == "exit 0"
    assert (stage.shared / ".git/config").read_text() == "fine\n"
    assert sorted(path.name for path in stage.shared.iterdir()) == [".git", "began"]


async def test_no_mount_follows_those_of_the_user(launcher):
    """What the user mounts later below a bound directory would appear in the sandbox."""
    groups = {
        field.removeprefix(b"shared:")
        for mount in mount_table(os.getpid())
        for field in mount
        if field.startswith(b"shared:")
    }
    if not groups:
        pytest.skip("no mount is shared here: unshare --mount --propagation shared")
    async with launcher.stage.broker(), launcher.start() as lease:
        await eventually(lambda: launcher.stage.began)
        table = mount_table(leader_of(lease))
        assert bytes(launcher.stage.shared) in [mount[4] for mount in table]
        masters = {b"master:" + group for group in groups}
        following = [os.fsdecode(mount[4]) for mount in table if masters & set(mount)]
        root = Path(f"/proc/{leader_of(lease)}/root")
        # Nothing is mounted below a file: devices, and files of /proc that are hidden.
        following = [path for path in following if (root / path.lstrip("/")).is_dir()]
        assert following == []


async def test_a_connection_from_outside_is_refused(launcher):
    """By a process that has found the path: the kernel says where it comes from."""
    stage = launcher.stage
    async with stage.broker(), launcher.start() as lease:
        path = Path(lease.held.claim.directory) / "wayland-0"
        stream = await trio.open_unix_socket(str(path))
        with trio.fail_after(60):
            assert await stream.receive_some() == b""
        await stream.aclose()
        assert stage.viewer.offered == 0

        async def refused():
            return stage.events("stream.refused")

        (event,) = await eventually(refused)
        assert "not in this container" in event["reason"]


async def test_its_programs_cannot_use_up_the_descriptors_in_flight(launcher):
    """The kernel counts them for the person, and holds each sender to its limit.

    A sandbox that may have as many files open as the broker can keep it, the workers and
    the compositor from passing any descriptor: no stream, no window, no keymap.
    """
    stage = launcher.stage
    async with stage.broker(), launcher.start():
        await eventually(lambda: stage.began)
        most = int((stage.shared / "files").read_text())
        assert most + MOST_OF_A_MESSAGE < 1024


async def test_stopping_it_ends_its_first_process(launcher):
    stage = launcher.stage
    async with stage.broker(), launcher.start() as lease:
        pidfd = os.pidfd_open(leader_of(lease))
        try:
            with trio.fail_after(60):
                await stage.host.stop(lease.lease.id, grace=0.1, reason="asked")
                await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
        assert stage.names() == []
        assert stage.directories == []


async def test_a_persistent_one_runs_once(launcher):
    stage = launcher.stage
    async with stage.broker(), launcher.start():
        with pytest.raises(RefusedError, match="is already running"):
            await stage.launches.prepare(NAME, None, ours=False)
        assert len(stage.directories) == 1


async def test_a_later_broker_leases_what_lives_again(launcher):
    """In the same directory, which is mounted in it."""
    stage = launcher.stage
    async with stage.broker():
        running = launcher.start()
        lease = await running.__aenter__()
        try:
            lease.machine._left_alive = True  # as a broker that was killed leaves it
            lease.machine.state = _not_ours(lease.machine.state)
            directory, leader = lease.held.claim.directory, leader_of(lease)
        except BaseException:
            await running.__aexit__(None, None, None)
            raise
    try:
        os.kill(leader, 0)
        async with stage.broker():
            for sandbox, record, machine in await stage.launches.adopt():
                await stage.host.admit(sandbox, record, machine)
            (again,) = stage.host.active_leases()
            assert again.lease.sandbox == NAME
            assert (leader_of(again), again.held.claim.directory) == (leader, directory)
            assert (Path(directory) / "wayland-0").is_socket()
            check(again.held.claim, facts(again))
            os.kill(leader, signal.SIGKILL)
            await again.ended.wait()
            assert stage.directories == []
    finally:
        await running.__aexit__(None, None, None)


def _not_ours(state):
    return msgspec.structs.replace(state, ours=False)


async def test_what_ended_with_a_killed_broker_is_cleared_away(launcher):
    stage = launcher.stage
    async with stage.broker(), launcher.start() as lease:
        lease.machine._left_alive = True
        lease.machine.state = _not_ours(lease.machine.state)
        kept = Path(lease.machine.state.directory)
        saved = stage.base / "saved"
        shutil.copytree(kept, saved, ignore=shutil.ignore_patterns("s"))
        pidfd = os.pidfd_open(leader_of(lease))
    with trio.fail_after(60):
        await trio.lowlevel.wait_readable(pidfd)
    os.close(pidfd)
    if not kept.exists():  # it had ended before the broker: as if it had not yet
        shutil.copytree(saved, kept)
    async with stage.broker():
        assert await stage.launches.adopt() == []
        assert stage.directories == []
        # It has ended, and nothing is left that a user could do.
        assert not stage.launches.warnings


# -- launches that come to nothing ----------------------------------------------------


@pytest.fixture
async def prepared():
    with short_directory() as base:
        stage = Stage(base)
        launcher = _with_record(Bwrap(stage))
        async with stage.broker():
            yield stage, launcher, await launcher.prepare()


async def test_a_start_given_up_before_its_lease_never_runs(prepared):
    """Nor does it stay: also when its launcher dies without a word."""
    stage, launcher, state = prepared
    async with launcher.held(state) as held:
        pidfd = os.pidfd_open(held.leader)
        held.abandon()
        with trio.fail_after(60):
            await trio.lowlevel.wait_readable(pidfd)
        os.close(pidfd)
    assert not stage.began


async def test_a_launch_is_bound_once(prepared):
    stage, launcher, state = prepared
    async with launcher.held(state) as held:
        await stage.launches.bind(state.id, held.leader)
        with pytest.raises(RefusedError, match="no launch with this number"):
            await stage.launches.bind(state.id, held.leader)
        assert stage.names() == [NAME]


async def test_one_that_is_never_bound_is_given_up(prepared):
    stage, launcher, state = prepared
    async with launcher.held(state) as held:
        stage.launches.expire(state.since + limits.LAUNCH_BIND_SECONDS)
        assert len(stage.directories) == 1
        stage.launches.expire(state.since + limits.LAUNCH_BIND_SECONDS + 1)
        assert stage.directories == []
        with pytest.raises(RefusedError, match="no launch with this number"):
            await stage.launches.bind(state.id, held.leader)


async def test_pending_launches_have_a_limit():
    with short_directory() as base:
        stage = Stage(base)
        _with_record(Bwrap(stage))
        async with stage.broker():
            for _ in range(limits.LAUNCHES_PENDING):
                await stage.launches.prepare(NAME, None, ours=False)
            with pytest.raises(RefusedError, match="other sandboxes are starting"):
                await stage.launches.prepare(NAME, None, ours=False)
            assert len(stage.directories) == limits.LAUNCHES_PENDING


async def test_a_process_without_a_pid_namespace_is_no_container(prepared):
    stage, _, state = prepared
    child = spawn(["sleep", "1000"], stdout=DEVNULL)
    try:
        with pytest.raises(RefusedError, match="not in a separate PID namespace"):
            await stage.launches.bind(state.id, child.pid)
        assert stage.names() == []
        assert stage.directories == []
    finally:
        await child.stop()


async def test_a_process_that_has_ended_is_refused(prepared):
    stage, _, state = prepared
    child = spawn(["true"], stdout=DEVNULL)
    await child.wait()
    with pytest.raises(RefusedError):
        await stage.launches.bind(state.id, child.pid)
    assert stage.directories == []
    (event,) = stage.events("lease.refused")
    assert event["sandbox"] == NAME


async def test_a_broker_that_was_restarted_between_the_steps(prepared):
    stage, launcher, state = prepared
    fresh = Launches(
        stage.paths,
        stage.host,
        stage.host._log,
        records=stage.launches.records,
        reload=trio.lowlevel.checkpoint,
    )
    assert await fresh.adopt() == []
    async with launcher.held(state) as held:
        await fresh.bind(state.id, held.leader)
        assert stage.names() == [NAME]


async def test_ended_sandbox_leaves_no_warning(prepared):
    """A status that warns of it does so until the next restart."""
    stage, launcher, state = prepared
    async with launcher.held(state) as box:
        await stage.launches.bind(state.id, box.leader)
        state_file = Path(state.directory) / "launch.json"
        state_file.write_text(state_file.read_text().replace(boot_id(), "another"))
        assert await stage.launches.adopt() == []
        assert stage.launches.warnings == []
        assert not Path(state.directory).exists()


async def test_a_process_of_another_boot_is_not_leased_again(prepared):
    """Its number and start time may be another process's by now."""
    stage, launcher, state = prepared
    async with launcher.held(state) as held:
        lease = await stage.launches.bind(state.id, held.leader)
        kept = Path(state.directory) / "launch.json"
        kept.write_text(kept.read_text().replace(boot_id(), "another"))
        with pytest.raises(SetupError, match="ended while no broker was running"):
            stage.launches._adopted(read_state(Path(state.directory)))
        assert lease.running


async def test_a_process_that_has_the_leaders_number_now_is_not_leased_again(
    prepared, monkeypatch
):
    """The leader may end, and its number be used again, behind the first look."""
    stage, launcher, state = prepared
    async with launcher.held(state) as held:
        await stage.launches.bind(state.id, held.leader)
        bound = read_state(Path(state.directory))
        box = Box(("/bin/sh", "-c", "true"), state.sockets)
        other = await start_held(box)
        try:

            def found(role, identity):
                tracked = find(role, identity)
                tracked.identity = msgspec.structs.replace(identity, pid=other.leader)
                return tracked

            monkeypatch.setattr(launches, "find", found)
            with pytest.raises(SetupError, match="ended while no broker was running"):
                stage.launches._adopted(bound)
            assert read_state(Path(state.directory)) == bound
        finally:
            await other.end()
            close_pipes(other.child)


async def test_a_record_of_another_kind_is_not_launched(prepared):
    stage, _, _ = prepared
    text = 'class = "persistent"\n[launch]\nkind = "microvm"\n'
    stage.add("machine", text)
    with pytest.raises(RefusedError, match="cannot prepare a container or box"):
        await stage.launches.prepare("machine", None, ours=False)
    for name in ("", "../x", "a" * 32, "Work", "no-such"):
        with pytest.raises(RefusedError):
            await stage.launches.prepare(name, None, ours=False)
    assert len(stage.directories) == 1


async def test_a_directory_that_others_may_write_to_is_refused(prepared):
    stage, launcher, state = prepared
    state.sockets.chmod(0o777)
    async with launcher.held(state) as held:
        with pytest.raises(RefusedError, match="users other than you and root"):
            await stage.launches.bind(state.id, held.leader)
    assert stage.names() == []


async def test_state_files_that_are_not_ours_are_cleared_away(prepared):
    """Malformed, about another directory, a link, a name that is none."""
    stage, _, state = prepared
    folder = stage.paths.runtime / "launch"
    text = (Path(state.directory) / "launch.json").read_text()
    for number, content in enumerate(
        ["", "{", "[]", text, text.replace('"work"', '"../x"'), "x" * 70000]
    ):
        directory = folder / f"bad{number}"
        directory.mkdir()
        (directory / "launch.json").write_text(
            content.replace(str(state.directory), str(directory))
            if number == 4
            else content
        )
    linked = folder / "bad-link"
    linked.mkdir()
    (linked / "launch.json").symlink_to("/etc/passwd")
    assert await stage.launches.adopt() == []
    assert [one.name for one in stage.directories] == [state.id]
    assert len(stage.launches.warnings) == 7


async def test_only_a_program_without_a_record_starts_without_the_files_tool(prepared):
    """Whatever its tags are: those are the user's."""
    stage, _, _ = prepared
    text = 'class = "persistent"\ntags = ["box"]\n[launch]\nkind = "bwrap"\n'
    stage.add("mine", text)
    stage.add("box-12ab34", text, stage.paths.runtime / "sandboxes.d")
    mine = await stage.launches.prepare("mine", None, ours=False)
    made = await stage.launches.prepare("box-12ab34", None, ours=False)
    assert (mine.sockets / "vitrail-files").exists()
    assert not (made.sockets / "vitrail-files").exists()


async def test_a_shared_box_is_a_label(prepared):
    """Its lease takes any process of the user's, and says so."""
    stage, _, _ = prepared
    text = 'class = "persistent"\n[launch]\nkind = "shared-box"\n'
    stage.add("tools", text)
    state = await stage.launches.prepare("tools", None, ours=False)
    child = spawn(["sleep", "1000"], stdout=DEVNULL)
    try:
        lease = await stage.launches.bind(state.id, child.pid)
        (begin,) = stage.events("lease.begin")
        assert begin["peer"].startswith("label only")
        mine = socket.socket(socket.AF_UNIX)
        with mine:
            mine.connect(str(state.sockets / "wayland-0"))
            with trio.fail_after(30):
                await stage.viewer.wait_offered(1)
        with pytest.raises(RefusedError, match="another user"):
            check(lease.held.claim, ProcessFacts(1, os.getuid() + 1, 0, 1, ()))
    finally:
        await child.stop()
        await lease.ended.wait()
