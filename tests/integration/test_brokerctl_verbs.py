"""status, stop, lease and logs, as a person runs them, on a real socket."""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
import trio

from broker.helpers.process.spawn import PIPE, spawn
from broker.ipc.control.api import (
    LeaseRequest,
    Nothing,
    SandboxStatus,
    StopRequest,
    StreamStatus,
)
from broker.ipc.control.client import open_client
from broker.ipc.control.methods import GET_VERSION
from tests.kit.brokerctl import Answer, brokerctl, lines_of, paths_of, running
from tests.kit.control import LEASE, ScriptedBroker, serving
from tests.kit.eventually import eventually


@pytest.fixture
def api() -> ScriptedBroker:
    api = ScriptedBroker()
    api.state = msgspec.structs.replace(
        api.state,
        sandboxes=[
            SandboxStatus(
                name="work",
                record="work",
                sandbox_class="persistent",
                label="work",
                state="running",
                since=1_790_000_000.0,
            )
        ],
        leases=[LEASE],
        streams=[
            StreamStatus(
                stream=1,
                sandbox="work",
                lease=LEASE.id,
                service="vitrail.Display",
                bytes_from_sandbox=2048,
                bytes_to_sandbox=0,
                since=1_790_000_000.0,
            )
        ],
    )
    return api


@pytest.mark.parametrize(
    "words", [["status"], ["stop", "--all"], ["lease", "list"], ["status", "--json"]]
)
async def test_without_a_broker_a_sentence_says_how_to_start_one(
    env: dict[str, str], words: list[str]
) -> None:
    answer = await brokerctl(*words, env=env)
    assert (answer.code, answer.out) == (1, "")
    assert "no broker is running" in answer.err
    assert "brokerctl run" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("line", "program"),
    [('connect = "vsock:42:6499"', "vitrail-host"), ("", "vitrail-viewer")],
)
async def test_a_machine_that_is_one_of_two_is_told_its_own_broker(
    env: dict[str, str], line: str, program: str
) -> None:
    link = paths_of(env).config[0] / "link.toml"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.write_text(f"{line}\n")
    answer = await brokerctl("status", env=env)
    assert answer.code == 1
    assert program in answer.err
    assert "vitrail-local" not in answer.err


async def test_status(env: dict[str, str], api: ScriptedBroker) -> None:
    async with serving(paths_of(env).control, api):
        page = await brokerctl("status", "--all", env=env)
        assert page.code == 0
        assert "vitrail.Display" in page.out
        assert "2.0 KiB" in page.out
        found = (await brokerctl("status", "work", "--json", env=env)).objects[0]
        assert found["streams"][0]["rate_from_sandbox"] == 0.0
        assert found["leases"][0]["id"] == LEASE.id
        gone = await brokerctl("status", "gone", env=env)
        assert gone.code == 1
        assert "no sandbox named 'gone' is running" in gone.err


async def test_status_watched_by_a_program(
    env: dict[str, str], api: ScriptedBroker
) -> None:
    async with (
        serving(paths_of(env).control, api),
        running("status", "--watch", "--json", env=env) as child,
    ):
        with trio.fail_after(60):
            async with aclosing(lines_of(child)) as lines:
                for _ in range(2):
                    assert json.loads(await anext(lines))["role"] == "local"
            child.kill(signal.SIGINT)
            assert await child.wait() == 130
        assert child.popen.stderr is not None
        assert b"Traceback" not in child.popen.stderr.read()


async def test_stop(env: dict[str, str], api: ScriptedBroker) -> None:
    async with serving(paths_of(env).control, api):
        one = await brokerctl("stop", "work", "--grace", "3", "--json", env=env)
        assert one.objects == [{"stopped": ["work"], "broker": False}]
        assert api.asked[-1] == ("stop", StopRequest(sandbox="work", grace=3.0))
        two = await brokerctl("stop", "work", "work", "--json", env=env)
        assert two.objects == [{"stopped": ["work", "work"], "broker": False}]
        everything = await brokerctl("stop", "--all", env=env)
        assert "stopped work" in everything.err
        assert (await brokerctl("stop", "gone", env=env)).code == 1
        for words in ([], ["work", "--all"], ["--all", "--broker"]):
            assert (await brokerctl("stop", *words, env=env)).code == 2


async def stopped_broker(env: dict[str, str], api: ScriptedBroker) -> Answer:
    """What 'stop --broker' says, which waits until the broker's process is gone."""
    answers: list[Answer] = []
    process = spawn(["sleep", "60"])  # in the place of the broker's own
    api.pid = process.pid

    async def stop() -> None:
        answers.append(await brokerctl("stop", "--broker", env=env))

    async with trio.open_nursery() as outer:
        async with serving(paths_of(env).control, api):
            outer.start_soon(stop)
            await api.ended.wait()
            assert answers == []
        assert answers == []
        process.kill()
        await process.wait()
    (answer,) = answers
    return answer


async def test_stopping_the_broker_waits_until_it_has_ended(
    env: dict[str, str], api: ScriptedBroker
) -> None:
    """The connection's end is not enough: the process has to be gone."""
    answer = await stopped_broker(env, api)
    assert answer.code == 0
    assert "stopped the broker" in answer.err
    assert [what for what, _ in api.asked] == ["stop", "shutdown"]


async def test_a_viewer_s_end_leaves_the_host_s_machines(
    env: dict[str, str], api: ScriptedBroker
) -> None:
    """And a unit that starts it again at once is named, with the command against that."""
    systemctl = Path(env["HOME"]) / "bin/systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(
        # systemctl(1): a line for each unit, and success if one is active.
        "#!/bin/sh\nshift 2\nfor unit; do case $unit in\n"
        "vitrail-viewer-link.socket) echo active;; *) echo inactive;; esac; done\n"
    )
    systemctl.chmod(0o755)
    env = {**env, "PATH": f"{systemctl.parent}:{env['PATH']}"}
    api.state = msgspec.structs.replace(api.state, role="viewer")
    answer = await stopped_broker(env, api)
    assert answer.code == 0
    assert [what for what, _ in api.asked] == ["shutdown"]
    said = " ".join(answer.err.split())
    assert "the host's sandboxes keep running" in said
    assert "'systemctl --user stop vitrail-viewer-link.socket'" in said
    assert "vitrail-local.socket" not in said


async def test_a_lease_starts_the_broker_that_is_missing(env: dict[str, str]) -> None:
    paths = paths_of(env)
    folder = paths.config[0] / "sandboxes.d"
    folder.mkdir(parents=True)
    sock = Path(env["XDG_RUNTIME_DIR"]) / "mine.vsock"
    (folder / "mine.toml").write_text(
        f'class = "persistent"\n[launch]\nkind = "external"\n[peer]\nhybrid = "{sock}"\n'
    )
    leader = spawn(["sleep", "600"])
    words = ("--hybrid", str(sock), "--leader", str(leader.pid), "--detach")
    typo = await brokerctl("lease", "acquire", "mien", *words, env=env)
    assert typo.code == 1
    assert "no record is named 'mien'" in typo.err
    assert not paths.control.exists(), "a broker was started for a typing mistake"
    try:
        done = await brokerctl("lease", "acquire", "mine", *words, env=env)
        assert (done.code, "started the broker" in done.err) == (0, True), done.err
        assert done.out.split()[1] == "mine"
    finally:
        await brokerctl("stop", "--broker", env=env)
        leader.kill()
        await leader.wait()


@pytest.mark.parametrize(
    "argv",
    [
        ("sanitize", "--in", "mine", "x.pdf"),
        ("ssh-config", "mine"),
        ("sandbox", "rename", "mine", "other"),
        ("run", "mine"),
    ],
    ids=lambda argv: argv[0],
)
async def test_error_of_record_is_reported_by_each_verb(env, argv):
    """It was reported as a record that does not exist."""
    folder = paths_of(env).config[0] / "sandboxes.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.toml").write_text('class = "disposable"\ndisplay = "alow"\n')
    answer = await brokerctl(*argv, env=env)
    assert answer.code in {1, 3}
    assert '"alow" is not allowed here' in answer.err
    assert "the record 'mine' has an error" in answer.err


async def test_one_record_leases_several_machines(env: dict[str, str]) -> None:
    """Each is a sandbox of its own, whose end is not that of the others."""
    paths = paths_of(env)
    folder = paths.config[0] / "sandboxes.d"
    folder.mkdir(parents=True)
    place = Path(env["XDG_RUNTIME_DIR"]) / "vms"
    place.mkdir(mode=0o700)
    (folder / "vm.toml").write_text(
        f'class = "disposable"\n[launch]\nkind = "external"\n[peer]\nhybrid_directory = "{place}"\n'
    )
    leaders = [spawn(["sleep", "600"]) for _ in range(2)]

    async def acquire(name: str, number: int) -> Answer:
        leader = str(leaders[number].pid)
        words = ("--hybrid", str(place / name), "--leader", leader, "--detach")
        return await brokerctl("lease", "acquire", "vm", *words, env=env)

    async def running_ones() -> list[str]:
        listed = await brokerctl("status", "--json", env=env)
        return [lease["sandbox"] for lease in listed.objects[0]["leases"]]

    try:
        names = [(await acquire(n, i)).out.split()[1] for i, n in enumerate("ab")]
        assert len(set(names)) == 2
        assert all(name.startswith("vm-") for name in names)
        again = await acquire("a", 1)
        assert again.code == 1, "the socket is another sandbox's already"
        elsewhere = await acquire("../c", 1)
        assert "names another peer" in elsewhere.err
        leaders[0].kill()
        await leaders[0].wait()

        async def one_left() -> bool:
            return await running_ones() == names[1:]

        await eventually(one_left)
    finally:
        await brokerctl("stop", "--broker", env=env)
        for leader in leaders:
            leader.kill()
            await leader.wait()


async def test_a_lease_is_held_until_the_holder_leaves(
    env: dict[str, str], api: ScriptedBroker
) -> None:
    words = ["lease", "acquire", "work", "--cid", "42"]
    async with serving(paths_of(env).control, api), running(*words, env=env) as child:
        with trio.fail_after(60):
            async with aclosing(lines_of(child)) as lines:
                assert await anext(lines) == f"{LEASE.id} work"
            assert api.held == 1
            assert api.asked == [("hold", LeaseRequest(record="work", cid=42))]
            child.kill(signal.SIGINT)
            assert await child.wait() == 130
        await eventually(lambda: not api.held)


async def test_leases(env: dict[str, str], api: ScriptedBroker) -> None:
    async with serving(paths_of(env).control, api):
        detached = await brokerctl(
            *("lease", "acquire", "work", "--hybrid", "/run/vm.vsock"),
            *("--leader", str(os.getpid()), "--connector", "77", "--detach", "--json"),
            env=env,
        )
        assert detached.objects[0]["lease"]["id"] == LEASE.id
        assert api.asked[-1][1].connectors == [77]
        assert "cid 42" in (await brokerctl("lease", "list", env=env)).out
        assert (await brokerctl("lease", "release", LEASE.id, env=env)).code == 0
        assert (await brokerctl("lease", "release", "0" * 16, env=env)).code == 1
        for words in (
            ["acquire", "work"],
            ["acquire", "work", "--cid", "4", "--unix", "/x"],
            ["acquire", "work", "--cid", "2"],
            ["acquire", "work", "--cid", "4", "--detach"],
        ):
            assert (await brokerctl("lease", *words, env=env)).code == 2, words


# -- logs ----------------------------------------------------------------------------


@pytest.fixture
def logs(env: dict[str, str]) -> Path:
    folder = paths_of(env).logs("web")
    folder.mkdir(parents=True)
    (folder / "console.log").write_bytes(b"boot\r\n\x1b[31mred\n")
    (folder / "program-9.log").write_bytes(b"ninth\n")
    (folder / "program-10.log.1").write_bytes(b"older\n")
    (folder / "program-10.log").write_bytes(b"newer")
    return folder


async def test_logs(env: dict[str, str], logs: Path) -> None:
    newest = await brokerctl("logs", "web", env=env)
    assert (newest.code, newest.lines) == (0, ["older", "newer"])
    assert "program-10.log of web" in newest.err
    console = await brokerctl("logs", "web", "--console", env=env)
    assert console.lines == ["boot", "\\x1b[31mred"]
    raw = await brokerctl("logs", "web", "--console", "--raw", env=env)
    assert raw.out == "boot\r\n\x1b[31mred\n"
    assert (await brokerctl("logs", "web", "--program", "9", env=env)).out == "ninth\n"
    missing = await brokerctl("logs", "web", "--program", "3", env=env)
    assert missing.code == 1
    assert "program-9.log" in missing.err
    assert (await brokerctl("logs", "../etc", env=env)).code == 1
    assert (await brokerctl("logs", "gone", env=env)).code == 1


async def test_raw_bytes_do_not_go_to_a_terminal(
    env: dict[str, str], logs: Path
) -> None:
    ours, theirs = pty.openpty()
    try:
        start = "import sys; from broker.cli.app import main; sys.exit(main())"
        argv = [sys.executable, "-c", start, "logs", "web", "--console", "--raw"]
        child = spawn(argv, env=env, stdout=theirs, stderr=PIPE)
        assert child.popen.stderr is not None
        with child.popen.stderr, trio.fail_after(60):
            assert await child.wait() == 2
            assert b"can control the terminal" in child.popen.stderr.read()
    finally:
        os.close(theirs)
        os.close(ours)


async def test_logs_are_followed_across_a_rotation(
    env: dict[str, str], logs: Path
) -> None:
    path = logs / "console.log"
    async with running("logs", "web", "--console", "-f", env=env) as child:
        with trio.fail_after(60):
            async with aclosing(lines_of(child)) as lines:
                assert await anext(lines) == "boot"
                assert await anext(lines) == "\\x1b[31mred"
                with path.open("ab") as file:
                    file.write(b"more\n")
                assert await anext(lines) == "more"
                path.replace(logs / "console.log.1")
                path.write_bytes(b"fresh\n")
                assert await anext(lines) == "fresh"


# -- one of two machines -----------------------------------------------------------


def link_toml(env, text):
    paths = paths_of(env)
    directory = paths.config[0]
    (directory / "sandboxes.d").mkdir(parents=True)
    (directory / "link.toml").write_text(text)
    (directory / "sandboxes.d/app.toml").write_text(
        'class = "disposable"\n[label]\ncolour = "green"\n'
    )
    return paths


async def test_run_on_a_host_starts_no_broker_and_says_where_to_run_it(env):
    paths = link_toml(env, 'connect = "vsock:42:6499"\n')
    said = await brokerctl("run", "app", "--", "true", env=env)
    assert said.code == 1
    assert "this machine is a host" in said.err
    assert "run the command on the viewer" in said.err
    assert not paths.control.exists()


async def test_run_on_a_viewer_starts_a_viewer_that_waits_for_its_host(env):
    paths = link_toml(env, f'listen = "unix:{env["HOME"]}/link"\n')
    said = await brokerctl("run", "--no-window", "app", "--", "true", env=env)
    try:
        assert said.code == 1
        assert "no host is connected" in said.err
        async with open_client(paths.control) as client:
            assert (await client.call(GET_VERSION, Nothing())).role == "viewer"
    finally:
        done = await brokerctl("stop", "--broker", env=env)
    assert done.code == 0


async def test_the_demo_is_for_one_machine(env):
    link_toml(env, "peer_cid = 7\n")
    said = await brokerctl("demo", env=env)
    assert said.code == 1
    assert "this machine is the viewer of two" in said.err
