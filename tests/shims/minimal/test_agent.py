"""The guest's agent in C: as the broker's side of each conversation."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker.core.framing import encode_frame
from broker.ipc import agent
from fuzz import minimal_agent
from shims.bundle import minimal_agent as built_agent
from tests.kit.needs import NEEDS_COMPILER

SOURCE = Path("shims/minimal/agent.c")
_FLAGS = (
    *("-Os", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-fno-stack-protector"),
    *("-fno-pic", "-static", "-nostdlib", "-no-pie", "-s"),
)
PATIENCE = 60.0
MOST_BYTES = 150 << 10
TOKEN = "ab" * 16


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    made = tmp_path_factory.mktemp("agent") / "vitrail-agent"
    root = Path(__file__).parent.parent.parent.parent
    subprocess.run(["gcc", *_FLAGS, "-o", made, root / SOURCE], check=True)
    return made


class Line:
    """One connection of the guest, as its broker has it."""

    def __init__(self, listener):
        self.socket, _ = listener.accept()
        self.socket.settimeout(PATIENCE)
        self.file = self.socket.makefile("rb")

    def read(self):
        head = self.file.read(4)
        return (
            json.loads(self.file.read(struct.unpack("<I", head)[0])) if head else None
        )

    def send(self, message):
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.socket.sendall(struct.pack("<I", len(body)) + body)

    def order(self, message):
        self.socket.sendall(encode_frame(agent.encode(message), 1 << 16))

    def until(self, kind):
        """Return the next message of this type; each is one that the broker takes."""
        while True:
            message = self.read()
            assert message is not None
            agent.decode_from_guest(json.dumps(message).encode())
            if message["type"] == kind:
                return message

    def close(self):
        self.file.close()
        self.socket.close()

    def ended(self):
        return self.file.read() == b""


class World:
    """A running agent, with the sockets of its broker."""

    def __init__(self, program, folder, stack):
        self.folder, self._stack = folder, stack
        self.doors = {}
        env = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        env |= {"XDG_RUNTIME_DIR": str(folder), "VITRAIL_OPENER": "cat"}
        for name in ("AGENT", "COPY", "OPEN_URL", "AUDIO", "DISPLAY"):
            door = stack.enter_context(socket.socket(socket.AF_UNIX))
            door.bind(str(folder / name))
            door.listen()
            door.settimeout(PATIENCE)
            self.doors[name] = door
            env[f"VITRAIL_{name}"] = f"unix:{folder / name}"
        self.process = subprocess.Popen([program], env=env, cwd=folder)
        stack.callback(self.process.wait)
        stack.callback(self.process.kill)

    def line(self, name="AGENT"):
        line = Line(self.doors[name])
        self._stack.callback(line.close)
        return line


@pytest.fixture
def world(program, tmp_path_factory):
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("g")
        folder.chmod(0o700)
        yield World(program, folder, stack)


pytestmark = NEEDS_COMPILER


def run(number, *argv, **fields):
    return agent.Run(program=number, argv=list(argv), display=False, **fields)


def test_it_is_one_small_static_program(program):
    assert program.stat().st_size < MOST_BYTES
    assert (
        b"INTERP"
        not in subprocess.run(
            ["readelf", "-lW", program], capture_output=True, check=True
        ).stdout
    )
    assert built_agent()[:4] == b"\x7fELF"


def test_a_program_has_its_words_variables_input_output_and_end(world):
    line = world.line()
    hello = agent.decode_from_guest(json.dumps(line.read()).encode())
    assert hello.version == 3
    line.order(
        run(1, "sh", "-c", 'echo "$A"; cat; exit 3', env={"A": 'ü "x"'}, stdin=True)
    )
    line.until("started")
    first = line.until("output")
    assert base64.b64decode(first["data"]).decode() == 'ü "x"\n'
    line.order(agent.Input(program=1, data=b"hello", end=True))
    assert line.until("taken")["count"] == 5
    assert base64.b64decode(line.until("output")["data"]) == b"hello"
    assert line.until("exited") == {"type": "exited", "program": 1, "code": 3}


def test_a_program_that_is_missing_or_killed_is_reported(world):
    line = world.line()
    line.order(run(1, "no-such-program"))
    assert "not installed" in line.until("failed")["reason"]
    line.order(run(2, "sleep", "1000"))
    line.until("started")
    line.order(agent.Signal(program=2, number=9))
    assert line.until("exited")["code"] == -9


def test_a_terminal_has_its_size(world):
    line = world.line()
    line.order(run(1, "stty", "size", tty=True, rows=11, columns=22))
    assert base64.b64decode(line.until("output")["data"]) == b"11 22\r\n"


def test_programs_outlive_the_broker_and_their_end_is_told_to_the_next(world):
    line = world.line()
    line.order(run(7, "sh", "-c", "read x; exit 5", stdin=True))
    line.until("started")
    line.close()
    again = world.line()
    assert again.read()["programs"] == [7]
    again.order(agent.Input(program=7, data=b"x\n"))
    assert again.until("exited")["code"] == 5


def test_files_arrive_whole_and_replace_nothing(world):
    line = world.line()
    for number, name in ((1, "a.txt"), (2, "a.txt (1)")):
        line.order(run(number, "vitrail-files", "receive", TOKEN))
        copy = world.line("COPY")
        assert copy.read() == {"type": "take", "token": TOKEN}
        copy.send({"type": "delivery", "source": "work", "open": False, "size": 3})
        copy.send({"type": "file", "path": ["a.txt"], "size": 3})
        copy.socket.sendall(b"abc")
        copy.send({"type": "dir", "path": ["d"]})
        copy.send({"type": "file", "path": ["d", "ü"], "size": 0})
        copy.send({"type": "end"})
        assert line.until("exited")["code"] == 0
        assert (world.folder / "Incoming/work" / name).read_text() == "abc"
    assert (world.folder / "Incoming/work/d (1)/ü").exists()


@pytest.mark.parametrize(
    "path", [[".."], ["a", "..", "b"], ["a/b"], [""], ["."], ["x" * 256], []]
)
def test_no_name_of_an_entry_leads_out(world, path):
    line = world.line()
    line.order(run(1, "vitrail-files", "receive", TOKEN))
    copy = world.line("COPY")
    copy.read()
    copy.send({"type": "delivery", "source": "work", "open": False})
    copy.send({"type": "file", "path": path, "size": 0})
    copy.send({"type": "end"})
    assert line.until("exited")["code"] == 1
    shown = [p for p in (world.folder / "Incoming/work").iterdir() if p.name[0] != "."]
    assert not shown


def test_a_link_in_the_way_is_not_followed(world):
    (world.folder / "elsewhere").mkdir()
    (world.folder / "Incoming").symlink_to("elsewhere")
    line = world.line()
    line.order(run(1, "vitrail-files", "receive", TOKEN))
    copy = world.line("COPY")
    copy.read()
    copy.send({"type": "delivery", "source": "work", "open": False})
    assert line.until("exited")["code"] == 1
    assert not list((world.folder / "elsewhere").iterdir())


def test_a_file_is_sent_and_an_address_opened(world):
    (world.folder / "ü.txt").write_text("abc")
    line = world.line()
    line.order(run(1, "vitrail-copy", "--to", "@adminvm", "--", "ü.txt"))
    copy = world.line("COPY")
    asked = {
        "type": "copy",
        "name": "ü.txt",
        "files": 1,
        "size": 3,
        "target": "@adminvm",
    }
    assert copy.read() == asked
    copy.send({"type": "go"})
    assert copy.read() == {"type": "file", "path": ["ü.txt"], "size": 3}
    assert copy.file.read(3) == b"abc"
    assert copy.read() == {"type": "end"}
    copy.send({"type": "done"})
    assert line.until("exited")["code"] == 0
    line.order(run(2, "vitrail-open", "https://example.org/"))
    opening = world.line("OPEN_URL")
    assert opening.read() == {"type": "open-url", "url": "https://example.org/"}
    opening.send({"type": "refused", "reason": "denied: by a rule"})
    assert b"denied: by a rule" in base64.b64decode(line.until("output")["data"])
    (world.folder / "page").write_text("shown")
    line.order(run(3, "vitrail-files", "open-here", "page"))
    assert base64.b64decode(line.until("output")["data"]) == b"shown"


def test_sound_is_carried_both_ways(world):
    line = world.line()
    line.read()
    with socket.socket(socket.AF_UNIX) as player:
        player.connect(str(world.folder / "vitrail/audio"))
        player.settimeout(PATIENCE)
        broker = world.line("AUDIO")
        player.sendall(b"x" * 100_000)
        player.shutdown(socket.SHUT_WR)
        assert broker.file.read() == b"x" * 100_000
        broker.socket.sendall(b"answer")
        assert player.recv(6) == b"answer"


def test_pings_of_before_a_display_do_not_cut_it(world):
    """Only a display that the broker has not had in four pings is lost."""
    line = world.line()
    line.read()
    for _ in range(3):
        line.order(agent.AgentPing("abc", 0))
    line.order(run(1, "true"))
    line.until("exited")  # the pings were taken
    with socket.socket(socket.AF_UNIX) as shown:
        shown.connect(str(world.folder / "vitrail/display"))
        shown.settimeout(PATIENCE)
        broker = world.line("DISPLAY")
        for _ in range(3):
            line.order(agent.AgentPing("abc", 0))
        line.order(run(2, "true"))
        line.until("exited")
        shown.sendall(b"x")
        assert broker.file.read(1) == b"x"
        line.order(agent.AgentPing("abc", 0))
        assert broker.ended()


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack("<I", 0),
        struct.pack("<I", 65537),
        struct.pack("<I", 0xFFFFFFFF),
        encode_frame(b"{", 99),
        encode_frame(b"[]", 99),
        encode_frame(b'{"type":"mount","place":0}', 99),
        encode_frame(b'{"type":"run","program":1,"argv":[]}', 99),
        encode_frame(b'{"type":"run","program":1,"argv":["a\\u0000b"]}', 99),
        encode_frame(b'{"type":"run","program":1,"argv":["a"],"env":{"A=B":""}}', 99),
        encode_frame(b'{"type":"run","program":-1,"argv":["a"]}', 99),
        encode_frame(b'{"type":"signal","program":1,"number":65}', 99),
        encode_frame(b'{"type":"input","program":1,"data":"*"}', 99),
        encode_frame(b'{"type":"ping","more":1}', 99),
        encode_frame(b'{"type":"run","program":1,"argv":[' + b'"a",' * 500 + b'"a"]}', 9999),
    ],
)  # fmt: skip
def test_what_is_no_message_ends_the_connection_and_not_the_agent(world, frame):
    line = world.line()
    line.read()
    line.socket.sendall(frame)
    assert line.ended()
    assert world.line().read()["type"] == "hello"


def test_poweroff_ends_programs_and_agent(world):
    line = world.line()
    line.order(run(1, "sleep", "1000"))
    line.until("started")
    line.order(agent.AgentPowerOff())
    assert line.until("exited")["code"] == -15
    assert world.process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_a_hostile_broker_reaches_no_memory_and_no_wait():
    done = minimal_agent.play(seconds=1 << 20, seed=1, sessions=60)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["sessions"] == 60
    assert min(told["messages"], told["sent"], told["started"]) > 20
