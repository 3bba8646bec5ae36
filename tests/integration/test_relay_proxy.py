"""``brokerctl proxy relay`` as a person starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from broker.cli.app import main; main()"]


@pytest.fixture
def folder():
    path = Path("/tmp") / f"vt-proxy-{os.getpid()}"
    path.mkdir(mode=0o700)
    yield path
    for entry in path.iterdir():
        entry.unlink()
    path.rmdir()


@pytest.fixture
def server(folder):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/up")
        listener.listen()
        listener.settimeout(60)
        yield listener


class Proxy:
    def __init__(self, folder: Path, *options: str, wait: bool = True) -> None:
        self.path = folder / "in"
        endpoints = ["--listen", f"unix:{self.path}", "--connect", f"unix:{folder}/up"]
        self.process = subprocess.Popen(
            [*COMMAND, "proxy", "relay", *endpoints, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if wait:
            line = self.process.stderr.readline()
            assert (
                line == f"listening on unix:{self.path}, relaying to unix:{folder}/up\n"
            )

    def dial(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(60)
        sock.connect(str(self.path))
        return sock

    def children(self) -> list[int]:
        pid = self.process.pid
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(word) for word in text.split()]

    def finish(self, number: int = signal.SIGTERM) -> tuple[str, str, int]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return out, err, self.process.returncode


@pytest.fixture
def proxy(folder, server):
    made: list[Proxy] = []

    def make(*options: str, wait: bool = True) -> Proxy:
        made.append(Proxy(folder, *options, wait=wait))
        return made[-1]

    yield make
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def gone(pid: int, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_relays_and_leaves_nothing_behind(proxy, server, folder, number):
    running = proxy()
    (pump,) = running.children()
    with running.dial() as client, server.accept()[0] as conn:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert conn.makefile("rb").read() == b"question"
        conn.sendall(b"answer")
        conn.shutdown(socket.SHUT_WR)
        assert client.makefile("rb").read() == b"answer"
    assert running.process.stderr.readline().startswith(
        "closed: end, 8 B in (splice), 6 B out (splice)"
    )
    with running.dial() as open_still, server.accept()[0]:
        out, err, code = running.finish(number)
        assert open_still.recv(1) == b""
    assert (out, err, code) == ("", "", 0)
    assert gone(pump)
    assert not (folder / "in").exists()


def test_json_has_a_line_for_each_connection(proxy, server):
    running = proxy("--json", "--mode-in", "copy", "--idle", "0.2")
    with running.dial() as client, server.accept()[0] as conn:
        client.sendall(b"abc")
        assert conn.recv(10) == b"abc"
        assert client.recv(1) == b""  # idle
    found = json.loads(running.process.stdout.readline())
    assert found.pop("seconds") >= 0.2
    assert found == {
        "event": "closed",
        "reason": "idle",
        "errno": 0,
        "side": "",
        "bytes_in": 3,
        "bytes_out": 0,
        "mode_in": "copy",
        "mode_out": "splice",
    }


def test_a_missing_server_is_an_error(proxy, server, folder):
    running = proxy()
    (folder / "up").unlink()
    with running.dial() as client:
        assert client.recv(1) == b""
    # and it goes on
    with running.dial() as client:
        assert client.recv(1) == b""
    lines = [running.process.stderr.readline() for _ in range(4)]
    assert all(
        line.startswith("failed: cannot connect to unix:") for line in lines[::2]
    )
    assert all("hint: start the program that listens" in line for line in lines[1::2])
    assert running.finish() == ("", "", 0)


def test_a_reset_is_reported_as_one(proxy, server):
    running = proxy()
    client = running.dial()
    with server.accept()[0] as conn:
        conn.sendall(b"unread")
        client.recv(1, socket.MSG_PEEK)
        client.close()  # first: an end of the other side would come before it
        line = running.process.stderr.readline()
    assert line.startswith("closed: reset of side a (")


@pytest.mark.parametrize("limit", [1, 3])
def test_connections_beyond_the_limit_wait(proxy, server, limit):
    running = proxy("--max-connections", str(limit))
    clients = [running.dial() for _ in range(limit + 1)]
    conns = [server.accept()[0] for _ in range(limit)]
    server.settimeout(0.3)
    with pytest.raises(TimeoutError):
        server.accept()
    server.settimeout(60)
    clients[0].close()
    conns[0].close()
    conns.append(server.accept()[0])  # the one that waited
    clients[-1].sendall(b"x")
    assert conns[-1].recv(1) == b"x"
    for sock in [*clients, *conns]:
        sock.close()


def test_a_killed_pump_ends_it_with_a_sentence(proxy, server):
    running = proxy()
    (pump,) = running.children()
    with running.dial() as client, server.accept()[0] as conn:
        os.kill(pump, signal.SIGKILL)
        assert client.recv(1) == b""
        assert conn.recv(1) == b""
    _, err = running.process.communicate(timeout=60)
    assert running.process.returncode == 1
    assert "error: the relay's process exited" in err
    assert "Traceback" not in err


def test_each_connection_of_a_killed_pump_is_reported(proxy, server):
    running = proxy("--json")
    (pump,) = running.children()
    lines = [(running.dial(), server.accept()[0]) for _ in range(3)]
    for client, conn in lines:
        # The proxy is connected to the server before the pump has the stream.
        client.sendall(b"x")
        assert conn.recv(1) == b"x"
    os.kill(pump, signal.SIGKILL)
    out, _ = running.process.communicate(timeout=60)
    reasons = [json.loads(line)["reason"] for line in out.splitlines()]
    assert reasons == ["pump-died"] * 3
    for pair in lines:
        for sock in pair:
            sock.close()


def test_a_server_with_a_full_queue_is_waited_for(proxy, server, folder):
    server.listen(0)
    full = socket.socket(socket.AF_UNIX)
    full.connect(f"{folder}/up")
    running = proxy()
    with running.dial() as client, running.dial() as other:
        client.sendall(b"one")
        other.sendall(b"two")
        full.close()
        words = set()
        for _ in range(3):
            with server.accept()[0] as conn:
                conn.settimeout(60)
                words.add(conn.recv(10))
    assert words == {b"", b"one", b"two"}


def test_a_killed_proxy_takes_its_pump_along(proxy, server, folder):
    running = proxy()
    (pump,) = running.children()
    with running.dial() as client, server.accept()[0] as conn:
        running.process.kill()
        assert client.recv(1) == b""
        assert conn.recv(1) == b""
    assert gone(pump)
    # the socket file is left over, and the next start replaces it
    running.process.communicate()
    assert (folder / "in").is_socket()
    again = proxy()
    with again.dial(), server.accept()[0]:
        pass


def test_mistakes_get_a_sentence(proxy, server, folder):
    first = proxy()
    second = proxy(wait=False)
    _, err = second.process.communicate(timeout=60)
    assert second.process.returncode == 1
    assert "is in use: another program listens there" in err.replace("\n", " ")
    assert "Traceback" not in err
    first.finish()
    wrong = subprocess.run(
        [*COMMAND, "proxy", "relay", "--listen", "tcp:1", "--connect", "unix:x"],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert wrong.returncode == 1
    assert "'tcp:1' is not an endpoint" in wrong.stderr
    assert "unix:PATH" in wrong.stderr
