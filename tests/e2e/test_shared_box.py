"""Boxes that share the home and the runtime directory: a label, and no boundary.

Podman is run as toolbox and distrobox run it: in the host's pid namespace, with the
runtime directory mounted, the environment passed on.
"""

from __future__ import annotations

import os
from pathlib import Path

from broker.cli.launchers.shared_box import (
    BOXES,
    box_name,
    exporting,
    relative_display,
    with_environment,
)
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.podman import podman_settings, root_directory, shared_words
from tests.kit.podman_store import run as podman
from tests.kit.wayland.compositor import wait_frames, wait_window, windows
from tests.kit.world import world

PURPLE = (0xCC, 0x79, 0xA7)


async def test_a_box_s_window_says_that_it_is_a_label():
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        w.environ["HOME"] = str(w.base)
        answer = await brokerctl(
            "launcher", "install", "distrobox", "--json", env=_with_distrobox(w)
        )
        assert answer.code == 0, answer
        (found,) = answer.objects
        paths = [Path(path) for path in found["written"]]
        wrapper, opener = paths[0], paths[-1]
        (record,) = [path for path in paths if path.suffix == ".toml"]
        assert wrapper == w.base / ".local" / "bin" / "distrobox-enter"
        assert "launcher exec distrobox" in wrapper.read_text()
        assert os.access(wrapper, os.X_OK)
        assert record.name == "distrobox.toml"
        assert os.access(opener, os.X_OK)
        run = w.paths.runtime.parent
        words = [
            *("launcher", "exec", "distrobox", "/usr/bin/podman", "run", "--rm"),
            *("--name=d1", "--pid=host", "--network=host", "--privileged"),
            *("--volume", f"{run}:{run}", "--env", f"XDG_RUNTIME_DIR={run}"),
            *("--env", "WAYLAND_DISPLAY", "--env", "PULSE_SERVER", *shared_words()),
            *("--rootfs", f"{root_directory(w.base)}:O"),
            *("foot", "-T", "boxed", "sleep", "1000"),
        ]
        async with running(*words, env=w.environ) as child:
            await wait_window(w.comp, title="boxed")
            begin = await w.only_event("lease.begin")
            name = begin["sandbox"]
            assert name.startswith("distrobox-")
            assert begin["peer"].startswith("label only")
            title = f"[{name}: label, not boundary] boxed"
            await wait_frames(w.comp, {title: {PURPLE}})
            podman(w.environ, "kill", "d1")
            await child.wait()

        async def gone():
            return windows(await w.comp.tree()) == []

        await eventually(gone)
        await w.wait_event("lease.end", sandbox=name)
        assert list((w.paths.runtime / "launch").glob("*")) == []
        answer = await brokerctl("launcher", "remove", "distrobox", env=w.environ)
        assert answer.code == 0, answer
        assert not wrapper.exists()
        assert not opener.exists()
        assert record.exists()


def _with_distrobox(w):
    """A PATH with a distrobox-enter in it: that there is one is all that is asked."""
    folder = w.base / "bin"
    folder.mkdir()
    (folder / "distrobox-enter").symlink_to("/usr/bin/podman")
    return {**w.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


async def test_without_its_record_nothing_is_started():
    async with world(image=False) as w:
        words = ("launcher", "exec", "toolbox", "/usr/bin/touch", str(w.base / "ran"))
        answer = await brokerctl(*words, env=w.environ)
        assert answer.code == 1
        assert "launcher install toolbox" in answer.err
        assert not (w.base / "ran").exists()


def test_the_box_that_a_command_line_names():
    assert box_name(["run", "-c", "t1", "foot"]) == "t1"
    assert box_name(["--name", "d1", "--", "foot"]) == "d1"
    assert box_name(["run", "--container=t1"]) == "t1"
    assert box_name(["--", "-n", "x"]) is None
    assert box_name(["-n"]) is None
    assert box_name([]) is None


def test_podbox_gets_its_display_below_the_runtime_directory():
    run = Path("/run/user/1000")
    found = relative_display(run, "/run/user/1000/vitrail/launch/0123/s")
    assert found == {"WAYLAND_DISPLAY": "vitrail/launch/0123/s/wayland-0"}


async def test_a_display_of_that_name_is_shown():
    """podbox mounts $XDG_RUNTIME_DIR/$WAYLAND_DISPLAY and keeps its name inside."""
    async with world(image=False) as w:
        w.environ["HOME"] = str(w.base)
        answer = await brokerctl(
            "launcher", "install", "distrobox", env=_with_distrobox(w)
        )
        assert answer.code == 0, answer
        script = w.base / "podbox"
        script.write_text(
            "#!/bin/sh\ncase $WAYLAND_DISPLAY in /*) exit 3;; esac\n"
            'test -S "$XDG_RUNTIME_DIR/$WAYLAND_DISPLAY" && exec "$@"\n'
        )
        script.chmod(0o755)
        words = ("launcher", "exec", "distrobox", str(script))
        async with running(*words, "foot", "-T", "pod", "sleep", "9", env=w.environ):
            await wait_window(w.comp, title="pod")
            name = w.events("lease.begin")[-1]["sandbox"]
            title = f"[{name}: label, not boundary] pod"
            await wait_frames(w.comp, {title: {PURPLE}})


def test_toolbox_gets_its_variables_by_env():
    values = {"WAYLAND_DISPLAY": "/w"}
    gone = ["-u", "DISPLAY", "-u", "WAYLAND_SOCKET", "-u", "XAUTHORITY"]
    inside = ["env", *gone, "WAYLAND_DISPLAY=/w"]
    for before in (["run"], ["run", "-c", "t1"], ["run", "--container=t1", "--"]):
        assert with_environment(BOXES["toolbox"], [*before, "foot"], values) == [
            *before,
            *inside,
            "foot",
        ]
    for words in (["enter", "t1"], ["run"], ["run", "-c", "t1"]):
        assert with_environment(BOXES["toolbox"], words, values) == words
    assert with_environment(BOXES["distrobox"], ["run", "x"], values) == ["run", "x"]
    # toolbox itself passes the variables of our X server on.
    words = with_environment(BOXES["toolbox"], ["run", "xterm"], values, x11=True)
    assert words == ["run", "env", "WAYLAND_DISPLAY=/w", "xterm"]


def test_podman_of_root_gets_its_variables_by_options():
    values = {"WAYLAND_DISPLAY": "/w"}
    for kind in BOXES.values():
        for before in (
            ["sudo", "podman"],
            ["sudo", "-n", "/usr/bin/podman"],
            ["podman"],
        ):
            words = [*before, "--log-level=error", "exec", "-it", "d1", "foot"]
            made = with_environment(kind, words, values)
            at = words.index("exec") + 1
            assert made == [*words[:at], "--env=WAYLAND_DISPLAY=/w", *words[at:]]
    inside = ["sudo", "toolbox", "run", "podman", "exec", "x", "foot"]
    assert "env" in with_environment(BOXES["toolbox"], inside, values)
    assert with_environment(BOXES["toolbox"], ["sudo", "podman", "ps"], values) == [
        *("sudo", "podman", "ps")
    ]


def test_distrobox_export_writes_entries_of_our_command(monkeypatch):
    monkeypatch.setenv("HOME", "/home/a b")
    assert exporting(Path("/usr/bin/toolbox")) == []
    assert exporting(Path("/usr/bin/distrobox-enter")) == [
        "--additional-flags",
        "--env 'DISTROBOX_ENTER_PATH=/home/a b/.local/bin/distrobox-enter'",
    ]


async def test_a_program_is_found_in_path_and_not_as_our_command():
    async with world(image=False) as w:
        w.environ["HOME"] = str(w.base)
        env = _with_distrobox(w)
        assert (await brokerctl("launcher", "install", "distrobox", env=env)).code == 0
        env["PATH"] = f"{w.base}/.local/bin:{env['PATH']}"
        real = w.base / "bin/distrobox-enter"
        real.unlink()
        real.write_text('#!/bin/sh\necho "the original: $*" >&2; exit 7\n')
        real.chmod(0o755)
        answer = await brokerctl("launcher", "exec", "distrobox", real.name, env=env)
        assert answer.code == 7, answer
        assert "the original: --additional-flags" in answer.err
        missing = await brokerctl("launcher", "exec", "distrobox", "wrong", env=env)
        assert missing.code == 2
        assert "does not exist" in missing.err
