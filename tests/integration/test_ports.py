"""``vitrail.Tcp``: ports of sandboxes and of the user's, with a real broker and agents.

The guests are processes, so their loopback is this machine's; who connects whom is what
is looked at.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio

from broker.session import loopback_ports
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.world import world

pytestmark = requires("waypipe")
BULK = 5_000_000


async def _shout(stream):
    """Answer with the input, in capitals, and close when it has ended."""
    async for data in stream:
        await stream.send_all(data.upper())
    await stream.aclose()


@asynccontextmanager
async def server(handler=_shout):
    """A server on this machine's loopback; yields its port."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, handler, [listener]))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def sandboxes(rules):
    async with (
        world({}, image=False, rules=rules) as w,
        plain(w, "work", "vault") as guests,
    ):
        yield w, guests["work"], guests["vault"]


@asynccontextmanager
async def served(columns):
    """A server, and sandboxes with a rule for its port."""
    async with server() as port, sandboxes(rule(port, columns)) as found:
        yield port, *found


@asynccontextmanager
async def forwarded(w, port, *options, name="vault"):
    """``brokerctl forward``; yields its port and the process."""
    async with running(
        "forward", *options, name, f"0:{port}", "--json", env=w.environ
    ) as child:
        line = b""
        with trio.fail_after(60):
            while not line.endswith(b"\n"):
                await trio.lowlevel.wait_readable(child.popen.stdout)
                line += os.read(child.popen.stdout.fileno(), 1000)
        item = json.loads(line)
        yield (item["address"], item["local"]), child


async def talk(address, data):
    """The answer until its end."""
    stream = await trio.open_tcp_stream(*address)

    async def send():
        await stream.send_all(data)
        await stream.send_eof()

    with trio.fail_after(60):
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(send)
            return b"".join([piece async for piece in stream])


def rule(port, columns):
    return f"vitrail.Tcp +{port} {columns}\n"


async def test_a_port_of_a_sandbox_is_the_users(tmp_path):
    """Bytes both ways, the end of each direction, and what the log says.

    Then the same as standard input and output, as ssh wants it.
    """
    said = tmp_path / "said"
    said.write_text("by ssh's proxy command")
    async with served("@adminvm vault allow") as (port, w, *_):
        async with forwarded(w, port) as (local, _):
            assert await talk(local, b"hello") == b"HELLO"
            assert await talk(local, b"x" * BULK) == b"X" * BULK

            async def closed():
                found = w.events("stream.closed", service="vitrail.Tcp")
                return found if len(found) == 2 else None

            found = await eventually(closed)
        decision = await w.only_event("decision", service="vitrail.Tcp")
        assert (decision["sandbox"], decision["argument"]) == ("vault", f"+{port}")
        assert decision["detail"]["source"] == "@adminvm"
        assert max(one["bytes_from_sandbox"] for one in found) == BULK
        assert max(one["bytes_to_sandbox"] for one in found) == BULK
        words = ("forward", "--stdio", "vault", str(port))
        with said.open("rb") as stdin:
            answer = await brokerctl(*words, env=w.environ, stdin=stdin.fileno())
        assert (answer.code, answer.out) == (0, "BY SSH'S PROXY COMMAND"), answer


async def test_connection_to_closed_port_reported():
    """The sandbox's program alone knows why, and its log is the sandbox's."""
    async with server() as free:
        pass
    async with sandboxes("vitrail.Tcp * @adminvm vault allow\n") as (w, *_):
        async with forwarded(w, free) as (local, child):
            assert await talk(local, b"hello") == b""
            line = b""
            with trio.fail_after(60):
                while not line.endswith(b"\n"):
                    await trio.lowlevel.wait_readable(child.popen.stdout)
                    line += os.read(child.popen.stdout.fileno(), 1000)
            failed = json.loads(line)["failed"]
            assert failed.startswith(f"port {free} of vault sent nothing; check that")
        argv = ("forward", "--stdio", "vault", str(free))
        answer = await brokerctl(*argv, env=w.environ)
        assert answer.code == 1
        assert f"port {free} of vault sent nothing" in answer.err


async def test_what_no_rule_allows_or_cannot_be_is_refused():
    async with served("@adminvm vault allow") as (port, w, *_):

        async def refused(*words):
            answer = await brokerctl("forward", *words, env=w.environ)
            assert answer.code, words
            return answer.err

        assert "denied" in await refused("work", f"0:{port}")
        assert "denied" in await refused("vault", "0:9")
        assert "denied" in await refused("--stdio", "vault", "9")
        assert "cannot use" in await refused("--localhost", "vault", str(port))
        assert "no sandbox 'nobody' is running" in await refused("nobody", "80")
        assert "a port must be between 1 and 65535" in await refused("work", "80:0")


async def test_forwarded_port_has_address_of_its_sandbox():
    """A browser sends the cookies of 127.0.0.1 to each port of it."""
    async with served("@adminvm vault allow") as (port, w, *_):
        async with forwarded(w, port) as ((address, number), _):
            assert address == loopback_ports.loopback_address("vault")
            assert address != loopback_ports.loopback_address("work")
            with pytest.raises(OSError, match="all attempts"):
                await trio.open_tcp_stream("127.0.0.1", number)
        async with forwarded(w, port, "--localhost") as ((address, number), _):
            assert address == "127.0.0.1"
            assert await talk((address, number), b"hello") == b"HELLO"


async def test_a_revoked_rule_ends_the_forward_and_its_connections():
    async with (
        served("@adminvm vault allow") as (port, w, *_),
        forwarded(w, port) as (local, child),
    ):
        stream = await trio.open_tcp_stream(*local)
        async with stream:
            await stream.send_all(b"a")
            with trio.fail_after(60):
                assert await stream.receive_some() == b"A"
                rules = w.paths.config[0] / "policy.d" / "30-mine.policy"
                rules.write_text("")
                with suppress(trio.BrokenResourceError):  # reset
                    assert await stream.receive_some() == b""
                assert await child.wait() == 1
        with pytest.raises(OSError, match="all attempts"):
            await trio.open_tcp_stream(*local)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


CLIENT = """\
vitrail-connect -t {target} {port} {local} &
trap 'kill $!' EXIT
python3 - <<'END'
import socket, sys, time
for _ in range(600):
    try:
        sock = socket.create_connection(("127.0.0.1", {local}), 30)
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
sock.sendall(b"hello from work")
sock.shutdown(socket.SHUT_WR)
said = b""
while data := sock.recv(1000):
    said += data
print(said.decode())
END
"""


async def test_a_sandbox_connects_where_a_rule_leads():
    """To a port of another sandbox, and to one of the user's."""
    async with server() as port:
        rules = rule(port, "work vault allow") + rule(port, "work @adminvm allow")
        rules += "vitrail.Tcp * vault work deny\n"
        async with sandboxes(rules) as (w, work, vault):
            for target in ("vault", "@adminvm"):
                script = CLIENT.format(target=target, port=port, local=free_port())
                code, said = await work.script(script)
                assert (code, "HELLO FROM WORK" in said) == (0, True), said
            allowed = w.events("decision", service="vitrail.Tcp")
            assert [one["target"] for one in allowed] == ["vault", "dom0"]
            script = CLIENT.format(target="work", port=port, local=free_port())
            assert "denied" in (await vault.script(script))[1]
            for argument in ("0", "08", "65536", "http", "+80", ""):
                call = f"vitrail-call -t vault vitrail.Tcp '{argument}' </dev/null"
                code, said = await work.script(call)
                assert (code, "is not a port" in said) == (125, True), (argument, said)
            assert len(w.events("program.started", name="vitrail-files")) == 1


def test_a_program_of_another_user_is_seen(monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()):
            conn, there = listener.accept()
            with conn:
                assert loopback_ports.is_own(conn, there)
                monkeypatch.setattr(os, "getuid", lambda: 4321)
                assert not loopback_ports.is_own(conn, there)
