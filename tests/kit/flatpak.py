"""Tiny Flatpak applications, made offline of this machine's own programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.helpers.process.spawn import DEVNULL, spawn
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections

PROGRAMS = (
    *("foot", "sh", "sleep", "timeout", "paplay", "wl-copy", "wl-paste"),
    *("cat", "ls", "env", "ln", "mkdir"),
)
PYTHON = "/usr/bin/python3"
LAUNCH = (
    'kind = "flatpak"',
    'app = "org.example.Foot"',
    'bind_read_write = ["{folder}"]',
)
"""Of the record of the first application."""
_SHARE = (
    *("share/fonts/truetype/dejavu", "share/terminfo", "share/X11/xkb"),
    *("share/fontconfig", "lib/python3.11", "lib/locale/C.utf8"),
)
_RUNTIME = """\
[Runtime]
name=org.example.Platform
runtime=org.example.Platform/x86_64/1
sdk=org.example.Platform/x86_64/1
"""
_APP = """\
[Application]
name={name}
runtime=org.example.Platform/x86_64/1
command={command}
[Context]
shared=ipc;network;
sockets=x11;wayland;pulseaudio;fallback-x11;
devices=all;
filesystems={files}
{policy}"""


_ENTRY = """\
[Desktop Entry]
Type=Application
Name={word}
Exec={command} -T menu sleep 1000 %U
MimeType=text/plain;
"""


@asynccontextmanager
async def applications(
    base: Path,
    environ: dict[str, str],
    *,
    command: str = "foot",
    policy: str = "",
    **apps: str,
):
    """Install applications for one test, with a separate session bus.

    ``command`` is their program, ``policy`` further groups of their
    permissions.  ``apps`` maps the last word of an ID below org.example to its
    filesystems.
    ``environ`` has XDG_DATA_HOME below ``base``, and gets the bus's address.
    Skips where Flatpak cannot run.
    """
    wanted = ("flatpak", "ostree", "bwrap", "dbus-daemon", *PROGRAMS, command)
    missing = [name for name in wanted if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    address = f"unix:path={base}/bus"
    bus = spawn(
        ["dbus-daemon", "--session", "--nofork", "--nopidfile", "--address", address],
        env=environ,
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    environ["DBUS_SESSION_BUS_ADDRESS"] = address
    # Installing wants a system bus; nothing on it is asked for here.
    environ["DBUS_SYSTEM_BUS_ADDRESS"] = address
    try:
        await eventually(lambda: takes_connections(base / "bus"))
        words = (apps, command, policy)
        await trio.to_thread.run_sync(_install, base, environ, *words)
        yield
    finally:
        bus.kill()
        await bus.wait()


def _install(
    base: Path,
    environ: dict[str, str],
    apps: dict[str, str],
    command: str,
    policy: str,
) -> None:
    made = base / "flatpak-build"
    _runtime(made / "rt", {*PROGRAMS, command})
    repo = str(made / "repo")
    build = ("flatpak", "build-export", "--no-update-summary")
    _run(environ, *build, "--runtime", repo, str(made / "rt"), "1")
    for word, files in apps.items():
        app = made / word
        (app / "files" / "bin").mkdir(parents=True)
        menu = app / "export" / "share" / "applications"
        menu.mkdir(parents=True)
        name = f"org.example.{word}"
        entry = _ENTRY.format(word=word, command=command)
        (menu / f"{name}.desktop").write_text(entry)
        (app / "metadata").write_text(
            _APP.format(name=name, files=files, command=command, policy=policy)
        )
        _run(environ, *build, repo, str(app), "1")
    _run(environ, "flatpak", "build-update-repo", repo)
    user = ("flatpak", "--user")
    _run(environ, *user, "remote-add", "--no-gpg-verify", "lab", f"file://{repo}")
    for word in apps:
        words = ("install", "-y", "--noninteractive", "lab", f"org.example.{word}//1")
        _run(environ, *user, *words)
    shutil.rmtree(made)


def _run(environ: dict[str, str], *words: str) -> None:
    done = subprocess.run(
        words, check=False, env=environ, capture_output=True, text=True, timeout=240
    )
    if "Creating new namespace failed" in done.stderr:
        pytest.skip("user namespaces are not allowed here")
    assert done.returncode == 0, done.stderr


def _runtime(target: Path, names: set[str]) -> None:
    """The programs, their libraries, and what foot needs to show a window."""
    usr = target / "usr"
    (usr / "bin").mkdir(parents=True)
    (target / "files").mkdir()
    (target / "metadata").write_text(_RUNTIME)
    programs = [Path(shutil.which(name)) for name in names]
    if Path(PYTHON).exists():
        programs.append(Path(PYTHON))
    for program in programs:
        real = program.resolve()
        shutil.copy(real, usr / "bin" / program.name)
        for library in _libraries(real):
            place = "lib64" if "ld-linux" in library.name else "lib/x86_64-linux-gnu"
            (usr / place).mkdir(parents=True, exist_ok=True)
            shutil.copy(library.resolve(), usr / place / library.name)
    ignored = shutil.ignore_patterns(
        "__pycache__", "test", "idlelib", "ensurepip", "tkinter", "config-*"
    )
    for name in _SHARE:
        if Path("/usr", name).is_dir():
            shutil.copytree(
                Path("/usr", name), usr / name, symlinks=True, ignore=ignored
            )
    shutil.copytree("/etc/fonts", usr / "etc" / "fonts")


def _libraries(program: Path) -> list[Path]:
    found = subprocess.run(
        ["ldd", program], check=True, capture_output=True, text=True, timeout=60
    )
    words = found.stdout.split()
    return [Path(word) for word in words if word.startswith("/")]


def environment(w) -> dict[str, str]:
    """Give a world's environment a separate Flatpak installation; returns it."""
    w.environ["XDG_DATA_HOME"] = str(w.base / "data")
    w.environ["HOME"] = str(w.base)
    w.environ.setdefault("PATH", os.environ["PATH"])
    return w.environ
