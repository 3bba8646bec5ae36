"""``brokerctl run --bwrap``: a program of the host's in a box, on a real desktop."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.helpers.process.spawn import DEVNULL
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES
from tests.kit.relay.sockets import fds
from tests.kit.wayland.compositor import wait_frames, wait_window
from tests.kit.world import world

pytestmark = PID_NAMESPACES

RED = (0xD5, 0x5E, 0x00)


def left_over(w) -> list[Path]:
    """Directories of launches, and records that were made for boxes."""
    records = (w.paths.runtime / "sandboxes.d").glob("box-*")
    return [*(w.paths.runtime / "launch").glob("*"), *records]


async def test_box_without_record_gets_requested_number_of_open_files():
    """Node raises its limit to the hard one by itself, and needs more than 700."""
    argv = ("--", "sh", "-c", "ulimit -Hn; ulimit -Sn")
    async with world(image=False) as w:
        for options, number in (([], "700"), (["--open-files", "5000"], "5000")):
            run = ("run", "-q", "--bwrap", *options, *argv)
            answer = await brokerctl(*run, env=w.environ)
            assert (answer.code, answer.out.split()) == (0, [number] * 2)
        answer = await brokerctl("run", "--open-files", "5000", "work", env=w.environ)
        assert answer.code == 2
        assert "brokerctl set SANDBOX launch.open_files 5000" in answer.err


async def test_a_program_of_the_hosts_has_a_framed_window_and_leaves_nothing():
    words = ("run", "-q", "--bwrap", "--", "foot", "-T", "boxed", "sleep", "1000")
    async with world(image=False) as w:
        async with running(*words, env=w.environ) as child:
            await wait_window(w.comp, title="boxed")
            name = w.events("lease.begin")[-1]["sandbox"]
            await wait_frames(w.comp, {f"[{name}] boxed": {RED}})
            shown = Path(os.environ.get("VITRAIL_OUT") or ".") / "launchers"
            shown.mkdir(parents=True, exist_ok=True)
            await w.comp.screenshot(shown / "bwrap.png")
            begin = await w.only_event("lease.begin")
            assert begin["sandbox"].startswith("box-")
            decision = await w.only_event("decision")
            assert decision["verdict"] == "allow"
            assert decision["sandbox"] == begin["sandbox"]
            assert len(left_over(w)) == 2
            status = await w.status()
            assert [s.state for s in status.sandboxes] == ["running"]
            (keeper,) = [p for p in status.processes if p.role == "keeper"]
            (window,) = await wait_window(w.comp, title="boxed")
            assert window["pid"] == keeper.pid
            # The short way, without the modules that take longer than the window.
            loaded = Path(f"/proc/{child.pid}/maps").read_text()
            assert "python3" in loaded
            assert "msgspec" not in loaded
            child.kill()
            await child.wait()
        # Killed, it could put nothing away itself: the kernel has ended the box, and the
        # broker clears away what was made for it.
        await w.wait_event("lease.end", sandbox=begin["sandbox"])

        async def gone():
            return not [p for p in w.processes().values() if "bwrap" in p]

        async def cleared():
            return left_over(w) == []

        await eventually(gone)
        await eventually(cleared)
        answer = await brokerctl("run", "-q", "--bwrap", "--", "true", env=w.environ)
        assert answer.code == 0, answer
        assert left_over(w) == []


async def test_lists_say_what_is_known_of_a_box_without_a_record():
    """It was of class persistent, with foot for a program, and had no flows."""
    words = ("run", "-q", "--no-window", "--bwrap", "--", "sleep", "1000")
    async with world(image=False) as w, running(*words, env=w.environ):
        begin = await w.wait_event("lease.begin")
        listed = await brokerctl("list", env=w.environ)
        (row,) = [one for one in listed.out.splitlines() if one.startswith("box-")]
        assert " temporary " in row
        assert "foot" not in row
        network = await brokerctl("network", begin["sandbox"], env=w.environ)
        assert 'has network = "none"' in network.err


async def test_a_program_that_fails_without_a_compositor_is_explained():
    async with world(image=False) as w:
        with suppress(UpstreamError):  # it has no time to answer
            await w.comp.command("exit")
        words = ("run", "-q", "--bwrap", "--", "foot")
        answer = await brokerctl(*words, env=w.environ)
        assert answer.code != 0
        assert "no window: no compositor answers" in answer.err


def polls_events(pid) -> bool:
    """Whether a process has an epoll descriptor, as an event loop has."""
    return "anon_inode:[eventpoll]" in fds(pid)


_PROBE = r"""
import os, socket, sys
def tried(what):
    try:
        return what() or "done"
    except OSError as error:
        return type(error).__name__
def connect(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
print("compositor", tried(lambda: connect(sys.argv[1])))
print("control", tried(lambda: connect(sys.argv[2])))
print("home", tried(lambda: os.listdir(sys.argv[3]) and None))
print("file", open(sys.argv[4]).read())
print("file written", tried(lambda: open(sys.argv[4], "w")))
print("socket moved", tried(lambda: os.rename("/run/vitrail/wayland-0", "/run/vitrail/x")))
print("link made", tried(lambda: os.symlink("/", "/run/vitrail/y")))
print("processes", len([name for name in os.listdir("/proc") if name.isdigit()]))
print("network", sorted(name for _, name in socket.if_nameindex()))
print("privileges", open("/proc/self/status").read().split("CapEff:")[1].split()[0])
print("terminal", tried(lambda: os.open("/dev/tty", os.O_RDWR) and None))
raise SystemExit(7)
"""


async def test_what_a_box_reaches():
    """Its sockets and the file that was named; nothing else of the person's."""
    async with world(image=False) as w:
        probe, named = w.base / "probe.py", w.base / "named.txt"
        probe.write_text(_PROBE)
        named.write_text("hello")
        arguments = (
            str(w.comp.display),
            str(w.paths.control),
            str(w.base),
            str(named),
        )
        answer = await brokerctl(
            *("run", "-q", "--bwrap", "--", "/usr/bin/python3", str(probe)),
            *arguments,
            env=w.environ,
        )
        assert answer.code == 7, answer
        said = dict(line.rsplit(" ", 1) for line in answer.out.splitlines())
        assert said["compositor"] == "FileNotFoundError"
        assert said["control"] == "FileNotFoundError"
        assert said["file"] == "hello"
        assert said["file written"] == "OSError"
        assert said["socket moved"] == "OSError"
        assert said["link made"] == "OSError"
        assert int(said["processes"]) <= 3
        assert said["network"] == "['lo']"
        assert int(said["privileges"], 16) == 0
        assert said["terminal"] == "OSError"
        assert named.read_text() == "hello"
        assert left_over(w) == []
        await w.wait_event("lease.end")


async def test_a_record_says_how_many_files_its_programs_may_have_open():
    async with world(image=False, start=False) as w:
        w.write_record(
            "many",
            'class = "disposable"\n[label]\ncolour = "blue"\n'
            '[launch]\nkind = "bwrap"\ncommand = ["true"]\nopen_files = 900\n',
        )
        await w.start()
        shell = ("--", "/bin/sh", "-c", "ulimit -n -H; ulimit -n")
        for words, most in ((("many",), 900), (("--bwrap",), limits.SANDBOX_FDS)):
            answer = await brokerctl("run", "-q", *words, *shell, env=w.environ)
            assert (answer.code, answer.out) == (0, f"{most}\n{most}\n"), answer


BOX = """\
class = "{}"
display = "allow"
[label]
colour = "red"
[launch]
kind = "bwrap"
{}
"""


async def test_a_record_s_box_is_started_the_short_way():
    """Its program, another one, files of its record, its home, its end."""
    async with world(image=False, start=False) as w:
        shared, given = w.base / "shared", w.base / "given"
        shared.mkdir()
        given.write_text("hello")
        binds = f'bind_read_only = ["{given}"]\nbind_read_write = ["{shared}"]\n'
        shell = f'["sh", "-c", "cat {given} > {shared}/made; echo done"]'
        w.write_record("box", BOX.format("disposable", f"{binds}command = {shell}"))
        w.write_record("kept", BOX.format("persistent", ""))
        await w.start()
        answer = await brokerctl("run", "-q", "box", env=w.environ)
        assert (answer.code, answer.out) == (0, "done\n"), answer
        assert (shared / "made").read_text() == "hello"
        answer = await brokerctl("run", "-q", "kept", "touch", "note", env=w.environ)
        assert answer.code == 0, answer
        listed = ("run", "-q", "kept", "--", "sh", "-c", "ls; exit 7")
        answer = await brokerctl(*listed, env=w.environ)
        assert (answer.code, answer.out) == (7, "note\n"), answer
        words = ("run", "-q", "kept", "--", "foot", "-T", "kept", "sleep", "1000")
        async with running(*words, env=w.environ) as child:
            await wait_window(w.comp, title="[kept] kept")
            # Where trio would have its event loop.
            assert not polls_events(child.pid)
            again = await brokerctl("run", "-q", "kept", env=w.environ)
            assert again.code == 1
            assert "kept" in again.err
            answer = await brokerctl("stop", "kept", env=w.environ)
            assert answer.code == 0, answer
            with trio.fail_after(60):
                assert await child.wait() != 0
        assert left_over(w) == []


async def test_a_record_with_a_mistake_is_reported_and_not_run_as_it_was():
    async with world(image=False, start=False) as w:
        w.write_record("box", BOX.format("disposable", 'command = ["true"]'))
        await w.start()
        assert (await brokerctl("run", "-q", "box", env=w.environ)).code == 0
        w.write_record("box", BOX.format("disposable", "command = 7"))
        answer = await brokerctl("run", "-q", "box", env=w.environ)
        assert answer.code == 1
        assert "box.toml:7" in answer.err
        assert len(w.events("lease.begin")) == 1


async def test_a_second_box_does_not_use_the_sockets_of_the_first():
    """Not from inside: they are not there; and not by their path from outside."""
    words = ("run", "-q", "--bwrap", "--", "foot", "-T", "first", "sleep", "1000")
    async with world(image=False) as w, running(*words, env=w.environ):
        await wait_window(w.comp, title="first")
        (sockets,) = (w.paths.runtime / "launch").glob("*/s")
        assert stat.S_IMODE(sockets.parent.stat().st_mode) == 0o700
        stream = await trio.open_unix_socket(str(sockets / "wayland-0"))
        with trio.fail_after(60):
            assert await stream.receive_some() == b""
        await stream.aclose()
        refused = await w.wait_event("stream.refused")
        assert "not in this container" in refused["reason"]
        code = (
            "import socket,sys\n"
            "s = socket.socket(socket.AF_UNIX)\n"
            "s.connect(sys.argv[1])\n"
        )
        script = w.base / "other.py"
        script.write_text(code)
        answer = await brokerctl(
            *("run", "-q", "--bwrap", "--", "/usr/bin/python3", str(script)),
            str(sockets / "wayland-0"),
            env=w.environ,
        )
        assert answer.code == 1
        assert "FileNotFoundError" in answer.out


async def test_what_cannot_be_started_says_so_and_leaves_nothing():
    async with world(image=False) as w:
        answer = await brokerctl(
            "run", "-q", "--bwrap", "--", "no-such-program", env=w.environ
        )
        assert answer.code == 127
        assert answer.out.startswith(
            "no program 'no-such-program' in the sandbox's PATH ("
        )
        answer = await brokerctl("run", "--bwrap", "-d", "--", "true", env=w.environ)
        assert answer.code == 2
        answer = await brokerctl(
            "run", "--json", "--bwrap", "--", "true", env=w.environ
        )
        assert answer.code == 0
        last = json.loads(answer.out.splitlines()[-1])
        assert (last["sandbox"][:4], last["code"]) == ("box-", 0)
        assert left_over(w) == []


async def test_a_shell_that_ends_because_it_has_no_terminal_is_explained():
    """With an event loop and without one; and a program that has said something is not."""
    async with world(image=False) as w:
        ours, terminal = os.openpty()
        try:
            for options in (("-q", "--bwrap"), ("--bwrap", "--json")):
                run = partial(brokerctl, "run", *options, "--", env=w.environ)
                answer = await run("bash", stdin=terminal)
                assert answer.code == 0
                assert "bash ended without output: a box has no terminal" in answer.err
                assert "'foot bash'" in answer.err
                answer = await run("id", stdin=terminal)
                assert "without output" not in answer.err
                answer = await run("bash", stdin=DEVNULL)
                assert "without output" not in answer.err, "it is for a user"
        finally:
            os.close(ours)
            os.close(terminal)


async def test_a_second_run_of_a_persistent_box_says_that_it_runs_once():
    async with world(image=False, start=False) as w:
        w.write_record("keep", BOX.format("persistent", ""))
        await w.start()
        async with running("run", "-q", "keep", "--", "sleep", "1000", env=w.environ):
            await w.wait_event("lease.begin")
            for options in (("-q",), ("--json",)):
                answer = await brokerctl(
                    "run", *options, "keep", "--", "true", env=w.environ
                )
                assert answer.code == 1
                assert "the home of 'keep' is in use: a box or container" in answer.err
                assert "'brokerctl stop keep'" in answer.err


async def test_a_box_reads_the_users_standard_input_to_its_end(tmp_path):
    """With an event loop and without one; more than a pipe holds."""
    lines = b"".join(b"line %d\n" % number for number in range(20_000))
    given = tmp_path / "given"
    given.write_bytes(lines)
    with given.open("rb") as opened:
        async with world(image=False) as w:
            for options in (("-q", "--bwrap"), ("--bwrap", "--json")):
                opened.seek(0)
                run = partial(brokerctl, "run", *options, "--", stdin=opened.fileno())
                answer = await run("sha256sum", env=w.environ)
                assert hashlib.sha256(lines).hexdigest() in answer.out, answer
                # One that reads nothing ends, and so does brokerctl.
                opened.seek(0)
                answer = await run("true", env=w.environ)
                assert answer.code == 0, answer
            ours, theirs = os.pipe()
            with os.fdopen(ours, "rb") as pipe, os.fdopen(theirs, "wb") as never_closed:
                words = ("run", "-q", "--bwrap", "--", "head", "-n", "1")
                never_closed.write(b"hello\n")
                never_closed.flush()
                answer = await brokerctl(*words, env=w.environ, stdin=pipe.fileno())
                assert (answer.code, answer.out) == (0, "hello\n")
