"""A broker that does not answer: who it is, and how a user ends it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest
import trio

from broker.authority.control import broker_record
from broker.authority.control.broker_record import open_recorded, save_record
from broker.cli.doctor import viewer as doctor
from broker.cli.quick import calls
from broker.cli.run import force
from broker.helpers.process.identity import boot_id, identity_of
from broker.host.launchers.interface import Prepared, write_state
from broker.ipc.control import client
from tests.kit.brokerctl import brokerctl, called, home, paths_of
from tests.kit.cleaner import NEEDS_CLEANER, sweep
from tests.kit.wayland.compositor import short_directory, steady
from tests.kit.world import world


@pytest.fixture
def runtime():
    with short_directory() as path:
        yield path


@contextmanager
def identified(words):
    """Run a program, whose standard input is a pipe; yields its identity."""
    child = subprocess.Popen(words, stdin=subprocess.PIPE)
    pidfd = os.pidfd_open(child.pid)
    try:
        yield identity_of(child.pid, pidfd)
    finally:
        os.close(pidfd)
        child.kill()
        child.wait()
        child.stdin.close()


@contextmanager
def program():
    """A program of the user's, and its identity."""
    with identified(["sleep", "1000"]) as identity:
        yield identity


@contextmanager
def broker():
    """A process with the words of a broker's, and its identity."""
    words = ["bash", "-c", "read", "broker.programs.local", "broker.programs.authority"]
    with identified(words) as identity:
        yield identity


def recorded(runtime, identity, boot=None):
    """The processes that a broker's record leads to."""
    record = broker_record.BrokerRecord(boot or boot_id(), identity, identity)
    save_record(runtime, record)
    with open_recorded(runtime) as held:
        return [one.pid for one in held]


def test_the_processes_of_a_broker_are_found(runtime):
    with broker() as identity:
        assert recorded(runtime, identity) == [identity.pid] * 2
    assert recorded(runtime, identity) == [], "it has ended"


def test_a_forged_record_leads_to_no_other_program(runtime):
    """Whoever can write to the state directory need not be able to signal anything."""
    with program() as identity:
        assert recorded(runtime, identity) == []


def test_a_number_that_an_other_process_has_is_not_followed(runtime):
    """The other_process is not the broker that was written down."""
    with broker() as identity:
        earlier = msgspec.structs.replace(identity, start=identity.start - 1)
        assert recorded(runtime, earlier) == []


def test_a_number_of_an_earlier_boot_is_not_followed(runtime):
    with broker() as identity:
        assert recorded(runtime, identity, boot="another") == []


@pytest.mark.parametrize(
    ("line", "ours"),
    [
        (
            "/usr/bin/python3 -I -X pycache_prefix=/c /x/broker broker.programs.host",
            True,
        ),
        ("/usr/bin/python3 -sP /usr/bin/vitrail-viewer --listen vsock::1", True),
        ("/opt/venv/bin/python /opt/venv/bin/vitrail-local", True),
        ("less /usr/bin/vitrail-local", False),
        ("/usr/bin/python3 /home/me/mine.py vitrail-local", False),
        ("", False),
    ],
)
def test_the_words_of_a_broker_are_known_however_it_was_installed(line, ours):
    assert broker_record._is_broker(line.split()) is ours


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 3000, b'{"boot": 1}', b"\xff\xfe", b"x" * 10000]
)
def test_a_record_that_cannot_be_read_names_no_process(runtime, content):
    (runtime / "broker.json").write_bytes(content)
    with open_recorded(runtime) as held:
        assert held == []


def test_a_record_that_is_no_file_holds_nobody_up(runtime):
    os.mkfifo(runtime / "broker.json")
    with open_recorded(runtime) as held:
        assert held == []


async def test_a_broker_that_answers_is_ended_in_order():
    async with world(image=False) as w:
        pid = await w.broker_pid()
        answer = await brokerctl("stop", "--broker", "--force", env=w.environ)
        assert answer.code == 0, answer
        assert f"stopped the broker (process {pid})" in answer.err
        assert not (w.paths.state / "broker.json").exists()
        again = await brokerctl("stop", "--broker", "--force", env=w.environ)
        assert again.code == 1
        assert "no running broker is recorded" in again.err


async def test_a_broker_that_has_lost_its_socket_is_named():
    """As after another login, with another runtime directory, or an 'rm'."""
    async with world(image=False) as w:
        pid = await w.broker_pid()
        w.paths.control.unlink()
        for words in (("status",), ("stop", "--broker"), ("doctor",)):
            said = await brokerctl(*words, env=w.environ)
            assert said.code == 1
            assert f"the broker is process {pid}" in said.out + said.err, said
        again = await brokerctl("run", "-q", "--bwrap", "--", "true", env=w.environ)
        assert "brokerctl stop --broker --force" in again.err
        ended = await brokerctl("stop", "--broker", "--force", env=w.environ)
        assert ended.code == 0, ended


async def test_settings_that_were_replaced_as_a_whole_are_a_warning():
    """As a link to another checkout of dotfiles, or a restored backup, leaves them."""
    async with world(image=False) as w:
        assert "was replaced" not in str((await w.status()).warnings)
        settings = w.paths.config[0]
        former = settings.rename(settings.with_name("former"))
        shutil.copytree(former, settings)
        (warning,) = (await w.status()).warnings
        assert f"{settings} was replaced" in warning
        assert "brokerctl restart" in warning


async def test_a_broker_that_is_silent_is_named_and_killed(monkeypatch):
    """As a stopped one is, and one that hangs: each verb names it, --force ends it."""
    async with world(image=False) as w:
        pid = await w.broker_pid()
        authority = await w.pid_of("authority")
        # Both: each ends a broker whose other process is silent.
        for one in (pid, authority):
            os.kill(one, signal.SIGSTOP)
        # Not before: a broker that runs may take longer to answer.
        monkeypatch.setattr(calls, "ANSWER_SECONDS", 0.3)
        monkeypatch.setattr(client, "ANSWER_SECONDS", 0.3)
        monkeypatch.setattr(doctor, "_BROKER_SECONDS", 0.3)
        monkeypatch.setattr(force, "_ORDERLY_SECONDS", 0.5)
        named = f"the broker is process {pid}"
        shown = await trio.to_thread.run_sync(lambda: called("status", env=w.environ))
        assert shown.code == 1
        assert named in shown.err
        assert "brokerctl stop --broker --force" in shown.err
        stopped = await trio.to_thread.run_sync(
            lambda: called("stop", "--broker", env=w.environ)
        )
        assert stopped.code == 1
        assert named in stopped.err
        assert "brokerctl stop --broker --force" in stopped.err
        (finding,) = await doctor.check_broker(
            doctor.Context(w.paths, environ=w.environ)
        )
        assert finding.state == "fail"
        assert named in finding.mend
        ended = await trio.to_thread.run_sync(
            lambda: called("stop", "--broker", "--force", "--json", env=w.environ)
        )
        assert ended.code == 0, ended
        assert json.loads(ended.out) == {"broker": True, "pid": pid, "killed": True}


def _starter(w) -> int:
    """Return the pid of the authority's starter; its children begin with its name."""
    parents = {}
    for pid in w.processes():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
            if name.endswith("(vitrail-starter"):
                parents[pid] = int(rest.split()[1])
    (found,) = [pid for pid, parent in parents.items() if parent not in parents]
    return found


async def test_a_viewer_that_killed_its_authority_ends_before_another_broker_starts():
    """It may signal its authority, and need not end itself as an honest one does.

    The starter, which would end it some seconds later, has been killed, too.
    """
    async with world(image=False) as w:
        pid, authority = await w.broker_pid(), await w.pid_of("authority")
        viewer, killed = os.pidfd_open(pid), os.pidfd_open(authority)
        starter = _starter(w)
        try:
            os.kill(pid, signal.SIGSTOP)  # it does nothing that an honest one does
            os.kill(starter, signal.SIGKILL)
            os.kill(authority, signal.SIGKILL)
            await trio.lowlevel.wait_readable(killed)
            await w.start()
            with trio.fail_after(60):
                await trio.lowlevel.wait_readable(viewer)
            assert await w.broker_pid() != pid
        finally:
            os.close(viewer)
            os.close(killed)
        log = (w.paths.state / "broker.log").read_text()
        assert f"ended process {pid} of a broker without authority" in log


def test_what_an_ended_broker_has_left_is_named_with_how_to_end_it():
    """After 'stop --broker --force' neither 'status' nor 'list' showed the machines."""
    with home() as env, program() as machine, program() as other:
        paths = paths_of(env)
        place = paths.sandbox("work")
        place.mkdir(parents=True)
        state = {"boot": boot_id(), "helpers": {}, "vmm": msgspec.to_builtins(machine)}
        (place / "vm.json").write_text(json.dumps(state))
        earlier = msgspec.structs.replace(other, start=other.start - 1)
        (paths.sandbox("gone")).mkdir()
        gone = {**state, "vmm": msgspec.to_builtins(earlier)}
        (paths.sandbox("gone") / "vm.json").write_text(json.dumps(gone))
        launch = paths.runtime / "launch" / "one"
        launch.mkdir(parents=True, mode=0o700)
        write_state(
            Prepared(boot_id(), "one", "box-1", "box", str(launch), 0.0, leader=other)
        )
        words = (
            f"still running without a broker: work (process {machine.pid}), "
            f"box-1 (process {other.pid}); "
        )
        for verb in ("status", "list", "windows"):
            said = called(verb, env=env)
            assert words in said.err, said
            assert f"'kill {machine.pid} {other.pid}'" in said.err
    with home() as env:
        assert "without a broker" not in called("status", env=env).err


@NEEDS_CLEANER
async def test_a_cleaner_takes_nothing_from_a_broker_that_runs():
    """Where XDG_RUNTIME_DIR is below /tmp, what is ten days old would be removed."""
    async with world(image=False) as w:

        async def there():
            return set(w.paths.runtime.rglob("*"))

        before = await steady(there)
        assert w.paths.runtime / "start.lock" in before
        await sweep(w.base, w.paths.runtime.parent)
        assert not before - await there()
