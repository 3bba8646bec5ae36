"""A viewer that was taken over orders services of the user's without the authority's word."""

from __future__ import annotations

import os
import socket
import threading
import time
from base64 import b64encode
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from broker.core.errors import (
    InternalError,
    PeerError,
    RefusedError,
    SetupError,
    UpstreamError,
)
from broker.core.services import AUDIO, CALL, SECRET, SSH_AGENT, TCP
from broker.core.ssh_agent import (
    AgentKey,
    BindSession,
    KeyDone,
    KeyList,
    KeyRefused,
    ListKeys,
    SignatureMade,
    SignContent,
    SignLogin,
    fingerprint,
    string,
)
from broker.ipc.session.bus_orders import HoldPermit
from broker.ipc.session.service_orders import (
    AcceptConnection,
    AskAgent,
    AskSecret,
    ConnectPort,
    ListenPort,
    NameHost,
    ServeNow,
    SignByAgent,
    StartService,
    UseAgent,
)
from broker.session.loopback_ports import loopback_address
from broker.session.read_warrant import SECONDS
from tests.kit.session import Signed, session, starter_of_orders
from tests.kit.wayland.compositor import short_directory

__all__ = ["session"]


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener, listener.getsockname()[1]


# -- ports --------------------------------------------------------------------------------


async def test_a_permitted_port_is_connected_to(session, server):
    listener, port = server
    warrant = session.permit(TCP, argument=f"+{port}")
    (fd,) = (await session.carry_out(Signed(warrant, ConnectPort(port)))).fds
    with socket.socket(fileno=fd) as ours, listener.accept()[0] as theirs:
        ours.sendall(b"hello")
        assert theirs.recv(5) == b"hello"
    listener.close()
    warrant = session.permit(TCP, argument=f"+{port}")
    with pytest.raises(UpstreamError, match="no program answers on port"):
        await session.carry_out(Signed(warrant, ConnectPort(port)))


async def test_no_other_port_is_connected_to(session, server):
    listener, port = server
    for warrant in (
        b"",
        session.permit(TCP, argument=f"+{port - 1}"),
        session.permit(TCP, argument="+"),
        session.permit(TCP, argument=f"+{port}", target="vault"),
        session.permit(AUDIO, argument=f"+{port}"),
        session.call("Forward", sandbox="work", port=port, local=port),
    ):
        with pytest.raises(RefusedError):
            await session.carry_out(Signed(warrant, ConnectPort(port)))
    with pytest.raises(BlockingIOError):
        listener.accept()


async def test_the_port_of_a_call_is_listened_on(session, server):
    _, taken = server
    warrant = session.call("Forward", sandbox="work", port=80, local=0)
    async with session.carrying_out(Signed(warrant, ListenPort(0))) as begun:
        assert begun.value.address == loopback_address("work")
        there = (begun.value.address, begun.value.port)
        for _ in range(2):
            with socket.create_connection(there) as far:
                accepted = await begun.more(AcceptConnection())
                with socket.socket(fileno=accepted.fds[0]) as ours:
                    assert accepted.value.port == far.getsockname()[1]
                    far.sendall(b"hello")
                    await trio.lowlevel.wait_readable(ours)
                    assert ours.recv(9) == b"hello"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(there)
    warrant = session.call(
        "Forward", sandbox="work", port=80, local=taken, localhost=True
    )
    with pytest.raises(RefusedError, match="cannot use") as caught:
        await session.carry_out(Signed(warrant, ListenPort(taken)))
    assert "if another program listens there" in caught.value.hint
    assert f"such as {taken + 1}:80" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use each port")
async def test_the_port_that_is_roots_names_one_that_is_not(session):
    first = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
    if int(first) <= 80:
        pytest.skip("every user may use port 80 here")
    warrant = session.call("Forward", sandbox="work", port=3000, local=80)
    with pytest.raises(RefusedError, match="Permission denied") as caught:
        await session.carry_out(Signed(warrant, ListenPort(80)))
    assert "ports below 1024 are root's" in caught.value.hint
    assert "such as 8080:3000" in caught.value.hint


async def test_no_listening_socket_is_lent(session):
    """Shut down it would be a socket that connects to any port of the loopback."""
    warrant = session.call("Forward", sandbox="work", port=80, local=0)
    async with session.carrying_out(Signed(warrant, ListenPort(0))) as begun:
        assert begun.fds == []
        with pytest.raises(PeerError, match="does not belong to this order"):
            await begun.more(Signed(warrant, ListenPort(0)))


async def test_no_other_port_is_listened_on(session, server):
    _, taken = server
    for warrant in (
        b"",
        session.call("Forward", sandbox="work", port=taken, local=0),
        session.call("Start", sandbox="work", port=80, local=taken),
        session.permit(TCP, argument=f"+{taken}"),
    ):
        with pytest.raises(RefusedError) as caught:
            await session.carry_out(Signed(warrant, ListenPort(taken)))
        assert "cannot use" not in caught.value.message


# -- secrets ------------------------------------------------------------------------------

_LOOKUP = """\
#!/bin/sh
[ "$1 $2" = "lookup vitrail" ] || exit 9
case $3 in
    git) printf s3cret ;;
    large) head -c 32769 /dev/zero ;;
    *) exit 1 ;;
esac
"""


@pytest.fixture
def keyring(tmp_path):
    """A session in which secret-tool is the test's own."""
    (tmp_path / "secret-tool").write_text(_LOOKUP)
    (tmp_path / "secret-tool").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    with starter_of_orders(dict(os.environ, PATH=path)) as session:
        yield session


async def test_a_permitted_secret_is_read(keyring):
    warrant = keyring.permit(SECRET, argument="+git")
    (near, far) = (await keyring.carry_out(Signed(warrant, AskSecret("git")))).fds
    os.close(far)
    with socket.socket(fileno=near) as ours, ours.makefile("rb") as file:
        assert file.read() == b"\0\0\0\0\6s3cret\0\0\0\0\0\1\0\0\0\1\0"
    for name in ("none", "large"):
        warrant = keyring.permit(SECRET, argument=f"+{name}")
        with pytest.raises(UpstreamError, match="secret-tool"):
            await keyring.carry_out(Signed(warrant, AskSecret(name)))


async def test_no_other_secret_is_read(keyring):
    for warrant in (
        b"",
        keyring.permit(SECRET, argument="+other"),
        keyring.permit(SECRET, argument="+git", target="vault"),
        keyring.permit(TCP, argument="+git"),
        keyring.permit(SECRET, argument="+git", ahead=True),
    ):
        with pytest.raises(RefusedError):
            await keyring.carry_out(Signed(warrant, AskSecret("git")))
    with pytest.raises(RefusedError):
        await keyring.carry_out(Signed(keyring.permit(SECRET), AskSecret("")))
    bad, warrant = AskSecret("--all"), keyring.permit(SECRET)
    message = await keyring.refusal("AskSecret", bad, warrant=warrant)
    assert "the viewer sent an invalid AskSecret" in message


# -- services.d ---------------------------------------------------------------------------


@pytest.fixture
def services(tmp_path):
    """A session whose user offers the service "echo", twice at one time."""
    folder = tmp_path / "config/vitrail/services.d"
    folder.mkdir(parents=True)
    text = "command = ['sh', '-c', 'echo hello; exec cat']\nconcurrent = 2\n"
    for place in (
        folder / "echo.toml",
        folder / "my.Echo.toml",
        folder.parent / "up.toml",
    ):
        place.write_text(text)
    (folder / "vitrail.Tcp.toml").write_text(text)
    (folder / "bad.toml").write_text("command = ['cat']\nnetwrok = true\n")
    environ = dict(
        os.environ,
        HOME=str(tmp_path),
        XDG_RUNTIME_DIR="/run",  # where nothing is made
        XDG_CONFIG_HOME=str(tmp_path / "config"),
        XDG_STATE_HOME=str(tmp_path / "state"),
    )
    with starter_of_orders(environ) as session:
        yield session


@pytest.mark.parametrize(
    ("name", "permit"),
    [("echo", (CALL, "+echo+you")), ("my.Echo", ("my.Echo", "+you"))],
)
async def test_a_permitted_service_is_started(services, tmp_path, name, permit):
    service, argument = permit
    warrant = services.permit(service, argument=argument, sandbox="work")
    order = Signed(warrant, StartService(name, "you"))
    async with services.carrying_out(order) as begun:
        assert begun.value.concurrent == 2
        (fd,) = (await begun.more(ServeNow())).fds
        with socket.socket(fileno=fd) as ours:
            ours.setblocking(False)
            data = b""
            with trio.fail_after(30):
                while b"hello" not in data:
                    await trio.lowlevel.wait_readable(ours)
                    data += ours.recv(1000)
    assert (tmp_path / f"state/vitrail/services/{name}.log").exists()


async def test_a_service_ends_with_its_order(services):
    warrant = services.permit(CALL, argument="+echo", sandbox="work")
    async with services.carrying_out(
        Signed(warrant, StartService("echo", ""))
    ) as begun:
        (fd,) = (await begun.more(ServeNow())).fds
    with socket.socket(fileno=fd) as ours:
        ours.settimeout(30)
        while ours.recv(1000):
            pass  # to the end: none of the jail's processes has it


async def test_what_is_no_service_is_not_started(services):
    def order(name):
        return Signed(
            services.permit(CALL, argument=f"+{name}"), StartService(name, "")
        )

    answer = await services.carry_out(order("none"))
    assert (answer.value.concurrent, answer.fds) == (None, [])
    with pytest.raises(SetupError, match="cannot start") as caught:
        await services.carry_out(order("bad"))
    assert "bad.toml:2:1" in caught.value.hint
    for name in ("../up", "a/b", ".x", ""):
        warrant, request = order(name)
        message = await services.refusal("StartService", request, warrant=warrant)
        assert "the viewer sent an invalid StartService" in message


async def test_no_other_service_is_started(services):
    for warrant in (
        b"",
        services.permit(CALL, argument="+other"),
        services.permit(CALL, argument="+echo+them"),
        services.permit(CALL, argument="+echo"),
        services.permit(CALL, argument="+echo+you", target="vault"),
        services.permit("my.Echo", argument="+echo+you"),
        services.permit(TCP, argument="+echo+you"),
    ):
        with pytest.raises(RefusedError):
            await services.carry_out(Signed(warrant, StartService("echo", "you")))
    order = Signed(
        services.permit(TCP, argument="+80"), StartService("vitrail.Tcp", "80")
    )
    with pytest.raises(RefusedError):
        await services.carry_out(order)
    with pytest.raises(PeerError):
        await services.carry_out(ServeNow())


# -- ssh agents ---------------------------------------------------------------------------

KEY, HOST, OTHER = b"the key", b"a host's key", b"another host's key"
NAME = f"{fingerprint(KEY)} me@desk"


class PaperAgent:
    """An agent that signs all that it is asked, in a thread of its own."""

    def __init__(self, path):
        self.signed = 0
        self.takes = b"good"
        """The end of a session's signature that it takes."""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self):
        with suppress(OSError):  # it is closed
            while True:
                conn = self.listener.accept()[0]
                with conn, conn.makefile("rb") as file:
                    while head := file.read(4):
                        body = self._answer(file.read(int.from_bytes(head, "big")))
                        conn.sendall(len(body).to_bytes(4, "big") + body)

    def _answer(self, body):
        match body[0]:
            case 11:
                return b"\x0c\0\0\0\1" + string(KEY) + string(b"me@desk")
            case 13:
                self.signed += 1
                return b"\x0e" + string(b"a signature")
        return b"\6" if self.takes in body else b"\5"

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(30)
        self.listener.close()


@pytest.fixture
def agent(tmp_path):
    """The user's agent and session; the user's ssh knows one host."""
    with short_directory() as folder:
        path = Path(folder) / "agent"
        made = PaperAgent(path)
        (tmp_path / ".ssh").mkdir()
        known = f"git.example.test ssh-x {b64encode(HOST).decode()}\n"
        (tmp_path / ".ssh/known_hosts").write_text(known)
        environ = dict(os.environ, HOME=str(tmp_path), SSH_AUTH_SOCK=str(path))
        with starter_of_orders(environ) as session:
            yield made, session
        made.close()


def bind(session=b"s1", key=HOST, signature=b"good"):
    return BindSession(key, session, signature, forwarding=False)


def login(session=b"s1", user="git", key=KEY, host_key=b""):
    return SignLogin(key, 0, session, user, "ssh-x", host_key)


CONTENT = SignContent(KEY, 0, "git", "sha256", bytes(32))


def asking(session, begun):
    """Ask by a permit with these fields."""

    async def ask(what, service=SSH_AGENT, **fields):
        fields = {"key": NAME, **fields} if fields else {}
        warrant = session.permit(service, **fields) if fields else b""
        if isinstance(what, SignLogin | SignContent):
            order = Signed(warrant, SignByAgent(what))
        else:
            order = AskAgent(what)
        return (await begun.more(order)).value.answer

    return ask


async def test_permitted_uses_of_a_key_are_signed(agent):
    made, session = agent
    order = Signed(session.permit(SSH_AGENT, argument="+list"), UseAgent())
    async with session.carrying_out(order) as begun:
        ask = asking(session, begun)
        assert await ask(ListKeys()) == KeyList((AgentKey(KEY, "me@desk"),))
        assert await ask(bind()) == KeyDone()
        assert await ask(bind(b"s2", OTHER)) == KeyDone()
        signed = SignatureMade(b"a signature")
        at = {"argument": "+login.git", "host": "git.example.test"}
        at["about"] = fingerprint(HOST)
        assert await ask(login(), **at) == signed
        assert await ask(login(host_key=HOST), **at) == signed
        assert await ask(login(b"s3"), argument="+login.git") == signed
        unknown = dict(at, host=fingerprint(OTHER), about=fingerprint(OTHER))
        assert await ask(login(b"s2"), **unknown) == signed
        assert await ask(CONTENT, argument="+sign.git", host="") == signed
        for key, names in ((HOST, ["git.example.test"]), (OTHER, [])):
            host = await begun.more(NameHost(key, ("a.test",)))
            assert host.value.names == tuple(names)
    assert made.signed == 5


async def test_no_other_use_of_a_key_is_signed(agent):
    made, session = agent
    order = Signed(session.permit(SSH_AGENT, argument="+list"), UseAgent())
    at = {"argument": "+login.git", "host": "git.example.test"}
    at["about"] = fingerprint(HOST)
    async with session.carrying_out(order) as begun:
        ask = asking(session, begun)
        await ask(bind())
        await ask(bind(b"s2", OTHER))
        assert await ask(bind(b"s4", signature=b"bad")) == KeyRefused()
        for what, fields in (
            (login(), {}),
            (login(), dict(at, service=TCP)),
            (login(), dict(at, target="vault")),
            (login(), dict(at, sandbox="other-1")),
            (login(), dict(at, argument="+login.root")),
            (login(), dict(at, argument="+list")),
            (login(), dict(at, argument="+sign.git")),
            (login(), dict(at, host=None)),
            (login(), dict(at, host="other.example.test")),
            (login(), dict(at, host=fingerprint(HOST))),
            (login(), dict(at, about=fingerprint(OTHER))),
            (login(), dict(at, about="")),
            (login(b"s2"), at),
            (login(b"s2"), dict(at, about=fingerprint(OTHER))),
            (login(b"s3"), at),
            (login(b"s3"), dict(at, host=None)),
            (login(b"s4"), at),
            (login(host_key=OTHER), at),
            (login(b"s3", host_key=HOST), dict(at, host=None, about="")),
            (login(key=b"another key"), at),
            (login(), dict(at, key=f"{fingerprint(KEY)} backup@desk")),
            (login(), dict(at, key=fingerprint(KEY))),
            (login(key=b"another key"), dict(at, key="")),
            (CONTENT, {}),
            (CONTENT, {"argument": "+sign.file", "host": ""}),
            (CONTENT, {"argument": "+login.git", "host": ""}),
        ):
            with pytest.raises(RefusedError):
                await ask(what, **fields)
        assert made.signed == 0
        # The connection is served as before.
        assert await ask(login(), **at) == SignatureMade(b"a signature")


async def test_an_agent_that_takes_any_signature_binds_no_session(agent):
    made, session = agent
    made.takes = b""
    order = Signed(session.permit(SSH_AGENT, argument="+list"), UseAgent())
    async with session.carrying_out(order) as begun:
        ask = asking(session, begun)
        assert await ask(bind()) == KeyRefused()
        with pytest.raises(RefusedError):
            await ask(login(), argument="+login.git", host="git.example.test")


async def test_keys_are_listed_while_their_permit_is_held_and_no_longer(agent):
    _, session = agent
    at = time.monotonic() - SECONDS + 3
    fields = {"argument": "+list", "at": at}
    order = Signed(session.permit(SSH_AGENT, **fields), UseAgent())
    async with session.carrying_out(order) as begun:
        ask = asking(session, begun)
        await ask(ListKeys())
        await trio.sleep(at + SECONDS + 0.1 - time.monotonic())
        for what in (AskAgent(ListKeys()), NameHost(HOST, ())):
            with pytest.raises(RefusedError, match="expired"):
                await begun.more(what)
        # As after a use that the user was long asked about.
        renewal = {"argument": "+list", "renewed": True}
        await begun.more(Signed(session.permit(SSH_AGENT, **renewal), HoldPermit()))
        await ask(ListKeys())
        other = session.permit(SSH_AGENT, **renewal, sandbox="other-1")
        with pytest.raises(RefusedError, match="differs"):
            await begun.more(Signed(other, HoldPermit()))


async def test_no_agent_is_asked_without_a_permit(agent):
    _, session = agent
    for warrant in (b"", session.permit(TCP, argument="+list")):
        with pytest.raises(RefusedError):
            await session.carry_out(Signed(warrant, UseAgent()))
    # A sandbox's agent is not the user's.
    warrant = session.permit(SSH_AGENT, argument="+list", target="vault")
    async with session.carrying_out(Signed(warrant, UseAgent())) as begun:
        host = await begun.more(NameHost(HOST, ()))
        assert host.value.names == ("git.example.test",)
        with pytest.raises(InternalError):
            await begun.more(AskAgent(ListKeys()))
    for order in (AskAgent(ListKeys()), NameHost(HOST, ())):
        with pytest.raises(PeerError):
            await session.carry_out(order)


async def test_a_desktop_without_an_agent_is_told():
    environ = {name: x for name, x in os.environ.items() if name != "SSH_AUTH_SOCK"}
    for more in ({}, {"SSH_AUTH_SOCK": "/dev/null"}):
        with starter_of_orders(environ | more) as there:
            warrant = there.permit(SSH_AGENT, argument="+list")
            with pytest.raises(SetupError, match="has no ssh agent"):
                await there.carry_out(Signed(warrant, UseAgent()))
