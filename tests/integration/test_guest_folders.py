"""Folders in a guest of another origin: root mounts for the agent, what it is asked for alone."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from shims.bundle import guest_installer
from shims.guest import folders
from tests.kit.wayland.compositor import short_directory

SAYS = '#!/bin/sh\necho "$(basename "$0") $*" >>"$SAID"\n'


@pytest.fixture(scope="module")
def lib(tmp_path_factory):
    """Where the guest package is installed."""
    root = tmp_path_factory.mktemp("root")
    for name in ("etc/passwd", "usr/lib/systemd/systemd"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("ada:x:1000:1000::/home/ada:/bin/sh\n")
    words = ["sh", "-s", "--", "--root", str(root), "--no-packages"]
    subprocess.run(words, input=guest_installer(), check=True, capture_output=True)
    return root / "usr/local/lib/vitrail"


@pytest.fixture
def helper(lib, tmp_path):
    """The installed script of root's, whose commands are only written down."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("mkdir", "mount", "umount", "rmdir"):
        (tools / name).write_text(SAYS)
        (tools / name).chmod(0o755)

    def ask(line):
        said = tmp_path / "said"
        said.write_text("")
        env = {"PATH": f"{tools}:{os.defpath}", "SAID": str(said)}
        script = lib / "vitrail-folder"
        done = subprocess.run(
            [script], input=line, env=env, check=False, capture_output=True, text=True
        )
        return done.stdout, said.read_text().splitlines()

    return ask


def test_the_agent_in_one_file_asks_by_the_same_program(lib):
    """What makes it one file drops the imports of its modules."""
    made = (lib / "vitrail_guest.py").read_text()
    assert repr(folders.ASK_ROOT) in {
        ast.unparse(node.value)
        for node in ast.walk(ast.parse(made))
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]).endswith("ASK_ROOT")
    }


def test_root_mounts_a_folder_of_a_place(helper):
    answer, said = helper("mount 1 My papers\n")
    assert answer == "ok\n"
    assert said == [
        "mkdir -p /run/vitrail-folder-1 /folders/My papers",
        "mount -t virtiofs -o nosuid,nodev vitrail-1 /run/vitrail-folder-1",
        "mount -o bind /run/vitrail-folder-1/here /folders/My papers",
        "umount /run/vitrail-folder-1",
    ]
    assert helper("unmount 1 docs\n")[1] == [
        "umount /folders/docs",
        "rmdir /folders/docs",
    ]
    assert helper("force 1 docs\n")[1][0] == "umount -f /folders/docs"


@pytest.mark.parametrize(
    "line",
    [
        "mount 0 ..\n",
        "mount 0 ../etc\n",
        "mount 0 a/b\n",
        "mount 0 \n",
        "mount 8 docs\n",
        "mount /dev/sda docs\n",
        "mount 0-x docs\n",
        "remount 0 docs\n",
        "\n",
        "",
        "mount 0 docs",
    ],
)
def test_root_mounts_nothing_else(helper, line):
    answer, said = helper(line)
    assert said == []
    assert not answer.endswith("ok\n")


@pytest.fixture
def ask(monkeypatch):
    """An agent that is not root; ``ask`` gives it an answer of root's, or none."""
    monkeypatch.setattr(folders.os, "geteuid", lambda: 1000)
    asked, answers = [], []

    class Loop:
        def child(self, process, done):
            done(process.wait())

    guest = SimpleNamespace(
        loop=Loop(),
        settings=SimpleNamespace(runtime="/run/none"),
        agent=SimpleNamespace(send=lambda *_, **m: answers.append(m)),
    )
    mounted = folders.Folders(guest)

    with short_directory() as run:
        path = run / "root"
        monkeypatch.setattr(folders, "BY_ROOT", str(path))

        def serve(listener, answer):
            with listener, listener.accept()[0] as conn:
                asked.append(conn.makefile().readline())
                conn.sendall(answer)

        def call(action, answer=None):
            if answer is not None:
                listener = socket.socket(socket.AF_UNIX)
                path.unlink(missing_ok=True)
                listener.bind(str(path))
                listener.listen()
                thread = threading.Thread(
                    target=serve, args=(listener, answer), daemon=True
                )
                thread.start()
                action(mounted)
                thread.join(30)
            else:
                action(mounted)
            return answers[-1], asked

        yield call


def message(name, at=""):
    return {
        "place": 0,
        "name": name,
        "at": at,
        "disk": False,
        "size": 0,
        "stream": False,
    }


def test_an_agent_that_is_not_root_asks_root(ask):
    answer, asked = ask(lambda f: f.mount(message("My papers")), b"ok\n")
    assert answer["ok"]
    assert asked == ["mount 0 My papers\n"]
    held, _ = ask(lambda f: f.unmount(0, force=False), b"umount: target is busy.\n")
    assert (held["ok"], held["detail"]) == (False, "umount: target is busy.")
    gone, asked = ask(lambda f: f.unmount(0, force=True), b"ok\n")
    assert gone["ok"]
    assert asked[1:] == ["unmount 0 My papers\n", "force 0 My papers\n"]


def test_an_agent_says_why_nothing_is_mounted(ask):
    absent, _ = ask(lambda f: f.mount(message("docs")))
    assert "run a new guest package as root" in absent["detail"]
    elsewhere, _ = ask(lambda f: f.mount(message("docs", at="/srv/docs")))
    assert "in /folders only" in elsewhere["detail"]
    lines, _ = ask(lambda f: f.mount(message("do\ncs")))
    assert "more than one line" in lines["detail"]
    assert not Path("/folders/docs").exists()
