"""The first hour, as a person has it: real machines, a real compositor, brokerctl.

Each step is a command that a person types; its answer is the text that they read.
"""

from __future__ import annotations

import os
import signal
from contextlib import AsyncExitStack, ExitStack

import pytest
import trio

from broker.helpers.process.spawn import PIPE
from broker.ipc.control.methods import ANSWER
from tests.integration.test_attached import brokerctl as started
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.first_hour import a_live_screen, hour, terminal
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import processes, record, the_image, world

pytestmark = pytest.mark.long


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
    person.type("echo sle''eps; sleep 1000\n")
    await person.shows("sleeps")
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
    from broker.ipc.control.api import QuestionAnswerRequest
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
            await client.call(ANSWER, QuestionAnswerRequest(id=question.id, allow=True))
            await wait_window(w.comp, title="asked")
        answered = await w.only_event("question.answered")
        assert answered["answered_by"] == "person"
        assert answered["seconds"] > 29
        await w.stop()


@pytest.mark.timeout(900)
async def test_the_first_hour():
    await the_image()
    async with hour() as h:
        async with h.step("install"):
            await h.vitrail.install("0.1.0")
            assert "0.1.0" in (await h.types("--version")).out
        async with h.step("new"):
            await a_new_sandbox(h)
        async with h.step("a typo"):
            await mistakes(h)
        async with h.step("run, asked, answered after 30 s"):
            await asked_and_interrupted(h)
        async with h.step("shell, copy, exec, top, update"):
            await a_shell_and_a_copy(h)
        async with h.step("audit connections"):
            await what_happened(h)
        async with h.step("removal"):
            await removed(h)


async def a_new_sandbox(h):
    refused = await h.types("run", "demo", code=1)
    assert "brokerctl new demo --from demo" in refused.err
    made = await h.types("new", "demo", "--from", "demo", "--label", "orange")
    assert "to start the sandbox, run: brokerctl run demo" in made.err
    assert "demo" in (await h.types("list")).out


async def asked_and_interrupted(h):
    """The window waits for an answer for half a minute; Ctrl-C ends everything."""
    h.writes(
        "policy.d/30-mine.policy", "vitrail.Display * @type:disposable @adminvm ask\n"
    )
    async with h.begins("run", "demo", stdout=PIPE) as run:
        async with h.step("  from the command to the question"):
            (question,) = await eventually(h.questions, deadline=240)
        shown = (await h.types("pending", "--json")).objects[0]["questions"]
        assert [q["id"] for q in shown] == [question.id]
        async with h.step("  a question waits"):
            with trio.move_on_after(30):
                while [q.id for q in await h.questions()] == [question.id]:
                    await trio.sleep(1)
                raise AssertionError("the question went before it was answered")
        async with h.step("  from the answer to the window"):
            await h.types("answer", str(question.id), "allow")
            await wait_window(h.comp, title="[demo-", deadline=90)
        async with h.step("  Ctrl-C"):
            os.kill(run.pid, signal.SIGINT)
            with trio.fail_after(60):
                assert await run.wait() == 130
        lines = run.popen.stderr.read().decode().splitlines()
        assert lines[-1] == "brokerctl: interrupted"
        assert not [line for line in lines if "Traceback" in line]
    assert "no sandboxes are running" in (await h.types("status")).out
    (h.config / "policy.d" / "30-mine.policy").unlink()


async def a_shell_and_a_copy(h):
    notes = h.home / "notes.txt"
    notes.write_text("remember the milk\n")
    async with AsyncExitStack() as stack:
        person = stack.enter_context(terminal(rows=30, columns=100))
        streams = {"stdin": person.slave, "stdout": person.slave}
        shell = await stack.enter_async_context(h.begins("shell", "demo", **streams))
        person.type("echo $((40 + 2)) $TERM\n")
        await person.shows("42 xterm-256color", deadline=240)
        (name,) = (await h.types("status")).out.splitlines()[1].split()[:1]
        async with h.step("  copy"):
            await h.types("cp", str(notes), "demo:")
            person.type("cat Incoming/*/notes.txt\n")
            await person.shows("remember the milk")
        async with h.step("  exec, its output and its errors"):
            words = ("exec", "-q", "demo", "--", "sh", "-c")
            done = await h.types(*words, "echo out; echo err >&2; exit 7", code=7)
            assert (done.out, done.err) == ("out\n", "err\n")
        async with h.step("  top"):
            await a_live_screen(h, name)
        async with h.step("  update"):
            await updated(h)
        person.type("exit 5\n")
        with trio.fail_after(60):
            assert await shell.wait() == 5


async def what_happened(h):
    shown = await h.types("audit", "connections", "--sandbox", "demo")
    rows = [line for line in shown.out.splitlines() if "vitrail.Display" in line]
    (asked,) = [line for line in rows if "30-mine.policy:1" in line]
    assert "demo.toml:" in asked, "the record's line stands beside the rule's"


async def mistakes(h):
    wrong = await h.types("runn", "demo", code=2)
    assert "run" in wrong.err
    wrong = await h.types("run", "dmeo", code=1)
    assert "demo" in wrong.err, "the name that was meant is offered"
    good = (h.config / "sandboxes.d" / "demo.toml").read_text()
    h.writes("sandboxes.d/demo.toml", good.replace('"allow"', '"alow"', 1))
    wrong = await h.types("policy", "check", code=1)
    said = wrong.out + wrong.err
    assert "demo.toml:" in said
    assert "alow" in said
    assert "allow" in said.replace("alow", "")
    refused = await h.types("run", "demo", code=1)
    assert "demo.toml:" in refused.err
    h.writes("sandboxes.d/demo.toml", good)
    await h.types("policy", "check")


async def updated(h):
    """A newer version over a broker that runs: both are named, and it continues."""
    await h.vitrail.install("0.1.1")
    status = (await h.types("status")).out
    assert (
        "the running broker has version 0.1.0, but brokerctl has version 0.1.1"
        in status
    )
    await h.types("exec", "demo", "--", "true")


async def removed(h):
    """Sandbox, broker, program: what stays is the log and the cache."""
    await h.types("stop", "--broker")
    await h.types("sandbox", "remove", "demo", "--yes")
    h.vitrail.remove()

    async def gone():
        return not processes(str(h.home))

    await eventually(gone, deadline=60)
    data = h.home / ".local" / "share"
    left = [path for path in (h.config, data) for path in path.rglob("*")]
    assert not [path for path in left if path.is_file()]
