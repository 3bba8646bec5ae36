"""What a launch tool that was taken over reaches: the files that it reads, and no more.

The attack runs in the place of the program, in the jail that ``launch_jails`` starts it in.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from broker.helpers.process.spawn import DEVNULL, spawn
from broker.host.vmm import launch_jails
from broker.programs.tools import tool
from tests.kit.wayland.compositor import short_directory

_PROGRAM = """
import json, os, socket, subprocess, sys
asked, got = json.loads(sys.argv[1]), []
def attempt(name, action):
    try:
        action()
        got.append(name)
    except OSError:
        pass
def reach(family, address):
    with socket.socket(family) as one:
        one.connect(address)
def close(*arguments):
    os.close(os.open(*arguments))
home = asked["home"]
attempt("read", lambda: close(home + "/.ssh/id", os.O_RDONLY))
attempt("read by proc", lambda: close(f"/proc/{asked['pid']}/root{home}/.ssh/id", os.O_RDONLY))
attempt("list", lambda: os.listdir(home + "/.ssh"))
for name in (".fonts/x", ".local/share/fonts/x", ".config/fontconfig/x"):
    attempt(f"write {name}", lambda: close(home + "/" + name, os.O_WRONLY | os.O_CREAT))
attempt("write fetched", lambda: close(home + "/tools/x", os.O_WRONLY | os.O_CREAT))
attempt("read fonts", lambda: close(home + "/.fonts/mine.ttf", os.O_RDONLY))
attempt("session", lambda: reach(socket.AF_UNIX, home + "/bus"))
attempt("abstract", lambda: reach(socket.AF_UNIX, chr(0) + asked["abstract"]))
attempt("network", lambda: reach(socket.AF_INET, ("127.0.0.1", asked["port"])))
attempt("signal", lambda: os.kill(asked["pid"], 0))
attempt("variable", lambda: os.environ["TOKEN"] if "TOKEN" in os.environ else close("/x", 0))
print(json.dumps(got))
"""
_FONTS, _FETCH = {"read fonts"}, {"write fetched", "network"}


@pytest.fixture
def session(monkeypatch):
    """A home with a secret, a session with sockets, a process and a variable."""
    with short_directory() as home, ExitStack() as stack:
        for name in (".ssh/id", ".fonts/mine.ttf", ".local/share/fonts/a", "tools/a"):
            (home / name).parent.mkdir(parents=True)
            (home / name).write_text("the user's")
        (home / ".config/fontconfig").mkdir(parents=True)
        abstract = f"vitrail-test-{os.getpid()}-{home.name}"
        for address in (str(home / "bus"), f"\0{abstract}"):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(address)
            sock.listen()
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        victim = spawn(["sleep", "1000"], stdout=DEVNULL, stderr=DEVNULL)
        stack.callback(victim.kill_now)
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("TOKEN", "secret of the session")
        for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        asked = {"home": str(home), "abstract": abstract, "pid": victim.pid}
        yield json.dumps({**asked, "port": tcp.getsockname()[1]})


def _attacked(monkeypatch, words, asked):
    """Run the attack where the tool would become bubblewrap; return its results."""
    started = []
    monkeypatch.setattr(os, "execvpe", lambda *call: started.append(call))
    monkeypatch.setattr(sys, "argv", ["tool", *words])
    attack = [sys.executable, "-I", "-c", _PROGRAM, asked]
    monkeypatch.setattr(launch_jails, "our_program", lambda *_: attack)
    with pytest.raises(SystemExit):
        tool.main()
    ((_, argv, env),) = started
    rules = [int(argv[at + 1]) for at, word in enumerate(argv) if word == "--seccomp"]
    try:
        run = subprocess.run(
            argv, env=env, pass_fds=rules, capture_output=True, timeout=60, check=True
        )
    finally:
        for fd in rules:
            os.close(fd)
    return set(json.loads(run.stdout))


def test_the_attempts_work_where_nothing_confines(session):
    """The control."""
    argv = [sys.executable, "-I", "-c", _PROGRAM, session]
    run = subprocess.run(argv, capture_output=True, timeout=60, check=True)
    assert len(json.loads(run.stdout)) == 13


def test_what_reads_files_of_this_machine_has_fonts_alone(session, monkeypatch):
    assert _attacked(monkeypatch, ["host-files", "fonts"], session) == _FONTS


def test_what_fetches_a_program_has_its_folder_and_the_network(session, monkeypatch):
    folder = f"{json.loads(session)['home']}/tools"
    assert _attacked(monkeypatch, ["fetch", folder, ""], session) == _FETCH
