"""The guest agent as an ordinary process, with UNIX sockets in place of vsock."""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import socket
import sys
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import trio

from broker.core import limits
from broker.core.framing import encode_frame
from broker.helpers.process.spawn import has_ended, spawn
from broker.ipc import agent
from shims.guest.agent import SILENCE_SECONDS
from tests.kit.changing_machine import NEEDS
from tests.kit.needs import requires
from tests.kit.shims import guest_program
from tests.kit.vm.agent_broker import AgentBroker

SHIM = Path(guest_program())
needs_waypipe = requires("waypipe")


@contextlib.asynccontextmanager
async def guest(tmp_path, *, search=None, before=(), program=SHIM, **settings):
    """Yield (broker, child): the agent runs, and is ended at the end.

    ``before``: words of a command that starts it.
    """
    broker = AgentBroker(tmp_path / "agent", tmp_path / "broker-display")
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "VITRAIL_AGENT": f"unix:{broker.path}",
        "VITRAIL_DISPLAY": f"unix:{broker.display_path}",
        "VITRAIL_RUNTIME": str(tmp_path / "run"),
        **settings,
    }
    # 'setpriv', which starts the child, must be found whatever the agent finds.
    words = ["/usr/bin/env", f"PATH={search or env['PATH']}"]
    log = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC)
    child = spawn(
        [*words, *before, sys.executable, "-I", str(program)],
        env=env,
        stdout=log,
        stderr=log,
    )
    os.close(log)
    try:
        with trio.fail_after(60):
            yield broker, child
    finally:
        with trio.CancelScope(shield=True):
            await child.stop()
            await broker.close_all()
        print((tmp_path / "log").read_text())


async def test_hello_names_version_kernel_and_waypipe(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        hello = await broker.accept()
        assert hello.version == agent.VERSION
        assert hello.kernel == os.uname().release
        assert hello.programs == []


async def test_program_output_and_code(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        await broker.run("sh", "-c", "echo out; echo err >&2; exit 3")
        await broker.receive(agent.AgentStarted)
        assert await broker.ended(1) == (b"out\nerr\n", 3)


@NEEDS
@pytest.mark.parametrize(
    ("counted", "end", "said"),
    [
        (2, "kill -9 $$", b"[vitrail: the sandbox's memory was full ("),
        (2, "exit 137", b"[vitrail: the sandbox's memory was full ("),
        (2, "exit 3", b""),
        (1, "kill -9 $$", b""),
    ],
)
async def test_a_program_that_the_kernel_ended_for_memory_says_so(
    tmp_path, counted, end, said
):
    """``counted``: the kernel's count of those that it ended, at the program's end."""
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 4\noom_kill 1\n")
    laid = f'mount --bind {vmstat} /proc/vmstat; exec "$@"'
    before = ("unshare", "--map-root-user", "--mount", "sh", "-ec", laid, "sh")
    async with guest(tmp_path, before=before) as (broker, _child):
        await broker.accept()
        count = f"echo oom_kill {counted} > {vmstat}"
        await broker.run("sh", "-c", f"echo out; {count}; {end}")
        await broker.receive(agent.AgentStarted)
        output, _code = await broker.ended(1)
    words = output.removeprefix(b"out\n").strip()
    assert words.startswith(said)
    assert bool(words) == bool(said)


async def test_environment_is_passed_and_wins(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        await broker.run("sh", "-c", "echo $A $LANG", env={"A": "b c", "LANG": "C"})
        await broker.receive(agent.AgentStarted)
        assert (await broker.ended(1))[0] == b"b c C\n"


async def test_missing_program_fails_with_its_name(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        await broker.run("no-such-program-xyz")
        failed = await broker.receive(agent.AgentFailed)
        assert "no-such-program-xyz" in failed.reason
        assert "No such file" in failed.reason


async def test_program_that_is_no_program_fails(tmp_path):
    (tmp_path / "junk").write_bytes(b"\x7fELFjunk")
    (tmp_path / "junk").chmod(0o755)
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        await broker.run(str(tmp_path / "junk"))
        assert "Exec format error" in (await broker.receive(agent.AgentFailed)).reason


async def test_signal_reaches_the_process_group(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        await broker.run("sh", "-c", "echo up; sleep 1000; echo never")
        await broker.receive(agent.AgentStarted)
        assert (await broker.receive(agent.Output)).data == b"up\n"
        await broker.send(agent.Signal(program=1, number=signal.SIGTERM))
        assert await broker.ended(1) == (b"", -signal.SIGTERM)


async def test_real_time_signal_that_kills_is_in_range(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        await broker.run("sleep", "1000")
        await broker.receive(agent.AgentStarted)
        await broker.send(agent.Signal(program=1, number=64))
        assert (await broker.ended(1))[1] == -64


async def test_same_number_twice_is_refused_while_it_runs(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        await broker.run("sleep", "1000")
        await broker.receive(agent.AgentStarted)
        await broker.run("true")
        assert "already running" in (await broker.receive(agent.AgentFailed)).reason


async def test_as_many_programs_as_the_limit_and_one_more(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        for number in range(1, limits.PROGRAMS_PER_SANDBOX + 1):
            await broker.run("sleep", "1000", program=number)
            await broker.receive(agent.AgentStarted)
        await broker.run("true", program=1000)
        assert (await broker.receive(agent.AgentFailed)).program == 1000
        await broker.close()
        hello = await broker.accept()
        assert hello.programs == list(range(1, limits.PROGRAMS_PER_SANDBOX + 1))


async def test_many_bytes_of_output_arrive_whole_and_in_order(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        await broker.run("sh", "-c", "seq 1 200; sleep 0.2; seq 201 400")
        await broker.receive(agent.AgentStarted)
        said, code = await broker.ended(1)
        assert said.split() == [str(n).encode() for n in range(1, 401)]
        assert code == 0


async def test_flood_of_output_does_not_stop_the_program(tmp_path):
    """64 MiB without a reader: the program ends, the kept output is bounded."""
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        done = tmp_path / "done"
        os.mkfifo(done)
        script = f"yes | head -c 67108864; echo; echo the end; echo >{done}"
        await broker.run("sh", "-c", script)
        await broker.receive(agent.AgentStarted)
        await trio.to_thread.run_sync(done.read_text)  # no process has read until then
        said, code = await broker.ended(1)
        assert code == 0
        assert said.endswith(b"the end\n")
        assert b"bytes of output were lost" in said


async def test_broker_away_output_is_kept_bounded_and_told_later(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        go, done = tmp_path / "go", tmp_path / "done"
        os.mkfifo(go)
        os.mkfifo(done)
        script = (
            f"read x <{go}; yes x | head -c 1000000; echo last; "
            f"echo >{done}; read x <{go}; exit 5"
        )
        await broker.run("sh", "-c", script)
        await broker.receive(agent.AgentStarted)
        await broker.close()
        await trio.to_thread.run_sync(go.write_text, "x\n")
        await trio.to_thread.run_sync(done.read_text)
        await trio.to_thread.run_sync(go.write_text, "x\n")
        await broker.accept()
        said, code = await broker.ended(1)
        assert code == 5
        assert b"bytes of output were lost" in said
        assert said.endswith(b"last\n")
        assert len(said) < 70000


async def test_program_runs_on_while_the_broker_restarts(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        await broker.run("sleep", "1000", program=7)
        await broker.receive(agent.AgentStarted)
        await broker.close()
        hello = await broker.accept()
        assert hello.programs == [7]
        await broker.send(agent.Signal(program=7, number=signal.SIGKILL))
        assert (await broker.ended(7))[1] == -signal.SIGKILL


async def test_grandchild_that_keeps_the_output_does_not_hold_back_the_end(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        await broker.run("sh", "-c", "sleep 1000 & echo $!")
        await broker.receive(agent.AgentStarted)
        said, code = await broker.ended(1)
        assert code == 0
        os.kill(int(said), signal.SIGKILL)  # it lived on


BAD = [
    encode_frame(body, limits.AGENT_FRAME_BYTES)
    for body in (
        b"{}",
        b"[]",
        b"\xff",
        b'{"type":"hello"}',
        b'{"type":"run","program":1,"argv":[]}',
        b'{"type":"run","program":1,"argv":[1]}',
        b'{"type":"run","program":1,"argv":["a\\u0000"]}',
        b'{"type":"run","program":1,"argv":["a"],"env":{"A=B":"c"}}',
        b'{"type":"run","program":true,"argv":["a"]}',
        b'{"type":"run","program":1,"argv":["a"],"more":1}',
        b'{"type":"signal","program":1}',
        b"[" * 60000,
    )
]
BAD.append((limits.AGENT_FRAME_BYTES + 1).to_bytes(4, "little"))


async def test_bad_message_ends_the_connection_only(tmp_path):
    """Each at an agent of its own, at the same time: it connects again after a second."""

    async def told(number, frame):
        place = tmp_path / str(number)
        place.mkdir()
        async with guest(place) as (broker, child):
            await broker.accept()
            await broker._stream.send_all(frame)
            while await broker.next() is not None:
                pass
            await broker.accept()
            assert not has_ended(child.pidfd), frame

    async with trio.open_nursery() as nursery:
        for number, frame in enumerate(BAD):
            nursery.start_soon(told, number, frame)


async def test_longest_frame_is_taken(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        run = agent.Run(program=1, argv=["true", ""], display=False)
        room = limits.AGENT_FRAME_BYTES - len(agent.encode(run))
        run = agent.Run(program=1, argv=["true", "x" * room], display=False)
        assert len(agent.encode(run)) == limits.AGENT_FRAME_BYTES
        await broker.send(run)
        await broker.receive(agent.AgentStarted)
        assert (await broker.ended(1))[1] == 0


async def test_poweroff_ends_programs_and_the_agent(tmp_path):
    async with guest(tmp_path) as (broker, child):
        await broker.accept()
        await broker.run("sh", "-c", "trap 'echo bye; exit 4' TERM; echo up; read x")
        await broker.receive(agent.AgentStarted)
        assert (await broker.receive(agent.Output)).data == b"up\n"
        await broker.send(agent.AgentPowerOff())
        # 'read' has no input and ends at once, or the trap ends it.
        await broker.ended(1)
        assert await child.wait() == 0


async def test_poweroff_kills_what_does_not_obey(tmp_path):
    async with guest(tmp_path) as (broker, child):
        await broker.accept()
        await broker.run("sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
        await broker.receive(agent.AgentStarted)
        assert (await broker.receive(agent.Output)).data == b"up\n"
        await broker.send(agent.AgentPowerOff())
        assert (await broker.ended(1))[1] == -signal.SIGKILL
        assert await child.wait() == 0


async def test_sigterm_is_a_power_off(tmp_path):
    async with guest(tmp_path) as (broker, child):
        await broker.accept()
        child.kill(signal.SIGTERM)
        assert await child.wait() == 0


# -- the display ------------------------------------------------------------------


async def test_without_waypipe_the_hop_says_so(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sh").symlink_to("/bin/sh")
    async with guest(tmp_path, search=str(tmp_path / "bin")) as (broker, _child):
        hello = await broker.accept()
        assert hello.waypipe == ""
        hop = await broker.wait_hop("waypipe", ok=False)
        assert "not installed" in hop.detail
        await broker.run("sh", "-c", "true", display=True)
        assert "not installed" in (await broker.receive(agent.AgentFailed)).reason


@needs_waypipe
async def test_display_program_finds_a_wayland_socket(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        hello = await broker.accept()
        assert hello.waypipe[0] == "0"
        await broker.run(
            "sh", "-c", "test -S $XDG_RUNTIME_DIR/$WAYLAND_DISPLAY", display=True
        )
        await broker.receive(agent.AgentStarted)
        assert (await broker.ended(1))[1] == 0
        assert broker.hops["waypipe"][-1].ok


@needs_waypipe
async def test_no_display_asked_no_display_given(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        await broker.run("sh", "-c", "echo [$WAYLAND_DISPLAY]")
        await broker.receive(agent.AgentStarted)
        assert (await broker.ended(1))[0] == b"[]\n"


CONNECT = (
    "import os,socket,sys;"
    "s=socket.socket(socket.AF_UNIX);"
    "s.connect(os.path.join(os.environ['XDG_RUNTIME_DIR'],os.environ['WAYLAND_DISPLAY']));"
    # wl_display.get_registry and sync: waypipe connects on the first client
    "s.sendall(b'\\1\\0\\0\\0\\1\\0\\x0c\\0\\2\\0\\0\\0');"
    "s.recv(1)"
)


@needs_waypipe
async def test_waypipe_reaches_the_broker_uncompressed_and_without_gpu(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        listener = broker.listen_display()
        await broker.run(sys.executable, "-c", CONNECT, display=True)
        stream = await broker.accept_display(listener)
        await broker.wait_hop("display", ok=True)
        head = int.from_bytes(await stream.receive_some(4), "little")
        assert head >> 7 & 1 == 1
        assert head >> 8 & 7 == 1, "compression none"
        assert head >> 2 & 1 == 1, "no dmabuf"
        await stream.aclose()
        await broker.ended(1)  # it lost its connection


@needs_waypipe
async def test_no_broker_at_the_display_port_is_a_hop(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        await broker.run(sys.executable, "-c", CONNECT, display=True)
        hop = await broker.wait_hop("display", ok=False)
        assert "No such file" in hop.detail


@needs_waypipe
async def test_killed_waypipe_is_named_and_the_next_program_has_a_new_one(tmp_path):
    async with guest(tmp_path) as (broker, child):
        await broker.accept()
        await broker.wait_hop("waypipe", ok=True)
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text()
        for pid in map(int, children.split()):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            if name == "waypipe":
                os.kill(pid, signal.SIGKILL)
        hop = await broker.wait_hop("waypipe", ok=False)
        assert "code -9" in hop.detail
        await broker.run(
            "sh", "-c", "test -S $XDG_RUNTIME_DIR/$WAYLAND_DISPLAY", display=True
        )
        await broker.wait_hop("waypipe", ok=True)
        await broker.receive(agent.AgentStarted)
        assert (await broker.ended(1))[1] == 0


async def carried(tmp_path, broker):
    """A connection through the agent, both ends ours: (waypipe's, broker's)."""
    listener = broker.listen_display()
    near = await broker.connect(tmp_path / "run/display")
    far = await broker.accept_display(listener)
    await listener.aclose()
    return near, far


async def test_carries_both_directions_and_half_close(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        near, far = await carried(tmp_path, broker)
        await near.send_all(b"to the broker")
        await near.send_eof()
        assert await far.receive_some() == b"to the broker"
        assert await far.receive_some() == b""
        await far.send_all(b"still back")
        assert await near.receive_some() == b"still back"
        await far.aclose()
        assert await near.receive_some() == b""


async def test_carries_much_in_both_directions_at_once(tmp_path):
    size = 32 << 20
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        near, far = await carried(tmp_path, broker)

        async def write(stream, seed):
            await stream.send_all(seed * (size // len(seed)))
            await stream.send_eof()

        async def read(stream, seed):
            got = 0
            async for chunk in stream:
                at = got % len(seed)
                assert (
                    chunk == (seed * (len(chunk) // len(seed) + 2))[at:][: len(chunk)]
                )
                got += len(chunk)
            assert got == size

        one, two = bytes(range(256)) * 64, bytes(reversed(range(256))) * 32
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, near, one)
            nursery.start_soon(write, far, two)
            nursery.start_soon(read, far, one)
            nursery.start_soon(read, near, two)


async def test_broker_that_does_not_read_holds_back_only_its_stream(tmp_path):
    async with guest(tmp_path) as (broker, child):
        await broker.accept()
        near, far = await carried(tmp_path, broker)
        sent = 0
        with trio.move_on_after(1.0):
            while True:
                await near.send_all(bytes(65536))
                sent += 65536
        assert sent < 4 << 20, "back-pressure"
        await broker.run("echo", "alive")
        await broker.receive(agent.AgentStarted)
        assert (await broker.ended(1))[0] == b"alive\n"
        resident = int(
            next(
                line.split()[1]
                for line in Path(f"/proc/{child.pid}/status").read_text().splitlines()
                if line.startswith("VmRSS")
            )
        )
        assert resident < 64 << 10
        await far.aclose()


async def test_death_of_one_side_closes_the_other(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        near, far = await carried(tmp_path, broker)
        await far.aclose()
        assert await near.receive_some() == b""


async def test_a_broker_that_falls_silent_is_given_up(tmp_path):
    """Its pings stop and nothing says that the connection has ended."""
    assert SILENCE_SECONDS > 2 * limits.AGENT_PING_SECONDS
    program = tmp_path / "impatient"
    ours = f"SILENCE_SECONDS = {SILENCE_SECONDS}"
    text = SHIM.read_text()
    assert text.count(f"\n{ours}") == 1
    program.write_text(text.replace(f"\n{ours}", "\nSILENCE_SECONDS = 1.0"))
    async with guest(tmp_path, program=program) as (broker, _child):
        await broker.accept()
        await broker.run("sleep", "1000", program=3)
        await broker.receive(agent.AgentStarted)
        await broker.send(agent.AgentPing("one", 1))
        began = trio.current_time()
        hello = await broker.accept()  # with the first connection still open
        assert hello.programs == [3]
        assert trio.current_time() - began > 0.9, "not before"


@pytest.mark.long
async def test_a_broker_that_is_slow_to_begin_gets_twice_as_long(tmp_path):
    """Or it would have to begin again for each attempt, and never be done."""
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        await broker.send(agent.AgentPing("one", 0))
        times = [trio.current_time()]
        for _ in range(3):
            await broker.accept()  # and no ping
            times.append(trio.current_time())
        waits = [late - early for early, late in pairwise(times)]
        assert waits[2] > waits[1] + limits.AGENT_PING_SECONDS


async def test_another_worker_means_that_all_display_streams_are_gone(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        await broker.send(agent.AgentPing("one", 1))
        near, far = await carried(tmp_path, broker)
        await near.send_all(b"x")
        assert await far.receive_some() == b"x"
        await broker.send(agent.AgentPing("one", 1))
        await near.send_all(b"y")
        assert await far.receive_some() == b"y", "the same one: it stays"
        await broker.send(agent.AgentPing("two", 1))
        assert await near.receive_some() == b""
        assert await far.receive_some() == b""


async def test_streams_of_which_the_broker_knows_nothing_are_ended(tmp_path):
    """Not at once, for a stream needs a moment to reach it."""
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        near, far = await carried(tmp_path, broker)

        async def pings(*displays):
            for number in displays:
                await broker.send(agent.AgentPing("one", number))

        async def carries():
            await near.send_all(b"x")
            assert await far.receive_some() == b"x"

        await pings(0, 0, 0)
        await carries()
        await pings(1, 0, 0, 0)
        await carries()
        await pings(0)
        assert await near.receive_some() == b""
        assert await far.receive_some() == b""


def test_no_write_is_larger_than_the_pieces_that_are_set():
    scope = runpy.run_path(str(SHIM))
    settings = scope["Settings"]
    assert settings({"VITRAIL_PIECES": "3732"}, "").pieces == 3732
    assert settings({"VITRAIL_PIECES": "junk"}, "").pieces == scope["PIECE_BYTES"]
    assert settings({"VITRAIL_PIECES": "99999999"}, "").pieces == scope["PIECE_BYTES"]
    writes = []

    class Sink:
        def send(self, data):
            writes.append(len(data))
            return len(data)

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(0)
        ours.sendall(bytes(20_000))
        direction = scope["Direction"](3732)
        for _ in range(10):
            direction.move(theirs, Sink())
    assert sum(writes) == 20_000
    assert max(writes) == 3732


async def test_no_descriptor_is_left_after_many_connections(tmp_path):
    async with guest(tmp_path) as (broker, child):
        await broker.accept()
        with contextlib.suppress(trio.TooSlowError):
            await broker.wait_hop("waypipe", ok=True)
        listener = broker.listen_display()

        async def once():
            near = await broker.connect(tmp_path / "run/display")
            far = await broker.accept_display(listener)
            await far.send_all(b"x")
            assert await near.receive_some() == b"x"
            await near.aclose()
            assert await far.receive_some() == b""
            await far.aclose()

        await once()
        await broker.run("true", program=1)
        await broker.receive(agent.AgentStarted)
        await broker.ended(1)
        before = len(os.listdir(f"/proc/{child.pid}/fd"))
        for number in range(50):
            await once()
            await broker.run("true", program=number + 2)
            await broker.receive(agent.AgentStarted)
            await broker.ended(number + 2)
        # A message was answered after the last close, so all closes are done.
        assert len(os.listdir(f"/proc/{child.pid}/fd")) == before


@needs_waypipe
@pytest.mark.parametrize("listens", [False, True])
async def test_no_descriptor_is_left_after_many_refused_connections(tmp_path, listens):
    """Nobody listens at the broker, or it closes at once: a host whose link is down."""
    async with guest(tmp_path) as (broker, child):
        await broker.accept()
        await broker.wait_hop("waypipe", ok=True)
        listener = broker.listen_display() if listens else None

        async def refused(number):
            near = await broker.connect(tmp_path / "run/display")
            if listener is not None:
                await (await broker.accept_display(listener)).aclose()
            assert await near.receive_some() == b""
            await near.aclose()
            await broker.run("true", program=number)
            await broker.receive(agent.AgentStarted)
            await broker.ended(number)
            return len(os.listdir(f"/proc/{child.pid}/fd"))

        before = await refused(1)
        for number in range(2, 52):
            after = await refused(number)
        assert after == before


async def test_streams_at_the_limit_wait_and_are_served_later(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        listener = broker.listen_display()
        pairs = []
        for _ in range(limits.STREAMS_PER_SANDBOX):
            near = await broker.connect(tmp_path / "run/display")
            pairs.append((near, await broker.accept_display(listener)))
        one_more = await broker.connect(tmp_path / "run/display")
        with trio.move_on_after(0.3) as waited:
            await broker.accept_display(listener)
        assert waited.cancelled_caught
        near, far = pairs.pop()
        await near.aclose()
        await far.aclose()
        stream = await broker.accept_display(listener)
        await stream.send_all(b"served")
        assert await one_more.receive_some() == b"served"


def test_messages_are_those_of_the_core():
    """The shim repeats the table of broker.ipc.agent; both must be equal."""
    scope = {"__name__": "shim"}
    exec(compile(SHIM.read_text(), str(SHIM), "exec"), scope)
    for union, table in (
        (agent.FromGuest, scope["FROM_GUEST"]),
        (agent.ToGuest, scope["TO_GUEST"]),
    ):
        core = {
            kind.__struct_config__.tag: {
                field.name for field in msgspec.structs.fields(kind)
            }
            for kind in union.__args__
        }
        assert core == {name: set(fields) for name, fields in table.items()}
    optional = {
        field.name
        for kind in (agent.Run, agent.Input, agent.AgentMount, agent.AgentPing)
        for field in msgspec.structs.fields(kind)
        if not field.required
    }
    assert optional == set(scope["OPTIONAL"])
    assert scope["VERSION"] == agent.VERSION
    assert scope["FRAME_BYTES"] == limits.AGENT_FRAME_BYTES
    assert scope["OUTPUT_BYTES"] == limits.AGENT_OUTPUT_BYTES
    assert scope["OUTPUT_OVERHEAD"] == limits.AGENT_OUTPUT_OVERHEAD
    assert scope["INPUT_WINDOW"] == limits.AGENT_INPUT_WINDOW
    assert scope["PROGRAMS"] == limits.PROGRAMS_PER_SANDBOX
    assert scope["STREAMS"] == limits.STREAMS_PER_SANDBOX


async def test_standard_input_is_written_counted_and_closed(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        await broker.send(agent.Run(program=1, argv=["cat"], display=False, stdin=True))
        await broker.receive(agent.AgentStarted)
        await broker.send(agent.Input(1, b"hello\n"))
        taken = await broker.receive(agent.Taken)
        assert (taken.program, taken.count) == (1, 6)
        await broker.send(agent.Input(1, end=True))
        assert await broker.ended(1) == (b"hello\n", 0)


async def test_input_for_a_program_that_does_not_read_is_bounded(tmp_path):
    """It is not read further than it was asked for, and the agent continues."""
    async with guest(tmp_path) as (broker, child):
        await broker.accept()
        await broker.send(
            agent.Run(program=1, argv=["sleep", "100"], display=False, stdin=True)
        )
        await broker.receive(agent.AgentStarted)
        for _ in range(400):
            await broker.send(agent.Input(1, bytes(limits.AGENT_INPUT_BYTES)))
        await broker.run("echo", "alive", program=2)
        counted = 0
        while True:
            message = await broker.next()
            if isinstance(message, agent.Taken):
                counted += message.count
            elif isinstance(message, agent.AgentExited):
                break
        assert 0 < counted <= 65536, "a pipe's worth"
        status = Path(f"/proc/{child.pid}/status").read_text()
        (resident,) = (x for x in status.splitlines() if x.startswith("VmRSS"))
        assert int(resident.split()[1]) < 64 << 10


async def test_a_terminal_has_its_size_its_signals_and_its_end(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        # The size is told once the signals are awaited.
        script = "trap 'echo winch; stty size' WINCH; trap 'echo int' INT; "
        script += "tty >/dev/null && echo $(stty size); "
        script += "read a; read b; echo got $b; cat; echo end"
        await broker.send(
            agent.Run(
                program=1,
                argv=["bash", "-c", script],
                display=False,
                tty=True,
                rows=30,
                columns=100,
            )
        )
        await broker.receive(agent.AgentStarted)
        said = b""

        async def until(text):
            nonlocal said
            while text not in said:
                message = await broker.next()
                if isinstance(message, agent.Output):
                    said += message.data

        with trio.fail_after(30):
            await until(b"30 100")
            await broker.send(agent.Resize(1, 31, 101))
            await broker.send(agent.Input(1, b"\x03"))
            await until(b"int")
            await broker.send(agent.Input(1, b"x\n"))
            await until(b"31 101")
            await broker.send(agent.Input(1, b"word\n"))
            await until(b"got word")
            await broker.send(agent.Input(1, end=True))
            await until(b"end")


async def test_a_shell_on_a_terminal_ends_with_it(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        await broker.send(
            agent.Run(program=1, argv=["bash", "-i"], display=False, tty=True)
        )
        await broker.receive(agent.AgentStarted)
        # Its prompt: bash takes note of a signal that comes while it starts, and then
        # waits for a line.
        await broker.receive(agent.Output)
        await broker.send(agent.Signal(program=1, number=1))
        with trio.fail_after(30):
            while not isinstance(await broker.next(), agent.AgentExited):
                pass


async def test_the_standard_error_is_sent_apart_where_it_is_asked_for(tmp_path):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        script = "echo out; echo err >&2; exit 3"
        await broker.send(
            agent.Run(1, ["sh", "-c", script], display=False, stderr=True)
        )
        await broker.receive(agent.AgentStarted)
        assert await parts(broker) == (b"out\n", b"err\n", 3)


async def parts(broker, *, take=lambda _message: None):
    """What a program wrote to each of its streams, and its code."""
    said = {False: b"", True: b""}
    while True:
        message = await broker.next()
        match message:
            case agent.Output():
                said[message.stderr] += message.data
                more = take(message)
                if more:
                    await broker.send(agent.More(1, more))
            case agent.AgentExited():
                return said[False], said[True], message.code
            case _:
                pytest.fail(f"unexpected {message}")


def _counted(message):
    return len(message.data) + limits.AGENT_OUTPUT_OVERHEAD


async def test_a_program_waits_for_the_reader_of_its_output(tmp_path):
    """No byte is lost, and no more than the window is sent ahead."""
    window = 20000
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        done = tmp_path / "done"
        os.mkfifo(done)
        script = f"seq 100000; echo >{done}; seq 100000 >&2; exit 4"
        await broker.send(
            agent.Run(1, ["sh", "-c", script], {}, False, stderr=True, window=window)
        )
        await broker.receive(agent.AgentStarted)
        ahead = 0
        while ahead < window - limits.AGENT_OUTPUT_OVERHEAD - 64:
            ahead += _counted(await broker.receive(agent.Output))
        # A last small piece may still fit.
        with trio.move_on_after(0.3):
            while True:
                ahead += _counted(await broker.receive(agent.Output))
                assert ahead <= window, "it sent more than the window"
        assert ahead <= window
        left = os.open(done, os.O_RDONLY | os.O_NONBLOCK)
        assert os.read(left, 1) == b"", "it has come as far as that"
        await broker.send(agent.More(1, ahead))
        out, error, code = await parts(broker, take=_counted)
        os.close(left)
        assert code == 4
        assert out.endswith(b"\n99999\n100000\n")
        assert error.split() == [str(n).encode() for n in range(1, 100001)]


@pytest.mark.parametrize("how", ["the client goes", "the broker goes"])
async def test_a_program_goes_on_when_its_reader_has_gone(tmp_path, how):
    async with guest(tmp_path) as (broker, _child):
        await broker.accept()
        done = tmp_path / "done"
        os.mkfifo(done)
        script = f"yes | head -c 4000000; echo >{done}; sleep 1000"
        await broker.send(agent.Run(1, ["sh", "-c", script], {}, False, window=4096))
        await broker.receive(agent.AgentStarted)
        await broker.receive(agent.Output)
        if how == "the client goes":
            await broker.send(agent.More(1, 0))
        else:
            await broker.close()
        with trio.fail_after(30):
            await trio.to_thread.run_sync(done.read_text, abandon_on_cancel=True)
