"""A real Flatpak application: framed in each of its instances, and closed in besides."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from broker.helpers.process.spawn import DEVNULL, spawn
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.flatpak import LAUNCH, applications, environment
from tests.kit.needs import PID_NAMESPACES
from tests.kit.records import shown_record
from tests.kit.sound.servers import hearing, needs, sound_server, tone
from tests.kit.wayland.compositor import wait_frames, wait_window, windows
from tests.kit.world import world

pytestmark = [PID_NAMESPACES, pytest.mark.long]
ORANGE = (0xE6, 0x9F, 0x00)
APP, OTHER = "org.example.Foot", "org.example.Other"
RECORD = shown_record(*LAUNCH, colour="orange", tables='[audio]\nplayback = "allow"\n')
PROBE = """
import os, socket, sys
def tried(name, path):
    try:
        socket.socket(socket.AF_UNIX).connect(path)
    except OSError as error:
        print(name, type(error).__name__)
    else:
        print(name, "connected")
tried("compositor", sys.argv[1])
tried("control", sys.argv[2])
tried("abstract", "\\0" + sys.argv[3])
tried("own", os.environ["WAYLAND_DISPLAY"])
tried("sound", os.environ["XDG_RUNTIME_DIR"] + "/pulse/native")
try:
    os.unlink(os.environ["WAYLAND_DISPLAY"])
except OSError as error:
    print("unlink", error.errno)
print("alsa", os.path.exists("/dev/snd"))
print("display", os.environ.get("DISPLAY"))
print("network", len(os.listdir("/sys/class/net")) if os.path.exists("/sys/class/net") else 0)
print("home", os.path.exists(sys.argv[4]))
"""
CONNECT = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.settimeout(60)
sys.exit(0 if sock.recv(1) == b"" else 3)
"""


def plain(w, app, *words, program="python3"):
    """Start an instance as a person or the menu does: not by brokerctl."""
    return subprocess.Popen(
        ["flatpak", "run", "--die-with-parent", f"--command={program}", app, *words],
        env=w.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def finished(child):
    return await trio.to_thread.run_sync(child.communicate)


async def test_every_instance_is_framed_and_no_other_application_gets_in():
    # The broker has no session bus here: notifications would cover the window.
    async with world(image=False) as w:
        env = environment(w)
        folder = w.base / "shared"
        folder.mkdir()
        async with applications(
            w.base, env, Foot="host;xdg-run/wayland-1;", Other="xdg-run/vitrail;"
        ):
            w.write_record("term", RECORD.format(folder=folder))
            words = ("run", "-q", "--flatpak", APP, "--", "-T", "flat", "sleep", "1000")
            async with running(*words, env=env):
                await wait_window(w.comp, title="flat")
                await wait_frames(w.comp, {"[term] flat": {ORANGE}})
                shown = Path(os.environ.get("VITRAIL_OUT") or ".") / "launchers"
                shown.mkdir(parents=True, exist_ok=True)
                await w.comp.screenshot(shown / "flatpak.png")
                begin = await w.only_event("lease.begin")
                assert begin["sandbox"] == "term"
                assert begin["peer"].startswith(f"Flatpak {APP} at ")
                answer = await brokerctl(*words, env=env)
                assert answer.code == 1
                assert "is already running" in answer.err
                await _second_instance(w)
                await _reaches(w)
                await _of_another_application(w)
                answer = await brokerctl("stop", "term", env=env)
                assert answer.code == 0, answer
                await w.wait_event("lease.end", sandbox="term")

            async def gone():
                return windows(await w.comp.tree()) == []

            await eventually(gone)
            assert list((w.paths.runtime / "launch").glob("*")) == []
            await _closed_until_removed(w)


async def _second_instance(w):
    """Started by 'flatpak run' as it is: the override holds for it."""
    second = plain(w, APP, "-T", "second", "sleep", "1000", program="foot")
    try:
        await wait_window(w.comp, title="second")
        both = {"[term] flat": {ORANGE}, "[term] second": {ORANGE}}
        await wait_frames(w.comp, both)
    finally:
        second.kill()
        await finished(second)


async def _reaches(w):
    abstract = f"vitrail-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + abstract)
        listener.listen()
        probe = plain(
            w,
            APP,
            *("-c", PROBE, str(w.comp.display), str(w.paths.control), abstract),
            str(w.paths.state),
        )
        out, err = await finished(probe)
    assert probe.returncode == 0, err
    found = dict(line.split() for line in out.splitlines())
    assert found == {
        "compositor": "FileNotFoundError",
        "control": "FileNotFoundError",
        "abstract": "ConnectionRefusedError",
        "own": "connected",
        "sound": "FileNotFoundError",
        "unlink": "30",
        "alsa": "False",
        "display": "None",
        "network": found["network"],
        "home": "False",
    }


async def _of_another_application(w):
    """Its files show it the directory, and the kernel says who connects."""
    (sockets,) = (w.paths.runtime / "launch").glob("*/s")
    other = plain(w, OTHER, "-c", CONNECT, str(sockets / "wayland-0"))
    out, err = await finished(other)
    assert other.returncode == 0, (out, err)
    refused = await w.wait_event("stream.refused")
    assert f"is not an instance of {APP}" in refused["reason"]


async def _closed_until_removed(w):
    override = w.base / "data" / "flatpak" / "overrides" / APP
    child = plain(w, APP, "-T", "bare", "true", program="foot")
    _, err = await finished(child)
    assert child.returncode != 0, err
    answer = await brokerctl(
        "launcher", "remove", "flatpak", "--app", APP, env=w.environ
    )
    assert answer.code == 0, answer
    assert not override.exists()


async def test_the_menu_starts_it_by_vitrail_once_installed():
    async with world(image=False) as w:
        env = environment(w)
        # Entries name the program that the person's PATH names.
        env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
        folder = w.base / "shared"
        folder.mkdir()
        async with applications(w.base, env, Foot="", Other=""):
            w.write_record("term", RECORD.format(folder=folder))
            install = ("launcher", "install", "flatpak", "--app")
            answer = await brokerctl(*install, "org.example.None", env=env)
            assert answer.code == 1
            assert "cannot find the Flatpak application" in answer.err
            answer = await brokerctl(*install, APP, env=env)
            assert answer.code == 0, answer
            entry = w.base / "data" / "applications" / f"{APP}.desktop"
            assert str(entry) in answer.err
            # Before a first run, too, it has no display by itself.
            child = plain(w, APP, "-T", "bare", "true", program="foot")
            _, err = await finished(child)
            assert child.returncode != 0, err
            # The application has its output, so none of our pipes.
            gio = spawn(
                ["gio", "launch", str(entry)], env=env, stdout=DEVNULL, stderr=DEVNULL
            )
            await gio.wait()
            await wait_window(w.comp, title="menu")
            await wait_frames(w.comp, {"[term] menu": {ORANGE}})
            answer = await brokerctl("stop", "term", env=env)
            assert answer.code == 0, answer
            await w.wait_event("lease.end", sandbox="term")
            remove = ("launcher", "remove", "flatpak", "--app", APP)
            answer = await brokerctl(*remove, env=env)
            assert answer.code == 0, answer
            assert not entry.exists()
            assert not (w.base / "data" / "flatpak" / "overrides" / APP).exists()


async def test_a_tone_is_heard_and_a_killed_run_leaves_the_application_closed():
    needs("pipewire")
    async with (
        sound_server("pipewire") as server,
        world(image=False, start=False) as w,
    ):
        env = environment(w)
        w.environ["PULSE_SERVER"] = f"unix:{server.socket}"
        folder = w.base / "shared"
        folder.mkdir()
        await w.start()
        async with applications(w.base, env, Foot=""):
            w.write_record("term", RECORD.format(folder=folder))
            wav = tone(folder / "tone.wav", 700, 2)
            (folder / "play").write_text(f"exec paplay {wav}\n")
            async with hearing(server) as heard:
                words = ("run", "-q", "--flatpak", APP, "sh", str(folder / "play"))
                async with running(*words, env=env) as child:
                    closed = await w.wait_event(
                        "stream.closed", service="vitrail.Audio", deadline=90
                    )
                    assert closed["sandbox"] == "term"
                    child.kill()
                    await child.wait()
            assert abs(heard.hertz - 700) < 2, heard.hertz
            await w.wait_event("lease.end", sandbox="term")
            override = w.base / "data" / "flatpak" / "overrides" / APP
            assert "!wayland;" in override.read_text()
