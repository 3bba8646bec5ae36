"""What a person meets in the first hour: each a sentence, what to do, no traceback.

Everything here is a separate process, as a person starts it, with a home
that has nothing in it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import sys
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from broker.core.services import PORTS
from broker.helpers.process.spawn import PIPE, spawn
from tests.kit.brokerctl import Answer, brokerctl, lines_of, paths_of, running

DEMO = (Path(__file__).parents[2] / "broker/data/sandboxes.d/demo.toml").read_text()
START = "import sys; from broker.cli.app import main; sys.exit(main())"
BROKER = "from broker.programs.local import main; main()"


def write_record(env: dict[str, str], name: str, text: str) -> Path:
    folder = paths_of(env).config[0] / "sandboxes.d"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.toml"
    file.write_text(text)
    return file


def sentence(answer: Answer, code: int = 1) -> str:
    """All that it said in one line, once it is seen to be no traceback."""
    said = f"{answer.out}\n{answer.err}"
    assert answer.code == code, said
    assert "Traceback" not in said
    assert "hint: " in said
    return " ".join(said.split())


async def process(argv, env) -> Answer:
    """Run another program to its end."""
    child = spawn(argv, env=env, stdout=PIPE, stderr=PIPE)
    with child.popen.stdout, child.popen.stderr:
        with trio.fail_after(60):
            code = await child.wait()
        out, err = child.popen.stdout.read(), child.popen.stderr.read()
    return Answer(code, out.decode(), err.decode())


async def stop_broker(env) -> None:
    answer = await brokerctl("stop", "--broker", env=env)
    assert answer.code == 0, answer.err


# -- nothing there yet ---------------------------------------------------------------


async def test_the_demo_s_record_is_not_there_and_the_answer_makes_it(env) -> None:
    said = sentence(await brokerctl("run", "demo", env=env))
    assert "no sandbox and no record is named 'demo'" in said
    command = shlex.split(said.partition("the example 'demo', run: ")[2])
    assert command[:2] == ["brokerctl", "new"]
    made = await brokerctl(*command[1:], env=env)
    assert made.code == 0, made.err
    checked = await brokerctl("policy", "check", env=env)
    assert (checked.code, "records: 1 can be used" in checked.err) == (0, True)
    # The next thing that is missing is the screen.
    assert "no compositor" in sentence(await brokerctl("run", "demo", env=env))
    assert not paths_of(env).control.exists(), "no broker was started for any of it"


async def test_unknown_names(env) -> None:
    said = sentence(await brokerctl("run", "dmeo", env=env))
    assert "from the example 'demo'" in said
    write_record(env, "work", DEMO)
    assert "did you mean 'work'?" in sentence(await brokerctl("run", "wrok", env=env))
    said = sentence(await brokerctl("run", "zzz", env=env))
    assert (
        "use one of the records: work; to create a record, run: brokerctl new zzz"
        in said
    )
    said = sentence(await brokerctl("run", "a\x1b[2Jb", env=env))
    assert "a\\x1b[2Jb" in said


async def test_unknown_to_a_broker_that_runs(env) -> None:
    """The same answer, though another process gives it."""
    write_record(env, "work", DEMO)
    missing = write_record(env, "thin", DEMO.replace('"default"', '"nothere"'))
    said = sentence(await brokerctl("run", "--no-window", "thin", env=env))
    assert "there is no guest image 'nothere'" in said
    assert "to build it, run 'brokerctl image build nothere'" in said
    try:
        assert paths_of(env).control.exists()
        said = sentence(await brokerctl("run", "wrok", env=env))
        assert "did you mean 'work'?" in said
        missing.write_text(missing.read_text().replace("memory", "memroy"))
        said = sentence(await brokerctl("run", "thin", env=env))
        assert f"{missing}:15:1: unknown key 'memroy' in [launch]" in said
        assert "| ^^^^^^" in said
    finally:
        await stop_broker(env)


async def test_a_misspelt_verb(env) -> None:
    answer = await brokerctl("stauts", env=env)
    assert answer.code == 2
    assert "did you mean 'brokerctl status'?" in answer.err
    other = await brokerctl("frobnicate", env=env)
    assert other.code == 2
    assert "No such command" in other.err


async def test_verbs_that_need_a_broker_say_how_to_start_one(env) -> None:
    for words in (["status"], ["stop", "--all"], ["lease", "list"]):
        said = sentence(await brokerctl(*words, env=env))
        assert "no broker is running" in said
        assert "to start a broker, run 'brokerctl run SANDBOX'" in said


# -- a mistake in a record -----------------------------------------------------------


async def test_a_typo_has_its_line_a_caret_and_the_word_that_was_meant(env) -> None:
    file = write_record(env, "demo", DEMO.replace('"disposable"', '"disposible"'))
    expected = (
        f'{file}:5:9: "disposible" is not allowed here\n'
        '  | class = "disposible"\n'
        "  |         ^^^^^^^^^^^^\n"
        '  expected: "persistent" or "disposable" or "template"\n'
        "  hint: did you mean 'disposable'?\n"
    )
    ran = await brokerctl("run", "demo", env=env)
    assert ran.code == 1
    assert expected in ran.err
    assert "to list every error, run 'brokerctl policy check'" in ran.err
    assert ran.out == "", "words for the person are on standard error"
    checked = await brokerctl("policy", "check", env=env)
    assert (checked.code, checked.out) == (1, expected)
    listed = await brokerctl("list", env=env)
    assert "no records yet" not in listed.err
    assert listed.err.endswith("records with errors, which cannot be used: demo\n")


# -- the surroundings ----------------------------------------------------------------


async def test_no_compositor(env) -> None:
    write_record(env, "demo", DEMO)
    said = sentence(await brokerctl("run", "demo", env=env))
    assert "no compositor answers at wayland-0" in said
    for way_out in ("WAYLAND_DISPLAY", "'brokerctl demo'", "--no-window"):
        assert way_out in said


@pytest.mark.parametrize(
    "words", [["run", "demo"], ["demo"], ["status"], ["image", "list"]], ids="-".join
)
async def test_no_runtime_directory(env, words) -> None:
    del env["XDG_RUNTIME_DIR"]
    said = sentence(await brokerctl(*words, env=env))
    assert "XDG_RUNTIME_DIR is not set" in said
    assert "mkdir -m 700" in said


async def test_the_broker_without_a_runtime_directory(env) -> None:
    del env["XDG_RUNTIME_DIR"]
    said = sentence(await process([sys.executable, "-c", BROKER], env))
    assert "XDG_RUNTIME_DIR is not set" in said


def as_root(argv: list[str]) -> list[str]:
    """What runs a program with user id 0: nothing, or a namespace."""
    return argv if os.geteuid() == 0 else ["unshare", "-r", *argv]


async def test_root(env) -> None:
    write_record(env, "demo", DEMO)
    said = sentence(await process(as_root([sys.executable, "-c", BROKER]), env))
    assert "the broker must not run as root" in said
    assert "as the user whose desktop it serves" in said
    for words in (["run", "demo"], ["demo"]):
        argv = as_root([sys.executable, "-c", START, *words])
        said = sentence(await process(argv, env))
        assert "brokerctl does not start a broker as root" in said
    assert not paths_of(env).cache.exists(), "no image was built before"


@pytest.mark.skipif(os.geteuid() == 0, reason="the broker must not run as root")
async def test_a_second_broker(env) -> None:
    argv = [sys.executable, "-c", BROKER]
    first = spawn(argv, env=env, stdout=PIPE, stderr=PIPE)
    with first.popen.stdout, first.popen.stderr:
        try:
            async with trio.lowlevel.FdStream(os.dup(first.popen.stderr.fileno())) as s:
                with trio.fail_after(30):
                    assert b"ready" in await s.receive_some()
            said = sentence(await process(argv, env))
            assert "a broker is already running" in said
            assert "to stop them and the broker, run 'brokerctl stop --broker'" in said
            assert (await brokerctl("status", env=env)).code == 0, "the first is well"
        finally:
            await stop_broker(env)
            with trio.fail_after(60):
                assert await first.wait() == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="the broker must not run as root")
async def test_the_path_of_a_hybrid_socket_is_taken(env) -> None:
    """Another broker, or socat, listens where the VMM is going to connect."""
    folder = Path(env["HOME"]) / "vm"
    folder.mkdir(mode=0o700)
    base = folder / "vm.vsock"
    external = (
        'class = "persistent"\n[launch]\nkind = "external"\n'
        f'[peer]\nhybrid = "{base}"\n'
    )
    write_record(env, "box", external)
    write_record(env, "thin", DEMO.replace('"default"', '"nothere"'))
    assert (await brokerctl("run", "--no-window", "thin", env=env)).code == 1
    port = min(PORTS.values())
    taken = Path(f"{base}_{port}")
    words = ("lease", "acquire", "box", "--hybrid", str(base))
    words = (*words, "--leader", str(os.getpid()))
    try:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(taken))
            other.listen()
            said = sentence(await brokerctl(*words, env=env))
            assert f"hybrid:{base}:{port} is in use: another program" in said
            assert f"run 'ss -xlp | grep {taken.name}'" in said
        # A leftover file whose owner is gone does not hinder a start.
        async with running(*words, "--json", env=env) as held:
            with trio.fail_after(30):
                async with aclosing(lines_of(held)) as lines:
                    assert '"sandbox": "box"' in await anext(lines)
    finally:
        await stop_broker(env)


# -- images --------------------------------------------------------------------------


async def test_removing_an_image_that_is_not_there(env) -> None:
    said = sentence(await brokerctl("image", "remove", "nothere", env=env))
    assert "nothere" in said


def _small_disk(size: str, argv: list[str]) -> list[str]:
    """Run a program with a file system of this size at $XDG_CACHE_HOME."""
    script = f'mount -t tmpfs -o size={size} none "$XDG_CACHE_HOME" && exec "$@"'
    return ["unshare", "-rm", "sh", "-c", script, "sh", *argv]


async def test_no_room_for_an_image(env) -> None:
    missing = [t for t in ("mmdebstrap", "genext2fs") if shutil.which(t) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    cache = Path(env["HOME"]) / "cache"
    cache.mkdir()
    env["XDG_CACHE_HOME"] = str(cache)
    argv = [sys.executable, "-c", START, "image", "build"]
    said = sentence(await process(_small_disk("16m", argv), env))
    assert re.search(r"not enough space for the image in \S*cache/vitrail/images", said)
    assert re.search(r"\d+ MiB are free, \d+ MiB are needed", said)
    assert "free some space, or set another directory with XDG_CACHE_HOME" in said
