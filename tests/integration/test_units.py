"""The systemd units, socket activation and sd_notify, with systemd's own tools."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path

import pytest
import trio

from broker.helpers.process.spawn import DEVNULL, PIPE, STDOUT, spawn
from broker.ipc.control.api import Nothing
from broker.ipc.control.client import open_client
from broker.ipc.control.methods import GET_VERSION, STATUS
from broker.net.listeners import has_listener
from tests.kit import hooks
from tests.kit.brokerctl import home, paths_of
from tests.kit.eventually import eventually
from tests.kit.relay.sockets import fds
from tests.kit.vm.tinyguest import ordinary_user

UNITS = Path(str(resources.files("broker") / "data/systemd"))
PROGRAMS = (
    "vitrail-local",
    "vitrail-host",
    "vitrail-viewer",
    "vitrail-devices",
    "vitrail-ingest",
    "brokerctl",
)


@pytest.mark.machine
@pytest.mark.parametrize("manager", ["user", "system"])
def test_units_pass_systemds_own_check(manager, tmp_path):
    """With the programs at the place where an installation puts them."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in (UNITS / manager).iterdir():
        text = re.sub(
            r"(Exec(?:Start|StopPost))=\S+", rf"\1={program}", unit.read_text()
        )
        # The manual page is there once the package is installed.
        text = re.sub(r"Documentation=.*\n", "", text)
        (tmp_path / unit.name).write_text(text)
    files = sorted(str(p) for p in tmp_path.iterdir() if p.suffix)
    done = subprocess.run(
        [tool, f"--{manager}", "verify", "--man=no", *files],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )
    mine = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert (done.returncode, mine) == (0, []), done.stderr


EXPOSURE_LIMIT = 3.0
USER_EXPOSURES = {"vitrail-allow": 6.5}
"""Limits of user units that restrict calls; others have a comment with the reason."""


@pytest.mark.machine
@pytest.mark.parametrize(
    "unit", sorted(UNITS.glob("*/*.service")), ids=lambda u: u.stem
)
def test_unit_has_few_rights(unit, tmp_path):
    """systemd's own measure of a unit's exposure, from 0 to 10; it is printed."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    (tmp_path / "run").mkdir(mode=0o700)
    copy = tmp_path / unit.name
    text = unit.read_text()
    copy.write_text(
        re.sub(r"^(Exec\w+)=\S+", r"\1=/bin/true", text, flags=re.MULTILINE)
    )
    done = subprocess.run(
        [
            *(tool, f"--{unit.parent.name}", "security", "--offline=yes"),
            *("--no-pager", str(copy)),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path / "run")},
    )
    exposure = float(re.search(r"exposure level for \S+: (\d+\.\d)", done.stdout)[1])
    print(f"{unit.parent.name}/{unit.name}: {exposure}")
    if unit.parent.name == "system":
        assert exposure <= EXPOSURE_LIMIT, done.stdout
    elif unit.stem in USER_EXPOSURES:
        assert exposure <= USER_EXPOSURES[unit.stem], done.stdout
    else:
        assert "# Not restricted: " in text


def test_every_service_starts_a_program_of_ours():
    for unit in UNITS.rglob("*.service"):
        lines = r"^Exec(?:Start|StopPost)=(\S+)"
        programs = re.findall(lines, unit.read_text(), re.MULTILINE)
        assert programs
        assert set(programs) <= set(PROGRAMS)


@asynccontextmanager
async def activated(env, module, *sockets, words=()):
    """A broker started by systemd-socket-activate; ``sockets`` are (name, address)."""
    tool = shutil.which("systemd-socket-activate")
    if tool is None:
        pytest.skip("systemd-socket-activate is not installed")
    ordinary_user()
    argv = [tool, f"--fdname={':'.join(name for name, _ in sockets)}"]
    argv += [f"--listen={address}" for _, address in sockets]
    argv += [f"--setenv={name}={value}" for name, value in env.items()]
    argv += [sys.executable, "-m", module, *words]
    child = spawn(argv, env=env, cwd="/", stdout=PIPE, stderr=STDOUT)
    try:
        yield child
    finally:
        if child.returncode is None:
            os.kill(child.pid, signal.SIGTERM)
            with trio.CancelScope(shield=True), trio.move_on_after(30):
                await child.wait()
            if child.returncode is None:
                child.kill()
                await child.wait()
        print(child.popen.stdout.read().decode())
        child.popen.stdout.close()


async def listens(path):
    async def there():
        return path.exists()

    await eventually(there)


async def test_the_first_question_starts_the_broker():
    with home() as env:
        paths = paths_of(env)
        sockets = [("control", str(paths.control))]
        async with activated(env, "broker.programs.local", *sockets) as child:
            await listens(paths.control)
            inode = paths.control.stat().st_ino
            # Two at once: neither is lost while it starts.
            async with (
                open_client(paths.control) as one,
                open_client(paths.control) as two,
            ):
                assert (await two.call(GET_VERSION, Nothing())).role == "local"
                status = await one.call(STATUS, Nothing())
            assert status.pid == child.pid, "exec'd in place: the same process"
            pump = next(p.pid for p in status.processes if p.role == "pump")
            assert f"socket:[{_inode(paths.control)}]" not in fds(pump)
        # The manager's socket is the manager's to remove.
        assert paths.control.stat().st_ino == inode


HOOK = Path(hooks.oci.__file__)
PODMAN = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[4:]))"
"""Its command line names the annotations, which count for that alone."""


async def test_a_container_s_hook_starts_the_broker():
    """Of a person who has never started it: the manager listens, nothing more."""
    with home() as env:
        paths = paths_of(env)
        folder = paths.config[0] / "sandboxes.d"
        folder.mkdir(parents=True)
        text = 'class = "persistent"\ndisplay = "allow"\n[launch]\nkind = "podman"\n'
        (folder / "work.toml").write_text(text)
        config = {
            "annotations": {"io.vitrail.sandbox": "work"},
            "process": {"user": {"uid": 0, "gid": 0}, "env": []},
        }
        sockets = [("control", str(paths.control))]
        async with activated(env, "broker.programs.local", *sockets):
            await listens(paths.control)
            done = await trio.run_process(
                [
                    *(sys.executable, "-c", PODMAN, "run"),
                    *("--annotation", "io.vitrail.sandbox=work"),
                    *(sys.executable, str(HOOK), "precreate", "--seconds", "60"),
                    *("--control", str(paths.control)),
                ],
                stdin=json.dumps(config).encode(),
                capture_stdout=True,
                capture_stderr=True,
            )
            made = json.loads(done.stdout)
            mounted = {mount["destination"]: mount for mount in made["mounts"]}
            assert Path(mounted["/run/vitrail"]["source"]).is_dir(), done.stderr


def _inode(path):
    for line in Path("/proc/net/unix").read_text().splitlines():
        if line.endswith(f" {path}"):
            return line.split()[6]
    raise AssertionError("no process listens")


async def test_a_viewer_gets_its_links_door_handed_over_too():
    with home() as env:
        paths = paths_of(env)
        link = Path(env["HOME"]) / "link"
        sockets = [("control", str(paths.control)), ("link", str(link))]
        words = ["--listen", f"unix:{link}"]
        async with activated(env, "broker.programs.viewer", *sockets, words=words):
            await listens(link)
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(str(link))
                stranger.sendall(b"no magic")
                stranger.settimeout(20)
                assert await trio.to_thread.run_sync(stranger.recv, 10) == b""
            async with open_client(paths.control) as client:
                state = (await client.call(STATUS, Nothing())).link
            assert (state.state, state.refused) == ("waiting", 1)


async def test_a_socket_without_a_meaning_is_refused_at_the_start():
    with home() as env:
        paths = paths_of(env)
        async with activated(
            env, "broker.programs.local", ("other", str(paths.control))
        ) as child:
            await listens(paths.control)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(paths.control))
            with trio.fail_after(30):
                assert await child.wait() == 1


async def test_a_link_door_that_another_program_holds_is_said_in_a_sentence():
    """What a task of the start cannot do is no traceback for a person."""
    ordinary_user()
    with home() as env, socket.socket(socket.AF_UNIX) as squatter:
        place = paths_of(env).runtime.parent / "door"
        squatter.bind(str(place))
        squatter.listen(1)
        words = ["-m", "broker.programs.viewer", "--listen", f"unix:{place}"]
        child = spawn([sys.executable, *words], env=env, stdout=PIPE, stderr=STDOUT)
        with child.popen.stdout as said:
            with trio.fail_after(60):
                code = await child.wait()
            told = said.read().decode()
    assert code == 1
    assert f"vitrail-viewer: unix:{place} is in use" in told
    assert "hint: " in told
    assert "Traceback" not in told
    assert "compiled" not in told, "which is no cause, but an effect"


def datagram_sockets(pid):
    """The UNIX sockets of datagrams that a process has open, by their inodes."""
    rows = [row.split() for row in Path("/proc/net/unix").read_text().splitlines()[1:]]
    there = {row[6] for row in rows if row[4] == "0002"}
    return there & {name.removeprefix("socket:[").rstrip("]") for name in fds(pid)}


async def test_readiness_is_told_when_it_is_true_and_the_end_when_it_begins():
    """READY=1 once both listeners are up, STOPPING=1 on SIGTERM, exit code 0."""
    ordinary_user()
    with home() as env:
        paths = paths_of(env)
        link = Path(env["HOME"]) / "link"
        told = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_DGRAM)
        with told:
            await told.bind(f"{env['HOME']}/notify")
            child = spawn(
                [
                    *(sys.executable, "-m", "broker.programs.viewer"),
                    *("--listen", f"unix:{link}"),
                ],
                env={**env, "NOTIFY_SOCKET": f"{env['HOME']}/notify"},
                stderr=STDOUT,
            )
            with trio.fail_after(30):
                assert await told.recv(100) == b"READY=1\n"
                assert await told.recv(100) == b"BARRIER=1"
            # What is confined cannot say who the main process is, or keep files there.
            assert not datagram_sockets(child.pid)
            for path in (paths.control, link):
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(path))
            os.kill(child.pid, signal.SIGTERM)
            with trio.fail_after(30):
                assert await told.recv(100) == b"STOPPING=1\n"
                assert await told.recv(100) == b"BARRIER=1"
                assert await child.wait() == 0
        assert not paths.control.exists()
        # A confined viewer leaves the path: the next one replaces it.
    assert not (link.exists() and has_listener(link))


async def test_a_broker_that_a_socket_unit_starts_has_time_to(tmp_path):
    """A connection makes systemd start it; a socket without one is given up sooner."""
    from broker.cli.run.start import answer_seconds

    tool = shutil.which("systemd-socket-activate")
    if tool is None:
        pytest.skip("systemd-socket-activate is not installed")
    control = tmp_path / "control"
    with socket.socket(socket.AF_UNIX) as mine:
        assert answer_seconds(control) == 4
        mine.bind(str(control))
        mine.listen()
        assert answer_seconds(control) == 4
    control.unlink()
    # It listens on: without --accept it becomes the program with the first connection.
    argv = [tool, "--accept", f"--listen={control}", "true"]
    child = spawn(argv, stdout=DEVNULL, stderr=DEVNULL)
    try:
        await eventually(lambda: _accepts(control))
        assert answer_seconds(control) == 30
    finally:
        await child.stop()


def _accepts(path):
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0
