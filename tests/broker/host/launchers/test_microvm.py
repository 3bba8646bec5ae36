"""Micro VMs without real machines: starts that fail, and adoption."""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import trio
import trio.testing

from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.files.sandbox_logs import KEPT
from broker.core.launch_changes import LaunchChanges
from broker.core.names import SandboxName
from broker.core.paths import find_paths
from broker.host.images import store
from broker.host.launchers.microvm import MicroVms
from broker.host.launchers.microvm_machine import MicroVmMachine
from broker.host.processes.tracked import spawn_helper
from broker.host.vmm import launcher
from broker.host.vmm.launcher import Tools
from broker.host.vmm.parent import starting
from broker.host.vmm.qemu_arguments import Accel, VmSpec
from broker.host.vmm.vm_state import state_of, write_state
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.net.peers import credentials
from broker.net.peers.identity import HybridClaim, VsockClaim
from policy.tools.record_files import parse_record
from tests.kit.eventually import eventually
from tests.kit.link.roles import journal, old_logs
from tests.kit.threads import other_task_runs
from tests.kit.wayland.compositor import short_directory
from tests.kit.world import record

WORK = SandboxName("work")


@dataclass
class PaperVm:
    """A machine that only counts the calls of its methods."""

    directory: Path
    uds: Path | None = None
    cid: int = 42
    processes: tuple = ()
    done: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.vmm = SimpleNamespace(pid=os.getpid(), ended=False)
        accel = SimpleNamespace(value="tcg")
        self.state = SimpleNamespace(accel=accel, logs=str(self.directory / "logs"))

    async def cont(self):
        self.done.append("cont")

    async def close(self):
        assert self.directory.is_dir(), "its files are needed until here"
        self.done.append("close")


class Stand:
    """``MicroVms`` with everything around it; QEMU is paper."""

    def __init__(self, tmp_path, log):
        environ = {
            "XDG_RUNTIME_DIR": str(tmp_path / "run"),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "HOME": str(tmp_path),
        }
        self.paths = find_paths(environ)
        self.log = log
        self.audit = tmp_path / "audit.sqlite"
        self.records = {}
        self.started = []
        self.specs = []
        self.initrds = []
        self.broken_start = None
        self.kernel = False
        self.uds = None
        self.processes = ()
        self.vms = MicroVms(
            paths=self.paths,
            record=self.records.get,
            find_tools=self.find_tools,
            listen_vsock=self.listen_vsock,
            log=log,
        )
        self.add("work", record("persistent"))

    def add(self, name, text):
        made, problems = parse_record(name, Path(f"{name}.toml"), text.encode())
        assert made is not None, problems
        self.records[name] = made

    async def find_tools(self, image, progress):
        return Tools(
            Path("/bin/sh"), Accel.TCG, None if self.kernel else Path("/backend")
        )

    async def listen_vsock(self):
        return False

    async def start_vm(self, spec, tools, *, nursery, quarantine, on_loss):
        await trio.lowlevel.checkpoint()
        if self.broken_start is not None:
            raise self.broken_start
        self.spec, self.on_loss = spec, on_loss
        self.started.append(
            PaperVm(spec.directory, uds=self.uds, processes=self.processes)
        )
        self.specs.append(spec)
        return self.started[-1]

    async def open(self, sandbox=WORK, name=WORK, **changes):
        return await self.vms.open(
            sandbox, name, frozenset(), lambda what: None, LaunchChanges(**changes)
        )

    def write_initrd(self, directory, settings, **needs):
        self.initrds.append(needs)
        return directory / "initrd"

    def events(self, kind):
        with open_log(self.audit) as log:
            return [row.fields() for row in log.find(Filters(kinds=(kind,)))]

    def left(self, name="work", files=("record",)):
        """What a killed broker left of a machine."""
        directory = self.paths.sandbox(name)
        directory.mkdir(parents=True)
        for file in files:
            (directory / file).write_text("work")
        return directory

    def vm(self, directory):
        """Return the specification of a machine that was left there."""
        file = Path("/file")
        return VmSpec(WORK, file, file, None, directory=directory, logs=directory)


@pytest.fixture
def stand(monkeypatch):
    @asynccontextmanager
    async def made():
        with short_directory() as path:
            async with running(path) as mine:
                yield mine

    @asynccontextmanager
    async def running(tmp_path):
        async with journal(tmp_path) as log, trio.open_nursery() as nursery:
            mine = Stand(tmp_path, log)
            kernel = tmp_path / "kernel"
            kernel.write_bytes(b"one that cannot be unpacked")
            image = SimpleNamespace(
                name="default",
                kernel=kernel,
                root=Path("/root"),
                manifest=SimpleNamespace(built=1.0, digest="d"),
                write_initrd=mine.write_initrd,
            )
            monkeypatch.setattr(store, "find_image", lambda paths, name: image)
            monkeypatch.setattr(starting, "start_vm", mine.start_vm)
            await nursery.start(mine.vms.run)
            yield mine
            nursery.cancel_scope.cancel()

    return made


# -- starting ----------------------------------------------------------------------


async def test_a_persistent_sandbox_has_a_home_that_stays(stand):
    async with stand() as s:
        machine = await s.open()
        (spec,) = s.specs
        assert spec.home.path == s.paths.homes / "work/current/disk"
        assert spec.home.keep == {"home"}
        assert spec.home.path.stat().st_size == 10 << 30
        assert spec.home.path.stat().st_blocks * 512 < 64 << 20
        await machine.close()
        assert spec.home.path.exists()


async def test_standby_that_does_nothing_is_a_warning_of_its_machine(
    stand, monkeypatch
):
    monkeypatch.delenv("VITRAIL_FORK", raising=False)
    async with stand() as s:
        text = record("disposable", launch='fork = "copy"\nstandby = 1')
        s.add("fast", text)
        s.kernel = True
        machine = await s.open("fast-1", "fast")
        (warning,) = s.vms.current_warnings()
        assert warning.startswith("fast-1: launch.standby has no effect: kernel vsock")
        assert 'only with fork = "shared"' in warning
        await machine.close()
        assert s.vms.current_warnings() == []


async def test_warnings_of_a_machine_end_with_it(stand):
    async with stand() as s:
        machine = await s.open()
        s.on_loss("no network")
        s.on_loss("no network")
        s.vms._report_room("work", "2 MiB left")
        assert s.vms.current_warnings() == ["work: no network", "work: 2 MiB left"]
        s.vms._report_room("work", "")
        assert s.vms.current_warnings() == ["work: no network"]
        await machine.close()
        assert s.vms.current_warnings() == []


async def test_what_a_machine_lost_is_told_and_recorded(stand):
    async with stand() as s:
        told = []
        s.vms.alarm = lambda title, text: told.append((title, text))
        await s.open()
        s.on_loss("cannot write to the disk")
        await trio.testing.wait_all_tasks_blocked()
        assert s.vms.current_warnings()[-1] == "work: cannot write to the disk"
        assert told == [("Vitrail: work", "cannot write to the disk")]

        async def recorded():
            return s.events("sandbox.failed")

        (event,) = await eventually(recorded)
        assert (event["sandbox"], event["step"]) == ("work", "running")
        assert event["reason"] == "cannot write to the disk"


@pytest.mark.parametrize("network", ["none", "user"])
async def test_a_machine_has_the_modules_of_its_network(stand, network):
    async with stand() as s:
        text = record("persistent").replace('"none"', f'"{network}"')
        s.add("work", text)
        await s.open()
        (loaded,) = s.initrds
        assert loaded["network"] == (network == "user")


async def test_a_disposable_sandbox_leaves_nothing(stand, monkeypatch):
    monkeypatch.delenv("VITRAIL_FORK", raising=False)
    async with stand() as s:
        s.add("web", record("disposable", launch='fork = "copy"'))
        machine = await s.open("web-0001", "web")
        assert s.specs[0].home is None
        await machine.close()
        assert not s.paths.homes.exists()
        (event,) = s.events("sandbox.machine")
        assert event["how"] == "boot"
        assert event["reason"] == "no parent machine exists yet"


@pytest.mark.parametrize("shared", [False, True])
async def test_a_secret_is_for_streams_over_the_kernels_vsock_alone(
    stand, shared, tmp_path
):
    mine = os.pidfd_open(os.getpid())
    async with stand() as s:
        s.kernel = True
        if shared:
            s.uds = tmp_path / "vm.vsock"
            mux = SimpleNamespace(role="port-mux", pid=os.getpid(), pidfd=mine)
            s.processes = (mux,)
        machine = await s.open()
        assert (machine.secret is None) == shared
        assert (s.paths.sandbox(WORK) / "launch-secret").exists() != shared
    os.close(mine)


async def test_a_start_may_have_less_than_its_record(stand):
    async with stand() as s:
        s.add("work", record("persistent", launch="cpus = 2"))
        await s.open(memory_mib=256, cpus=1, network="none", image="small")
        assert (s.spec.memory_mib, s.spec.cpus, s.spec.network) == (256, 1, "none")
        await s.open(SandboxName("work-2"))
        assert (s.spec.memory_mib, s.spec.cpus) == (512, 2)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"memory_mib": 2048}, "its record allows 1 to 512"),
        ({"cpus": 3}, "its record allows 1 to 2"),
        ({"network": "user"}, "its record sets"),
    ],
)
async def test_a_start_never_has_more_than_its_record(stand, changes, why):
    async with stand() as s:
        s.add("work", record("persistent", launch="cpus = 2"))
        with pytest.raises(RefusedError, match=why):
            await s.open(**changes)
        assert s.started == []


async def test_a_start_is_on_record_before_anything_of_it_is_there(stand, monkeypatch):
    async with stand() as s:

        async def full(event):
            assert not s.paths.sandbox(WORK).exists()
            raise UpstreamError("the audit log cannot be written")

        with monkeypatch.context() as disk:
            disk.setattr(s.log._store, "record", full)
            with pytest.raises(UpstreamError, match="cannot be written"):
                await s.open()
        assert s.started == []
        assert not s.paths.sandbox(WORK).exists()
        machine = await s.open()
        assert machine.facts.image == "default"
        assert len(s.events("sandbox.start")) == 1
        assert (s.paths.sandbox(WORK) / "record").read_text() == "work"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("other", "the host has no record of this name"),
        ("box", "the broker starts only micro VMs"),
        ("bwrap", "the broker starts only micro VMs"),
        ("office", "the broker starts only micro VMs"),
    ],
)
async def test_only_what_a_record_allows_is_started(stand, name, why):
    async with stand() as s:
        s.add(
            "bwrap",
            'class = "disposable"\n[launch]\nkind = "bwrap"\ncommand = ["foot"]\n',
        )
        s.add(
            "box",
            'class = "persistent"\n[launch]\nkind = "external"\n[peer]\ncid = 9\n',
        )
        s.add(
            "office",
            'class = "persistent"\n[launch]\nkind = "external"\n[peer]\nlibvirt = "win 10"\n',
        )
        with pytest.raises(RefusedError, match=why) as refused:
            await s.open(name=SandboxName(name))
        assert ("'virsh start 'win 10''" in refused.value.hint) == (name == "office")
        # A box on the machine with the desktop: nothing about two machines helps there.
        assert ("brokerctl run bwrap" in refused.value.hint) == (name == "bwrap")
        assert s.started == []
        assert s.events("sandbox.start") == []


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (SetupError("QEMU is not installed"), "QEMU is not installed"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
async def test_a_start_that_fails_leaves_nothing_but_an_event(stand, error, says):
    async with stand() as s:
        s.broken_start = error
        with pytest.raises((SetupError, UpstreamError), match=says):
            await s.open()
        assert not s.paths.sandbox(WORK).exists()
        (event,) = s.events("sandbox.failed")
        assert says in event["reason"]
        s.broken_start = None
        await s.open()


async def test_a_machine_whose_record_cannot_be_kept_is_ended(stand, monkeypatch):
    """It runs already when the disk is found to be full, and must be ended."""
    async with stand() as s:
        write_text = Path.write_text

        def full(path, text):
            if path.name == "record":
                raise OSError(28, "No space left on device")
            return write_text(path, text)

        with monkeypatch.context() as disk:
            disk.setattr(Path, "write_text", full)
            with pytest.raises(UpstreamError, match="No space left"):
                await s.open()
        assert s.started[0].done == ["close"]
        assert not s.paths.sandbox(WORK).exists()


async def test_a_start_that_is_cancelled_leaves_nothing(stand):
    async with stand() as s:
        with trio.CancelScope() as scope:
            scope.cancel()
            await s.open()
        assert s.started == []
        assert not s.paths.sandbox(WORK).exists()


# -- what a machine is ---------------------------------------------------------------


def test_a_machine_is_its_cid_or_its_backend(tmp_path):
    kernel = MicroVmMachine(WORK, PaperVm(tmp_path), None, None)
    assert kernel.claim == VsockClaim(credentials.network_namespace(), 42)
    assert kernel.claim.holder == os.getpid()
    assert kernel.alive() == {os.getpid()}, "QEMU holds the CID"
    pidfd = os.pidfd_open(os.getpid())
    try:
        backend = SimpleNamespace(
            role="vhost-device-vsock", pid=os.getpid(), pidfd=pidfd, ended=False
        )
        network = SimpleNamespace(role="passt", pid=1, pidfd=pidfd, ended=False)
        uds = tmp_path / "vm.vsock"
        vm = PaperVm(tmp_path, uds, processes=(backend, network))
        hybrid = MicroVmMachine(WORK, vm, None, None)
        assert isinstance(hybrid.claim, HybridClaim)
        assert hybrid.claim.base == str(uds)
        assert {c.pid for c in hybrid.claim.connectors} == {os.getpid()}, "it alone"
        assert hybrid.alive() == {os.getpid()}
        backend.ended = True
        assert hybrid.alive() == frozenset()
    finally:
        os.close(pidfd)


# -- adopting --------------------------------------------------------------------------


async def test_nothing_is_left(stand):
    async with stand() as s:
        assert await s.vms.adopt() == []


async def test_a_machine_that_lives_is_adopted_and_told_to_go(stand, monkeypatch):
    """Its broker may have been killed before it let it run."""
    async with stand() as s:
        vm = PaperVm(s.left())

        async def adopt_vm(directory, *, nursery, on_loss):
            return vm

        monkeypatch.setattr(launcher, "adopt_vm", adopt_vm)
        ((sandbox, name, machine),) = await s.vms.adopt()
        assert (sandbox, name) == ("work", "work")
        await machine.go()
        assert vm.done == ["cont"]
        assert machine.facts.image == "", "it is not written down which"


LEFT = {
    "no record file": ((), "does not name its record"),
    "no state": (("record",), "processes of the machine have ended"),
}


@pytest.mark.parametrize(("files", "why"), LEFT.values(), ids=list(LEFT))
async def test_a_directory_without_a_machine_is_removed(stand, files, why):
    async with stand() as s:
        directory = s.left(files=files)
        assert await s.vms.adopt() == []
        assert not directory.exists()
        (event,) = s.events("sandbox.stop")
        assert event["outcome"] == "cleaned up"
        assert why in event["reason"]
        assert event["detail"] == {"processes_ended": 0}


async def test_a_record_that_is_gone_ends_its_machine(stand, monkeypatch):
    async with stand() as s:
        directory = s.left()
        s.records.clear()

        async def never(directory, *, nursery):
            raise AssertionError

        monkeypatch.setattr(launcher, "adopt_vm", never)
        assert await s.vms.adopt() == []
        assert not directory.exists()
        assert (
            "the record 'work' no longer exists"
            in s.events("sandbox.stop")[0]["reason"]
        )


@pytest.mark.parametrize("text", [b"\xff\xfe", b"", b"../../etc", b"x" * 10_000])
async def test_a_record_file_that_is_no_name(stand, text):
    """A crash may leave anything; it must not keep the broker from starting."""
    async with stand() as s:
        directory = s.left()
        (directory / "record").write_bytes(text)
        assert await s.vms.adopt() == []
        assert not directory.exists()
        assert "is not a sandbox name" in s.events("sandbox.stop")[0]["reason"]


async def test_a_state_of_processes_that_have_ended(stand):
    """A reboot or a kill of all: none is ended, none is adopted."""
    async with stand() as s:
        directory = s.left()
        state = state_of(s.vm(directory), cid=42, hybrid=False, accel=Accel.TCG)
        write_state(directory, state)
        assert await s.vms.adopt() == []
        assert not directory.exists()


@pytest.mark.parametrize(
    "newer", [{"version": 2}, {"disk": {"key": 7}}, {"monitor": "other", "cid": 0}]
)
async def test_a_state_of_another_version_ends_its_machine(stand, newer):
    """The broker that started the machine was newer than the one that finds it."""
    async with stand() as s:
        directory = s.left()
        running = [spawn_helper(role, ["sleep", "60"]) for role in ("QEMU", "passt")]
        try:
            vmm, helper = (process.identity for process in running)
            state = state_of(s.vm(directory), cid=42, hybrid=False, accel=Accel.TCG)
            state = msgspec.structs.replace(state, vmm=vmm, helpers={"passt": helper})
            written = json.loads(msgspec.json.encode(state))
            for fields in (written, written["vmm"], written["helpers"]["passt"]):
                fields.update(newer)
            (directory / "vm.json").write_text(json.dumps(written))
            assert await s.vms.adopt() == []
            assert all(process.ended for process in running), s.vms.current_warnings()
        finally:
            for process in running:
                process.kill_now()
        assert not directory.exists()
        (event,) = s.events("sandbox.stop")
        assert f"invalid {directory}/vm.json" in event["reason"]
        assert event["detail"] == {"processes_ended": 2}


async def test_a_machine_whose_processes_are_unknown_is_recorded(stand):
    async with stand() as s:
        file = s.left() / "vm.json"
        file.write_text("no state")
        told = []
        s.vms.alarm = lambda *words: told.append(words)
        assert await s.vms.adopt() == []
        assert [title for title, _ in told] == ["Vitrail: work"]
        assert str(file) in s.vms.current_warnings()[0]

        async def recorded():
            return s.events("sandbox.failed")

        (event,) = await eventually(recorded)
        assert event["sandbox"] == "work"
        assert str(file) in event["reason"]
        assert file.exists(), "a broker that can read it ends or adopts the machine"


async def test_one_that_cannot_be_looked_at_hides_no_other(stand, monkeypatch):
    async with stand() as s:
        (s.left("aaa") / "vm.json").write_text("{}")
        broken = s.left("NotAName")
        good = s.left("work")

        async def adopt_vm(directory, *, nursery, on_loss):
            return PaperVm(directory) if directory == good else None

        async def clean(directory):
            if directory.name == "aaa":
                raise UpstreamError("the state is not ours")
            return 0

        monkeypatch.setattr(launcher, "adopt_vm", adopt_vm)
        monkeypatch.setattr(launcher, "clean_leftovers", clean)
        found = await s.vms.adopt()
        assert [sandbox for sandbox, _, _ in found] == ["work"]
        assert len(s.vms.current_warnings()) == 2
        assert broken.exists(), "nothing of ours has such a name"


async def test_a_vmm_that_breaks_its_adoption_keeps_no_broker_from_starting(
    stand, monkeypatch, capsys
):
    async with stand() as s:
        bad, good = s.left("aaa"), s.left("work")

        async def adopt_vm(directory, *, nursery, on_loss):
            if directory == bad:
                raise trio.BrokenResourceError
            return PaperVm(directory)

        monkeypatch.setattr(launcher, "adopt_vm", adopt_vm)
        found = await s.vms.adopt()
        assert [sandbox for sandbox, _, _ in found] == ["work"]
        assert not bad.exists()
        assert "BrokenResourceError" in capsys.readouterr().err
        assert good.exists()


async def test_leftovers_that_cannot_be_ended_keep_no_broker_from_starting(
    stand, monkeypatch, capsys
):
    async with stand() as s:
        s.left("aaa")

        async def clean(directory):
            raise RecursionError

        monkeypatch.setattr(launcher, "clean_leftovers", clean)
        assert await s.vms.adopt() == []
        assert len(s.vms.current_warnings()) == 1
        assert "RecursionError" in capsys.readouterr().err


async def test_a_vmm_that_is_silent_delays_no_other_adoption(stand, monkeypatch):
    """Its monitor may take ten seconds and more until it is given up."""
    async with stand() as s:
        bad = s.left("aaa")
        s.left("work")
        adopted = trio.Event()

        async def adopt_vm(directory, *, nursery, on_loss):
            if directory == bad:
                await adopted.wait()
                raise UpstreamError("QEMU did not send the QMP greeting")
            adopted.set()
            return PaperVm(directory)

        monkeypatch.setattr(launcher, "adopt_vm", adopt_vm)
        with trio.fail_after(10):
            found = await s.vms.adopt()
        assert [sandbox for sandbox, _, _ in found] == ["work"]


# -- logs ------------------------------------------------------------------------------


async def test_a_start_keeps_the_logs_of_what_runs(stand):
    async with stand() as s:
        directory = old_logs(s.paths.logs("x").parent, KEPT + 1)
        s.paths.sandbox("web-1000").mkdir(parents=True)
        await s.open()
        assert (directory / "web-1000" / "console.log").exists()


async def test_much_that_is_left_among_logs_holds_up_no_other_task(stand, monkeypatch):
    """A viewer that was taken over left 1,500,000 files: the broker ended."""
    place = "broker.core.files.sandbox_logs.prune_logs"
    with other_task_runs(monkeypatch, place) as run:
        async with stand() as s, trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await s.open()
