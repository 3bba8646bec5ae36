"""The first hour, as a person has it: real machines, a real compositor, brokerctl.

Each step is what somebody types; what it answers is what they read.
"""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import termios
from contextlib import ExitStack, contextmanager

import pytest
import trio

from broker.launch.process.spawn import PIPE
from tests.integration.test_attached import brokerctl as started
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import record, world

pytestmark = pytest.mark.long


class Terminal:
    """A pseudo-terminal with a person in front of it."""

    def __init__(self, rows=24, columns=80):
        self.master, self.slave = pty.openpty()
        size = struct.pack("4H", rows, columns, 0, 0)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, size)
        self.screen = bytearray()

    def type(self, text):
        os.write(self.master, text.encode())

    async def shows(self, text, deadline=120):
        with trio.fail_after(deadline):
            while text.encode() not in self.screen:
                await trio.lowlevel.wait_readable(self.master)
                self.screen.extend(os.read(self.master, 65536))

    def close(self):
        os.close(self.master)
        os.close(self.slave)


@contextmanager
def terminal(**size):
    made = Terminal(**size)
    try:
        yield made
    finally:
        made.close()


async def test_pipes_shells_and_ctrl_c():
    async with world({"app": record()}) as w:
        env = {**w.environ, "TERM": "xterm"}
        with ExitStack() as stack:
            await a_pipe(w, env, stack)
        with ExitStack() as stack, terminal(rows=30, columns=100) as person:
            await a_shell(w, env, stack, person)
        with ExitStack() as stack:
            await an_interrupted_run(w, env, stack)


async def a_pipe(w, env, stack):
    """``echo hello | brokerctl run app -- cat`` and an exit code."""
    read, write = os.pipe()
    os.write(write, b"hello\n")
    os.close(write)
    words = ("run", "--no-window", "app", "--", "sh", "-c", "cat; exit 3")
    child = stack.enter_context(started(*words, env=env, stdin=read, stdout=PIPE))
    os.close(read)
    with trio.fail_after(120):
        assert await child.wait() == 3
    assert child.popen.stdout.read() == b"hello\n"
    print(child.popen.stderr.read().decode())


async def a_shell(w, env, stack, person):
    """A shell in a new sandbox, a second program by ``exec``, Ctrl-C, Ctrl-D."""
    streams = {"stdin": person.slave, "stdout": person.slave}
    shell = stack.enter_context(started("shell", "app", env=env, **streams))
    person.type("stty size; echo $((40 + 2)) $TERM $WAYLAND_DISPLAY\n")
    await person.shows("30 100")
    await person.shows("42 xterm wayland-0")
    (sandbox,) = (await w.status()).sandboxes
    done = await brokerctl("exec", "app", "--", "echo", "second", env=env, deadline=90)
    assert (done.code, done.out) == (0, "second\n")
    person.type("sleep 1000\n")
    await trio.sleep(0.5)
    person.type("\x03")
    person.type("echo after $?\n")
    await person.shows("after 130")
    person.type("exit 5\n")
    with trio.fail_after(60):
        assert await shell.wait() == 5

    async def gone():
        return not (await w.status()).sandboxes

    await eventually(gone, deadline=60)
    assert sandbox.name.startswith("app-")


async def an_interrupted_run(w, env, stack):
    """Ctrl-C while it runs: the program, the machine and the command end."""
    words = ("run", "app", "--", "foot", "-T", "interrupted", "sleep", "1000")
    child = stack.enter_context(started(*words, env=env, stdout=PIPE))
    await wait_window(w.comp, title="interrupted")
    os.kill(child.pid, signal.SIGINT)
    with trio.fail_after(60):
        assert await child.wait() == 130
    assert not (await w.status()).sandboxes
    err = child.popen.stderr.read().decode()
    assert err.splitlines()[-1] == "brokerctl: interrupted"
    assert "Traceback" not in err


async def test_a_question_about_a_window_lives_until_it_is_answered():
    """Answered after 30 s, when the guest's agent has pinged fifteen times."""
    from broker.control.api import QuestionAnswerRequest
    from tests.e2e.test_rules_live import pending, write_rule

    async with world({"app": record("persistent")}, start=False) as w:
        write_rule(w, "30-mine.policy", "vitrail.Display * app @adminvm ask\n")
        await w.start()
        async with trio.open_nursery() as nursery, w.client() as client:
            nursery.start_soon(w.run, "app", "foot", "-T", "asked", "sleep", "1000")
            (question,) = await eventually(lambda: pending(w), deadline=90)
            with trio.move_on_after(30):
                while [q.id for q in await pending(w)] == [question.id]:
                    await trio.sleep(0.5)
                raise AssertionError("the question went before it was answered")
            await client.answer(QuestionAnswerRequest(id=question.id, allow=True))
            await wait_window(w.comp, title="asked")
        (answered,) = w.events("question.answered")
        assert answered["answered_by"] == "person"
        assert answered["seconds"] > 29
        await w.stop()
