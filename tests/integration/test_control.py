"""The control socket with real clients: ours, other programs', and bad ones."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from broker.authority.control import server
from broker.core import limits
from broker.core.errors import InternalError, RefusedError, SetupError, UpstreamError
from broker.helpers.process.spawn import PIPE, run_tool, spawn
from broker.ipc.control.api import (
    Exited,
    LeaseItem,
    LeaseReleaseRequest,
    LeaseRequest,
    Nothing,
    OpenItem,
    Progress,
    RunInputRequest,
    RunItem,
    RunRequest,
    StopRequest,
)
from broker.ipc.control.client import open_client
from broker.ipc.control.methods import (
    GET_VERSION,
    LEASE_ACQUIRE,
    LEASE_LIST,
    LEASE_RELEASE,
    RUN,
    SHUTDOWN,
    STOP,
)
from broker.wire.faults import NotFoundError
from tests.kit import control as kit
from tests.kit.control import LEASE, ScriptedBroker, serving
from tests.kit.eventually import eventually
from tests.kit.needs import requires


@pytest.fixture(params=["here", "forwarded"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the broker that a test serves answers: see ``kit.control.forwarded``."""
    monkeypatch.setattr(kit, "BY_FORWARDING", request.param == "forwarded")
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control"


async def raw(path: Path) -> trio.SocketStream:
    return await trio.open_unix_socket(path)


async def until_closed(stream: trio.SocketStream) -> bytes:
    out = b""
    try:
        async for data in stream:
            out += data
    except trio.BrokenResourceError:
        pass
    return out


def call(method: str, parameters: object = None, **flags: bool) -> bytes:
    body = {"method": f"io.vitrail.Broker.{method}", **flags}
    if parameters is not None:
        body["parameters"] = parameters  # type: ignore[assignment]
    return json.dumps(body).encode() + b"\0"


async def reply(stream: trio.SocketStream) -> dict[str, object]:
    data = b""
    with trio.fail_after(60):
        while not data.endswith(b"\0"):
            data += await stream.receive_some(65536)
    return json.loads(data[:-1])


# -- our own client ----------------------------------------------------------------


async def test_a_run_with_progress_output_and_an_end(path: Path) -> None:
    api = ScriptedBroker()
    callers = []

    async def run(caller, request, emit):
        callers.append(caller)
        await emit(RunItem(progress=Progress(step="boot", state="begun")))
        await emit(RunItem(output=b"\x1b[31m\xff\0"))
        return RunItem(exited=Exited(sandbox="web", program=1, code=3))

    api.on_run = run
    items: list[RunItem] = []

    async def note(item: RunItem) -> None:
        items.append(item)

    async with serving(path, api), open_client(path) as client:
        request = RunRequest(record="web", argv=["foot"], env={"A": "b"}, wait=True)
        last = await client.call(RUN, request, note)
        assert last.exited is not None
        assert last.exited.code == 3
        assert items[0].progress is not None
        assert items[1].output == b"\x1b[31m\xff\0"
        assert api.asked == [("run", request)]
        assert (callers[0].pid, callers[0].uid) == (os.getpid(), os.getuid())
        # The connection is good for the next call.
        assert (await client.call(GET_VERSION, Nothing())).pid == os.getpid()


async def test_without_more_only_the_last_answer_comes(path: Path) -> None:
    api = ScriptedBroker()

    async def run(caller, request, emit):
        for _ in range(5):
            await emit(RunItem(output=b"x"))
        return RunItem(exited=Exited(sandbox="web", program=1, code=0))

    api.on_run = run
    async with serving(path, api), await raw(path) as stream:
        await stream.send_all(call("Run", {"record": "web"}))
        answer = await reply(stream)
        assert "continues" not in answer
        assert answer["parameters"]["exited"]["code"] == 0  # type: ignore[index]


async def test_errors_arrive_as_their_own_types(path: Path) -> None:
    api = ScriptedBroker()
    errors = [
        RefusedError("no", hint="ask", where="web.toml:1:2"),
        UpstreamError("qemu died"),
        SetupError("no image", hint="brokerctl image build"),
    ]

    async def run(caller, request, emit):
        raise errors[int(request.record)]

    async def ignore(item: object) -> None:
        pass

    api.on_run = run
    async with serving(path, api), open_client(path) as client:
        for number, error in enumerate(errors):
            with pytest.raises(type(error)) as caught:
                await client.call(RUN, RunRequest(record=str(number)), ignore)
            assert caught.value.diagnostics() == error.diagnostics()
        with pytest.raises(match="no sandbox"):
            await client.call(STOP, StopRequest(sandbox="gone"))
        with pytest.raises(NotFoundError):
            await client.call(LEASE_RELEASE, LeaseReleaseRequest(id="0" * 16))


async def test_a_mistake_of_ours_ends_the_call_and_not_the_broker(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    api = ScriptedBroker()

    async def run(caller, request, emit):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise KeyError("secret \x1b[2J")

    async def ignore(item: object) -> None:
        pass

    api.on_run = run
    async with serving(path, api), open_client(path) as client:
        with pytest.raises(InternalError, match="internal error") as caught:
            await client.call(RUN, RunRequest(record="web"), ignore)
        assert "\x1b" not in str(caught.value)
        assert "KeyError" in capfd.readouterr().err
        await client.call(GET_VERSION, Nothing())


async def test_the_lease_of_a_caller_who_hangs_up_ends(path: Path) -> None:
    api = ScriptedBroker()
    request = LeaseRequest(record="work", cid=42)
    got = trio.Event()

    async def note(item: LeaseItem) -> None:
        assert item.lease == LEASE
        got.set()

    async def hold() -> None:
        async with open_client(path) as client:
            await client.call(LEASE_ACQUIRE, request, note)

    async with serving(path, api):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await got.wait()
            assert api.held == 1
            nursery.cancel_scope.cancel()
        await eventually(lambda: not (api.held), deadline=60)
        async with open_client(path) as client:
            assert (await client.call(LEASE_LIST, Nothing())).leases == [LEASE]


async def test_a_held_lease_ends_with_its_reason(path: Path) -> None:
    api = ScriptedBroker()

    async def note(item: LeaseItem) -> None:
        api.ended.set()

    async with serving(path, api), open_client(path) as client:
        last = await client.call(
            LEASE_ACQUIRE, LeaseRequest(record="work", cid=42), note
        )
        assert last.ended == "its process has ended"


async def test_a_stop_goes_on_when_the_caller_hangs_up(path: Path) -> None:
    api = ScriptedBroker()
    begun, go, done = trio.Event(), trio.Event(), trio.Event()

    async def stop(request: StopRequest) -> None:
        begun.set()
        await go.wait()
        done.set()

    api.on_stop = stop
    async with serving(path, api):
        stream = await raw(path)
        await stream.send_all(call("Stop", {}))
        await begun.wait()
        await stream.aclose()
        go.set()
        with trio.fail_after(60):
            await done.wait()


async def test_the_end_of_the_broker_is_answered_though_it_ends_at_once(
    path: Path,
) -> None:
    api = ScriptedBroker()
    async with trio.open_nursery() as nursery:

        async def end(exchange: object, request: Nothing) -> Nothing:
            nursery.cancel_scope.cancel()
            return request

        api.shutdown = end  # type: ignore[method-assign]
        await nursery.start(server.serve, path, api.dispatcher())
        heard = []

        async def ask() -> None:
            with trio.CancelScope(shield=True), trio.fail_after(60):
                async with open_client(path) as client:
                    await client.call(SHUTDOWN, Nothing())
                    heard.append("answered")

        nursery.start_soon(ask)
    assert heard == ["answered"]


async def test_no_broker_says_how_to_start_one(path: Path) -> None:
    with pytest.raises(SetupError, match="no broker is running") as caught:
        async with open_client(path):
            pass
    assert "brokerctl run" in caught.value.hint


async def test_a_broker_that_dies_in_mid_call_is_said(path: Path) -> None:
    api = ScriptedBroker()

    async def stop(request: StopRequest) -> None:
        nursery.cancel_scope.cancel()
        await trio.sleep_forever()

    api.on_stop = stop
    async with trio.open_nursery() as outer:
        client_ended = trio.Event()

        async def ask() -> None:
            async with open_client(path) as client:
                with pytest.raises(UpstreamError, match="closed the connection"):
                    await client.call(STOP, StopRequest())
            client_ended.set()

        async with serving(path, api) as nursery:
            outer.start_soon(ask)
            await trio.sleep_forever()
        await client_ended.wait()


# -- other programs --------------------------------------------------------------------


async def test_the_reference_client_finds_and_calls_everything(path: Path) -> None:
    pytest.importorskip("varlink")
    tool = [sys.executable, "-m", "varlink.cli"]
    async with serving(path, ScriptedBroker()):
        info = await run_tool([*tool, "info", f"unix:{path}"])
        assert b"io.vitrail.Broker" in info
        for interface in ("io.vitrail.Broker", "org.varlink.service"):
            text = await run_tool([*tool, "help", f"unix:{path}/{interface}"])
            assert b"interface " + interface.encode() in text
        address = f"unix:{path}/io.vitrail.Broker"
        version = await run_tool([*tool, "call", f"{address}.GetVersion"])
        assert json.loads(version)["role"] == "local"
        status = await run_tool([*tool, "call", f"{address}.Status"])
        assert json.loads(status)["policy"]["digest"] == "d" * 64


@requires("varlinkctl")
async def test_varlinkctl(path: Path) -> None:
    tool = shutil.which("varlinkctl") or ""
    async with serving(path, ScriptedBroker()):
        text = await run_tool([tool, "introspect", str(path), "io.vitrail.Broker"])
        assert b"method Run" in text
        answer = await run_tool(
            [tool, "call", "--json=short", str(path), "io.vitrail.Broker.GetVersion"]
        )
        assert json.loads(answer)["role"] == "local"


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("io.vitrail.Broker.Nope", "org.varlink.service.MethodNotFound"),
        ("org.varlink.service.Nope", "org.varlink.service.MethodNotFound"),
        ("com.example.Nope", "org.varlink.service.InterfaceNotFound"),
        ("nope", "org.varlink.service.InterfaceNotFound"),
        ("", "org.varlink.service.InterfaceNotFound"),
    ],
)
async def test_unknown_methods(path: Path, method: str, error: str) -> None:
    async with serving(path, ScriptedBroker()), await raw(path) as stream:
        await stream.send_all(json.dumps({"method": method}).encode() + b"\0")
        assert (await reply(stream))["error"] == error


async def test_calls_sent_at_once_are_answered_in_order_and_oneway_not(
    path: Path,
) -> None:
    async with serving(path, ScriptedBroker()), await raw(path) as stream:
        many = [call("GetVersion", oneway=True), call("LeaseList"), call("Status")]
        await stream.send_all(b"".join(many * 50))
        await stream.send_eof()
        answers = (await until_closed(stream)).split(b"\0")[:-1]
    assert len(answers) == 100
    assert ["leases" in json.loads(a)["parameters"] for a in answers[:2]] == [True] * 2
    assert "policy" not in json.loads(answers[0])["parameters"]


async def test_upgrade_is_refused(path: Path) -> None:
    async with serving(path, ScriptedBroker()), await raw(path) as stream:
        await stream.send_all(call("GetVersion", upgrade=True))
        assert (await reply(stream))["parameters"] == {"parameter": "upgrade"}


# -- bad clients -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n\0",
        b"\0",
        b"{}\0",
        b"[1]\0",
        b'{"method": 5}\0',
        b'{"method": "\xff"}\0',
        b"\xff" * 100 + b"\0",
        b"{" * 100_000 + b"\0",
        b"x" * (limits.CONTROL_MESSAGE_BYTES + 1),
    ],
)
async def test_malformed_varlink_ends_that_connection(path: Path, data: bytes) -> None:
    async with serving(path, ScriptedBroker()), open_client(path) as other:
        stream = await raw(path)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                try:
                    await stream.send_all(data)
                except trio.BrokenResourceError:
                    return  # it hung up while we were at it

            nursery.start_soon(send)
            with trio.fail_after(60):
                assert await until_closed(stream) == b""
        await stream.aclose()
        await other.call(GET_VERSION, Nothing())


async def test_a_client_that_does_not_read_hurts_only_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONTROL_REPLY_SECONDS", 0.3)
    api = ScriptedBroker()
    ended = trio.Event()

    async def run(exchange, request):
        try:
            while True:
                await exchange.emit(OpenItem(detail="x" * 60_000))
        finally:
            ended.set()

    api.open_objects = run  # type: ignore[method-assign]
    async with serving(path, api), open_client(path) as other:
        slow = await raw(path)
        await slow.send_all(call("Open", {"url": "https://a"}, more=True))
        with trio.fail_after(20):
            while not ended.is_set():
                await other.call(GET_VERSION, Nothing())
        await until_closed(slow)
        await slow.aclose()


async def test_a_program_s_output_waits_for_its_reader_until_it_hangs_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at a pipe: a pager may show the first page for as long as it likes."""
    monkeypatch.setattr(limits, "CONTROL_REPLY_SECONDS", 0.1)
    api = ScriptedBroker()
    blocked, ended = trio.Event(), trio.Event()

    async def run(caller, request, emit):
        try:
            while True:
                blocked.set()
                await emit(RunItem(output=b"x" * 60_000))
        finally:
            ended.set()

    api.on_run = run
    async with serving(path, api), open_client(path) as other:
        slow = await raw(path)
        await slow.send_all(call("Run", {"record": "web"}, more=True))
        await blocked.wait()
        await trio.sleep(0.5)
        await other.call(GET_VERSION, Nothing())
        assert not ended.is_set()
        await slow.aclose()
        with trio.fail_after(20):
            await ended.wait()


async def test_input_that_a_program_never_reads_goes_with_its_client(
    path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a program takes no input and never says that it was killed.

    Each 'brokerctl run' that was ended would hold a place until its sandbox ends,
    and the person could not even stop that one.
    """
    monkeypatch.setattr(limits, "CONTROL_REPLY_SECONDS", 0.1)
    api = ScriptedBroker()
    begun = trio.Semaphore(0)

    async def takes_nothing(exchange: object, request: RunInputRequest) -> None:
        begun.release()
        await trio.sleep_forever()

    monkeypatch.setattr(api, "run_input", takes_nothing)
    asked = {"sandbox": "web", "program": 1, "data": "eA=="}

    async def served() -> bool:
        try:
            async with open_client(path) as client:
                return bool(await client.call(GET_VERSION, Nothing()))
        except RefusedError:
            return False

    async with serving(path, api):
        # As many as may wait there; a place is free again when such a call has ended.
        places = {"here": limits.CONTROL_CLIENTS, "forwarded": limits.CONTROL_FORWARDED}
        for again in range(places[way]):
            stream = await raw(path)
            await stream.send_all(call("RunInput", asked))
            if again % 2:
                await stream.send_all(call("RunInput", asked))
            await begun.acquire()
            await stream.aclose()
        await eventually(served, deadline=10)


async def test_silence_and_a_byte_now_and_then_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONTROL_IDLE_SECONDS", 0.5)
    api = ScriptedBroker()
    go = trio.Event()

    async def stop(request: StopRequest) -> None:
        await go.wait()

    api.on_stop = stop
    async with serving(path, api):
        silent, dripping, busy = await raw(path), await raw(path), await raw(path)
        await busy.send_all(call("Stop", {}))
        with trio.fail_after(60):
            assert await until_closed(silent) == b""
            closed = False
            while not closed:
                try:
                    await dripping.send_all(b"x")
                    await trio.sleep(0.05)
                except trio.BrokenResourceError:
                    closed = True
        # One whose call takes long is not idle.
        go.set()
        assert (await reply(busy))["parameters"] == {"stopped": []}
        for stream in (silent, dripping, busy):
            await stream.aclose()


async def test_as_many_clients_as_the_limit_and_one_more(path: Path) -> None:
    async with serving(path, ScriptedBroker()):
        clients = [await raw(path) for _ in range(limits.CONTROL_CLIENTS)]
        for stream in clients:
            await stream.send_all(call("GetVersion"))
            assert "error" not in await reply(stream)
        with pytest.raises(RefusedError, match="144 programs"):
            async with open_client(path) as one_more:
                await one_more.call(GET_VERSION, Nothing())
        await clients.pop().aclose()

        async def served() -> bool:
            try:
                async with open_client(path) as one_more:
                    return bool(await one_more.call(GET_VERSION, Nothing()))
            except RefusedError:
                return False

        await eventually(served)
        for stream in clients:
            await stream.aclose()


# -- who may connect -------------------------------------------------------------------


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that all users may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def as_somebody_else() -> list[str]:
    """Words before a command that make it another user's."""
    if os.getuid() == 0:
        return ["setpriv", "--reuid", "65534", "--clear-groups", "--"]
    user = pwd.getpwuid(os.getuid()).pw_name
    if not any(line.startswith(f"{user}:") for line in _subuids()):
        pytest.skip("neither root nor subordinate uids: no second user to be")
    return ["unshare", "--map-auto", "--map-root-user", "setpriv", "--reuid", "1", "--"]


def _subuids() -> list[str]:
    file = Path("/etc/subuid")
    return file.read_text().splitlines() if file.exists() else []


_CONNECT = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
except PermissionError:
    print("no permission"); sys.exit()
try:
    s.sendall(b'{"method":"io.vitrail.Broker.GetVersion"}\\0')
except OSError:
    pass
print(s.recv(4096))
"""


async def test_another_user_is_refused_twice(
    open_directory: Path, as_somebody_else: list[str]
) -> None:
    path = open_directory / "control"
    argv = [*as_somebody_else, "/usr/bin/python3", "-I", "-c", _CONNECT, str(path)]
    async with serving(path, ScriptedBroker()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert b"no permission" in await run_tool(argv)
        # The mode is one wall; after it the kernel's word on the peer is another.
        path.chmod(0o666)
        answer = await run_tool(argv)
        assert b"io.vitrail.Broker.Refused" in answer
        assert b"another user" in answer


_LISTEN = """
import socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
print("ready", flush=True)
time.sleep(60)
"""

# -- the socket's place ----------------------------------------------------------------


async def test_a_second_broker_is_refused_and_the_first_unharmed(path: Path) -> None:
    async with serving(path, ScriptedBroker()):
        with pytest.raises(SetupError, match="is already running"):
            await server.serve(path, ScriptedBroker().dispatcher())
        async with open_client(path) as client:
            await client.call(GET_VERSION, Nothing())
    assert not path.exists()


async def test_the_socket_of_a_killed_broker_is_taken_over(path: Path) -> None:
    child = spawn(
        [
            "/usr/bin/python3",
            "-c",
            _LISTEN,
            str(path),
        ],
        stdout=PIPE,
    )
    assert child.popen.stdout is not None
    assert child.popen.stdout.readline() == b"ready\n"
    child.popen.stdout.close()
    child.kill()
    await child.wait()
    assert path.is_socket()
    async with serving(path, ScriptedBroker()), open_client(path) as client:
        await client.call(GET_VERSION, Nothing())


async def test_a_socket_that_is_not_ours_any_more_is_left(path: Path) -> None:
    async with serving(path, ScriptedBroker()):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert path.is_socket()


async def test_nothing_is_left_open(path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    async with serving(path, ScriptedBroker()):
        for _ in range(200):
            stream = await raw(path)
            await stream.send_all(call("Status"))
            await stream.aclose()
        async with open_client(path) as client:
            await client.call(GET_VERSION, Nothing())
    assert sorted(os.listdir("/proc/self/fd")) == before
