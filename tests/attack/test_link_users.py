"""The link's socket between two real users, and a third one."""

from __future__ import annotations

import os
import pwd
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio

from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.net.addresses import UnixEndpoint
from broker.net.link_service.config import LinkConfig
from broker.net.link_service.sockets import describe_far_end, dial
from broker.net.listeners import open_listener

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users"),
    pytest.mark.root,
]
_SECONDS = 60


def _as_user(uid: int, work: Callable[[int], None]) -> tuple[int, int]:
    """Run ``work(fd)`` in a process of another user; its pid and the pipe's end."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return pid, ours
    try:
        os.setgroups([])
        os.setgid(pwd.getpwuid(uid).pw_gid)
        os.setuid(uid)
        work(theirs)
    except BaseException as error:
        os.write(theirs, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(0)


def _line(fd: int) -> str:
    """The next line that the process wrote; empty at its end."""
    data = b""
    while not data.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], _SECONDS)
        assert ready, "the process says nothing"
        more = os.read(fd, 1)
        if not more:
            break
        data += more
    return data.decode().strip()


def _listen(config: LinkConfig, count: int, fd: int) -> None:
    """As the broker that listens: admit ``count`` connections, or say why not."""

    async def run() -> None:
        listener = await open_listener(config.endpoint, mode=config.mode)
        os.write(fd, b"listens\n")
        for _ in range(count):
            with await listener.accept() as sock:
                try:
                    said = describe_far_end(sock, config)
                    sock.send(b"x")
                except RefusedError as error:
                    said = str(error)
            os.write(fd, f"{said}\n".encode())

    trio.run(run)


def _dial(config: LinkConfig, fd: int) -> None:
    """As the broker that connects: say who answers, or why nobody does."""

    async def run() -> None:
        try:
            sock = await dial(config)
        except (RefusedError, SetupError, UpstreamError) as error:
            os.write(fd, f"{error}\n".encode())
            return
        with sock:
            await trio.lowlevel.wait_readable(sock)
            try:
                served = sock.recv(1) == b"x"
            except ConnectionResetError:
                served = False
        os.write(fd, b"served\n" if served else b"cut\n")

    trio.run(run)


@contextmanager
def _place(owner: int) -> Iterator[UnixEndpoint]:
    """A socket's path in a directory that all users may enter."""
    with TemporaryDirectory(prefix="vt-link-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        inner = Path(name) / "run"
        inner.mkdir()
        os.chown(inner, owner, -1)
        yield UnixEndpoint(inner / "link")


def _asked(uid: int, config: LinkConfig) -> str:
    pid, fd = _as_user(uid, lambda out: _dial(config, out))
    said = _line(fd)
    os.close(fd)
    os.waitpid(pid, 0)
    return said


def test_link_is_open_to_the_user_that_is_named_and_to_no_other() -> None:
    viewer, host, third = (pwd.getpwnam(name).pw_uid for name in ("nobody", "daemon", "bin"))  # fmt: skip
    with _place(viewer) as endpoint:
        listening = LinkConfig(endpoint, peer_uid=host)
        connecting = LinkConfig(endpoint, peer_uid=viewer)
        pid, fd = _as_user(viewer, lambda out: _listen(listening, 3, out))
        assert _line(fd) == "listens"
        assert _asked(host, connecting) == "served"
        assert _line(fd) == f"uid {host}"
        # Any user can reach the socket; the kernel says who it is.
        assert _asked(third, connecting) == "cut"
        assert f"connections only from uid {host}, not from {third}" in _line(fd)
        # The other way round: who listens is not the user that the host expects.
        wrong = LinkConfig(endpoint, peer_uid=third)
        assert f"uid {third}, not from {viewer}" in _asked(host, wrong)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(fd)


def test_link_of_one_user_is_closed_to_others() -> None:
    viewer, host = (pwd.getpwnam(name).pw_uid for name in ("nobody", "daemon"))
    with _place(viewer) as endpoint:
        pid, fd = _as_user(viewer, lambda out: _listen(LinkConfig(endpoint), 1, out))
        assert _line(fd) == "listens"
        assert "ermission denied" in _asked(host, LinkConfig(endpoint, peer_uid=viewer))
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(fd)
