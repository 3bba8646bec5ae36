"""Attack: programs that misuse an ssh agent whose keys are the user's."""

from __future__ import annotations

import base64
import os
import struct
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import trio

from broker.core import ssh_agent as wire
from broker.core.limits import ssh_agent as limits
from broker.core.services import CALL, PORTS
from broker.core.ssh_agent import BindSession, ListKeys, SignLogin, string
from shims.files.protocol import frame
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.ssh import agent, made_key
from tests.kit.world import world

pytestmark = requires("waypipe", "ssh-agent")
RULES = """\
vitrail.SshAgent +login.asked work  @adminvm ask key=work@desk
vitrail.SshAgent +login.host  work  @adminvm allow key=work@desk host=git.example.test
vitrail.SshAgent +login.host  work  @adminvm deny
vitrail.SshAgent *            work  @adminvm allow key=work@desk
vitrail.SshAgent *            other @adminvm allow key=home@desk
"""
FAILED = string(bytes([wire.FAILURE]))


@asynccontextmanager
async def sandboxes():
    async with world({}, start=False, image=False) as w:
        w.write_rules(RULES)
        keys = [
            made_key(w.base / "keys" / name, f"{name}@desk")
            for name in ("work", "home")
        ]
        async with agent(w.base / "agent", *keys) as sock:
            w.environ |= {"SSH_AUTH_SOCK": str(sock), "HOME": str(w.base)}
            await w.start()
            async with plain(w, "work", "other") as guests:
                yield w, guests["work"], guests["other"]


@asynccontextmanager
async def asking(guest):
    """A connection of the agent's protocol."""
    door = f"{guest.folder}/vm/s_{PORTS[CALL]}"
    async with await trio.open_unix_socket(door) as stream:
        ask = {"type": "call", "service": "vitrail.SshAgent", "target": "@adminvm"}
        await stream.send_all(frame(ask))
        said = b""
        with trio.fail_after(60):
            while b'"go"' not in said:
                data = await stream.receive_some()
                assert data, said
                said += data
        yield stream


async def answer(stream, request, frames=None):
    """Send a request; returns the body of its answer, None at the end."""
    frames = frames or wire.frames()
    with trio.fail_after(60):
        await stream.send_all(request)
        while True:
            data = await stream.receive_some()
            if not data:
                return None
            if found := frames.feed(data):
                return found[0]


async def keys_of(stream):
    listed = wire.decode_answer(
        await answer(stream, wire.request_frame(ListKeys())), ListKeys()
    )
    return listed.keys


def sign(key, data):
    body = bytes([wire.SIGN_REQUEST]) + string(key) + string(data) + bytes(4)
    return string(body)


def login(key, user="me", **more):
    return wire.request_frame(SignLogin(key, 0, b"s" * 32, user, "ssh-ed25519", **more))


async def test_programs_that_misuse_an_agent_get_nothing():
    async with sandboxes() as (w, work, other):
        async with asking(work) as stream:
            (key,) = await keys_of(stream)
            assert key.comment == "work@desk"
            async with asking(other) as theirs:
                (foreign,) = await keys_of(theirs)
            signed = await answer(stream, login(key.key))
            assert signed[0] == wire.SIGN_ANSWER
            # Data that is not ssh's, and keys that no rule or no agent has.
            for request in (
                sign(key.key, b"x" * 300),
                sign(key.key, os.urandom(64)),
                sign(key.key, b""),
                login(foreign.key),
                login(b"no key"),
                login(key.key, host_key=b"a host that has signed nothing"),
                login(key.key, user="host"),
                string(bytes([17]) + os.urandom(100)),
                string(bytes([wire.EXTENSION]) + string(b"query")),
            ):
                assert await answer(stream, request) == FAILED[4:], request
            made = [
                one["argument"]
                for one in w.events("decision", verdict="allow")
                if one.get("argument", "").startswith("+login")
            ]
            assert made == ["+login.me"]
            await a_session_that_no_host_has_signed(w, stream, key.key)
        for head in (0, wire.SSH_FRAME_BYTES + 1, 0xFFFFFFFF):
            async with asking(work) as stream:
                assert await answer(stream, struct.pack(">I", head)) is None
        async with asking(work) as stream:
            request = bytearray(login(key.key))
            request[3] += 1  # a byte of the next message becomes this one's
            assert await answer(stream, bytes(request) + b"\0" * 5) in {
                FAILED[4:],
                None,
            }
        async with asking(work) as stream:
            assert len(await keys_of(stream)) == 1


async def a_session_that_no_host_has_signed(w, stream, key):
    """The agent checks the signature: the login is one to no known host."""
    (w.base / ".ssh").mkdir()
    known = f"git.example.test ssh-ed25519 {base64.b64encode(key).decode()}\n"
    (w.base / ".ssh/known_hosts").write_text(known)
    bind = BindSession(
        key, b"s" * 32, string(b"ssh-ed25519") + string(b"x" * 64), False
    )
    assert await answer(stream, wire.request_frame(bind)) == FAILED[4:]
    assert await answer(stream, login(key, "host")) == FAILED[4:]


async def test_connections_of_a_record_are_few():
    """Each is a process with the user's rights, of which a viewer has 250."""
    most = limits.SSH_CONNECTIONS_PER_RECORD
    async with sandboxes() as (_, work, other), AsyncExitStack() as stack:
        held = [await stack.enter_async_context(asking(work)) for _ in range(most)]
        with pytest.raises(AssertionError, match="too many calls"):
            async with asking(work):
                raise RuntimeError
        async with asking(other) as theirs:
            assert len(await keys_of(theirs)) == 1
        assert len(await keys_of(held[0])) == 1
        await held[0].aclose()

        async def free():
            with suppress(AssertionError):
                async with asking(work) as stream:
                    return len(await keys_of(stream)) == 1
            return False

        await eventually(free)


async def test_a_flood_waits_in_its_sender():
    async with (
        sandboxes() as (_, work, other),
        asking(work) as flooding,
        trio.open_nursery() as nursery,
    ):

        async def flood():
            request = wire.request_frame(ListKeys()) * 1000
            with trio.move_on_after(60):
                while True:
                    await flooding.send_all(request)

        nursery.start_soon(flood)
        async with asking(other) as stream:
            for _ in range(5):
                assert len(await keys_of(stream)) == 1
        nursery.cancel_scope.cancel()


async def test_a_question_ends_with_its_asker():
    async with sandboxes() as (w, work, _):
        async with asking(work) as stream:
            (key,) = await keys_of(stream)
            await stream.send_all(login(key.key, user="asked"))
            asked = await w.wait_event("question.asked")
            assert asked["sandbox"] == "work"
            assert w.events("question.answered") == []
        ended = await w.wait_event("question.answered")
        assert (ended["answer"], ended["answered_by"]) == ("deny", "gone"), ended

        async def closed():
            return w.events("stream.closed", service="vitrail.Call", sandbox="work")

        await eventually(closed)
